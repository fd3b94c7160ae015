#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "binned.hpp"
#include "interrupt.hpp"
#include "problem.hpp"

namespace layermerge {

struct BinnedArc {
    std::int32_t tail;
    std::int32_t id;
    std::int64_t bins;
    double value;
    std::size_t index;  // in the problem's order
};

// The arcs of a problem with their latencies in bins, but for those that another arc between the
// same positions dominates.
class BinnedArcs {
 public:
    BinnedArcs(const Problem& problem, const BinnedOptions& options, Interrupt& interrupt);

    // By tail.
    std::span<const BinnedArc> into(std::int32_t head) const {
        const std::size_t first = first_[std::size_t(head)];
        return std::span(arcs_).subspan(first, first_[std::size_t(head) + 1] - first);
    }

 private:
    void drop_dominated(std::size_t begin);

    std::vector<BinnedArc> arcs_;
    std::vector<std::size_t> first_;
};

}  // namespace layermerge
