#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "interrupt.hpp"
#include "label_array.hpp"
#include "lanes.hpp"

namespace layermerge {

// An arc as one end of a list of labels sees it: labels at `from` lead on, grown by `by`.
struct Step {
    std::int32_t from;
    Label by;
};

// Steps into each position.
struct Steps {
    std::vector<std::size_t> first;  // of each position; one more at the end
    std::vector<Step> steps;

    std::span<const Step> into(std::int32_t position) const {
        const std::size_t begin = first[std::size_t(position)];
        return std::span(steps).subspan(begin, first[std::size_t(position) + 1] - begin);
    }
};

// A label is worth extending if value + min over l of (intercept[l] - slope[l] latency) >= 0. The
// slopes ascend, and over them the lines are convex: so along rising latencies the least line moves
// to larger slopes only.
struct BoundLines {
    std::array<double, lanes> intercept;
    std::array<double, lanes> slope;
};

// Of each position, the labels that no other dominates, by rising latency and value.
//
// The labels that lead to a position are merged window by window of latencies, so that what is
// merged is in the cache. In a window, a first look at all labels gives for each of many short
// stretches of latency the most that any faster label is worth, the floor; only labels above it,
// about one in ten of those that many steps lead to, are merged at all.
class LabelLists {
 public:
    // One label at the origin, none elsewhere.
    void start(std::int32_t positions, std::int32_t origin);

    // Labels that the steps lead to, before any is dropped.
    std::size_t reachable(std::span<const Step> steps) const;

    // Lists the labels at a position: extended from lists that are complete, bounded if lines are
    // given, and at most `width`: thinned if lines are given, else broken off. False if a label
    // worth extending may be missing.
    bool extend(std::int32_t position, std::span<const Step> steps, const BoundLines* lines,
                std::size_t width, Interrupt& interrupt);

    std::size_t size(std::int32_t position) const { return list(position).count; }
    Label label(std::int32_t position, std::size_t index) const;
    bool contains(std::int32_t position, Label label) const;
    std::size_t stored() const { return labels_.size(); }

 private:
    // Stored labels, all grown by one label: a position with one step into it stores none.
    struct List {
        std::size_t begin = 0;
        std::size_t count = 0;
        Label by{};
    };

    // Labels of one list grown by one step; those of the window are [next, stop).
    struct Run {
        std::size_t next, stop, end;
        Label by;
    };

    const List& list(std::int32_t position) const { return lists_[std::size_t(position)]; }
    void start_runs(std::span<const Step> steps);
    bool merge_all(const BoundLines* lines, std::size_t width, Interrupt& interrupt);
    std::size_t open_window(std::int64_t end_ns);
    void set_floor(std::int64_t begin_ns, std::int64_t end_ns, std::int64_t most);
    void gather(const Run& run);
    void gather_above_floor(const Run& run, std::int64_t begin_ns);
    void drop_hopeless(std::size_t begin, const BoundLines& lines);
    void merge_gathered();
    void merge(std::size_t begin, std::size_t middle, std::size_t end);
    std::int64_t append_gathered(std::int64_t most);
    void thin(std::size_t begin, const BoundLines& lines, std::size_t width);

    std::vector<List> lists_;
    LabelArray labels_;
    std::vector<Run> runs_;
    LabelArray gathered_, merged_;
    std::vector<std::size_t> ends_, merged_ends_;  // of each sorted run of the gathered labels
    std::vector<std::int64_t> floor_;
    int floor_shift_ = 0;
};

}  // namespace layermerge
