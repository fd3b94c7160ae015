#pragma once

#include <cstddef>
#include <span>

namespace layermerge {

// Cells are computed in whole blocks: as many as a few rounds of vector registers hold.
constexpr std::size_t max_plus_block = 64;

struct MaxPlusTerm {
    std::ptrdiff_t offset;
    double value;
};

// best[t] = max over terms of cells[offset + t] + value, for t in [begin, end), a whole number of
// blocks; minus infinity without terms. What is read and what is written must not overlap.
void max_plus(double* best, const double* cells, std::span<const MaxPlusTerm> terms,
              std::size_t begin, std::size_t end);

}  // namespace layermerge
