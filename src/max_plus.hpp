#pragma once

#include <cstddef>

namespace layermerge {

// best[t] = max(best[t], before[t] + value) for t < count; the ranges may not overlap.
void max_plus(double* best, const double* before, double value, std::size_t count);

}  // namespace layermerge
