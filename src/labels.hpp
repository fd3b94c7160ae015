#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "interrupt.hpp"
#include "lanes.hpp"

namespace layermerge {

// What a partial path costs and earns, in nanoseconds and in units of value: exact integers.
struct Label {
    std::int64_t latency_ns;
    std::int64_t value;

    bool operator==(const Label&) const = default;
};

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
class LabelLists {
 public:
    // One label at the origin, none elsewhere.
    void start(std::int32_t positions, std::int32_t origin);

    // Labels that the steps lead to, before any is dropped.
    std::size_t reachable(std::span<const Step> steps) const;

    // Lists the labels at a position: extended from lists that are complete, bounded if lines are
    // given, and thinned to at most `width`. False if a label worth extending may be missing.
    bool extend(std::int32_t position, std::span<const Step> steps, const BoundLines* lines,
                std::size_t width);

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

    const List& list(std::int32_t position) const { return lists_[std::size_t(position)]; }
    void gather(const List& from, const Label& by, const BoundLines* lines);
    void merge_runs();
    void merge(std::size_t begin, std::size_t middle, std::size_t end);
    void thin(const BoundLines* lines, std::size_t width);

    std::vector<List> lists_;
    std::vector<Label> labels_;
    std::vector<Label> gathered_, merged_;
    std::vector<std::size_t> runs_;  // where each sorted run of the gathered labels ends
};

}  // namespace layermerge
