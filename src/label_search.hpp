#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bounds.hpp"
#include "labels.hpp"
#include "tied_paths.hpp"

namespace layermerge {

// Looks for the best path on few arcs with exact integers: labels from both ends of the axis,
// always where fewer are to be made, joined where they meet.
class LabelSearch {
 public:
    struct Target {
        double value;  // paths below may be missed
        double known;  // of a path: another is of interest if it is worth more, or if the target is
                       // not
        double unit;   // of the labels' values
        std::int64_t budget_ns;
    };
    struct Limits {
        std::size_t labels;  // in memory
        std::size_t width;   // at each position
    };
    struct Outcome {
        bool complete = false;          // no path of the target's value was missed
        Label best{};                   // of all that were found, with its path
        std::vector<std::size_t> path;  // none if none is of interest
    };

    // Arcs by head on positions 0..last.
    void assign(std::span<const UnitArc> arcs, std::int32_t last);

    // The path found has, of all that attain the best label, fewest arcs, then the
    // lexicographically smallest ids.
    Outcome run(const Bounds& bounds, const Target& target, const Limits& limits,
                Interrupt& interrupt);

    std::size_t labels() const { return from_start_.stored() + from_end_.stored(); }

 private:
    struct Meeting {
        const UnitArc* arc;
        Label before, after;
    };

    bool expand(const Bounds& bounds, const Target& target, const Limits& limits,
                Interrupt& interrupt);
    void join(const UnitArc& arc, std::int64_t budget_ns, Interrupt& interrupt);
    std::vector<std::size_t> path(Interrupt& interrupt);

    std::span<const UnitArc> arcs_;
    std::int32_t last_ = 0;
    Steps steps_on_, steps_back_;
    LabelLists from_start_, from_end_;
    std::int32_t cut_ = 0;  // from_start_ lists positions up to here, from_end_ those beyond
    Label best_{};
    std::vector<Meeting> meetings_;
};

}  // namespace layermerge
