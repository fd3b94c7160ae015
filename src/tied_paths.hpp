#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "interrupt.hpp"
#include "labels.hpp"

namespace layermerge {

// An arc of which the value is in units; `id` decides between equal paths.
struct UnitArc {
    std::int32_t tail;
    std::int32_t head;
    std::int32_t id;
    Label by;
    std::size_t index;  // in the problem's order
};

// All paths of one latency and one value that lead through given labels: found again by matching
// the labels exactly, so that labels need no predecessors.
class TiedPaths {
 public:
    // Arcs by head; first_into[j] is the first into position j.
    TiedPaths(std::span<const UnitArc> arcs, std::span<const std::size_t> first_into)
        : arcs_(arcs), first_into_(first_into), states_(first_into.size() - 1) {}

    // A label, counted from position 0, through which some of the paths lead.
    void add(std::int32_t position, Label label);

    // Follows the paths from the positions <= cut back to 0, and from those above it to the end
    // (where `total` is the label), through the listed labels: counted from 0, and from the end.
    void trace_back(const LabelLists& from_start, std::int32_t cut, Interrupt& interrupt);
    void trace_on(const LabelLists& from_end, std::int32_t cut, Label total, Interrupt& interrupt);

    // The path of fewest arcs, then of lexicographically smallest ids, as indices.
    std::vector<std::size_t> best(Interrupt& interrupt);

 private:
    struct State {
        Label label;
        std::int32_t arcs_to_go = -1;
        std::int32_t id = 0;
        const UnitArc* arc = nullptr;
    };

    std::span<const UnitArc> into(std::int32_t head) const;
    std::vector<State>& at(std::int32_t position) { return states_[std::size_t(position)]; }
    static void make_unique(std::vector<State>& states);
    static State* find(std::vector<State>& states, Label label);

    std::span<const UnitArc> arcs_;
    std::span<const std::size_t> first_into_;
    std::vector<std::vector<State>> states_;
};

}  // namespace layermerge
