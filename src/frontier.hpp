#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "interrupt.hpp"
#include "problem.hpp"

namespace layermerge {

struct FrontierOptions {
    std::size_t max_points = std::numeric_limits<std::size_t>::max();
    double epsilon = 0;
    std::size_t memory_limit_bytes = std::size_t{2} << 30;
};

// Latency and value of paths, both rising: the path of a point is that of solve_exact with the
// point's latency as budget.
struct Frontier {
    std::vector<std::int64_t> latency_ns;
    std::vector<double> value;
    // With any budget, the best path is worth at most this more than the best point within it.
    double error = 0;
};

// The paths that no other path dominates, for all budgets.
//
// With epsilon = 0 and without max_points, all of them: non-dominated labels are merged from
// position to position. Throws std::invalid_argument if the labels exceed the memory limit.
// Otherwise exact solves, each at the middle of the budgets between the two neighbouring points of
// most different value, until no two differ by more than epsilon or there are max_points.
Frontier frontier(const Problem& problem, const FrontierOptions& options, Interrupt interrupt = {});

}  // namespace layermerge
