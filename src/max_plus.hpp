#pragma once

#include <cstddef>
#include <span>

namespace layermerge {

struct MaxPlusTerm {
    const double* before;
    double value;
};

// best[t] = max(best[t], before[t] + value) for t < count; no term may overlap best.
void max_plus(double* best, MaxPlusTerm term, std::size_t count);

// The same for all terms at once, with best kept in registers.
void max_plus(double* best, std::span<const MaxPlusTerm> terms, std::size_t count);

}  // namespace layermerge
