#pragma once

#include <cstddef>
#include <cstdint>

#include "interrupt.hpp"
#include "problem.hpp"

namespace layermerge {

enum class Rounding {
    up,     // a path never exceeds the budget
    floor,  // as the authors' code does: a path may exceed the budget
};

struct BinnedOptions {
    std::int64_t bin_ns = 0;
    Rounding rounding = Rounding::up;
    std::size_t memory_limit_bytes = std::size_t{2} << 30;
};

struct BinnedSolution : Path {
    std::size_t updates = 0;  // cells compared: bins of arcs
};

// The paper's dynamic programme over latency bins: the path of largest value whose latency, counted
// in bins, is at most floor(budget_ns / bin_ns). O(arcs x bins) time, O(positions x bins) memory.
//
//   M[j, t] = max over arcs a into j of M[tail(a), t - T(a)] + value(a),   M[0, t] = 0
//
// Ties: larger value (summed from position 0 on, in double), then fewer bins, then fewer arcs, then
// the lexicographically smallest arc ids.
//
// Throws InfeasibleError, and std::invalid_argument for a budget < 0, a bin < 1 or tables larger
// than the memory limit.
BinnedSolution solve_binned(const Problem& problem, std::int64_t budget_ns,
                            const BinnedOptions& options, Interrupt interrupt = {});

}  // namespace layermerge
