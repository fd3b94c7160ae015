#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "interrupt.hpp"

namespace layermerge {

// No path meets the budget; least_latency_ns is the latency of the fastest one.
class InfeasibleError : public std::runtime_error {
 public:
    InfeasibleError(const std::string& message, std::int64_t least_latency_ns)
        : std::runtime_error(message), least_latency_ns_(least_latency_ns) {}

    std::int64_t least_latency_ns() const noexcept { return least_latency_ns_; }

 private:
    std::int64_t least_latency_ns_;
};

// Consecutive arcs from position 0 to the last one, by the ids they were given with.
struct Path {
    std::vector<std::int32_t> arcs;
    double value = 0;  // summed from position 0 on
    std::int64_t latency_ns = 0;
};

// The arcs into one position, by (tail, id): parallel arcs lie side by side.
struct IncomingArcs {
    std::span<const std::int32_t> tail;
    std::span<const std::int32_t> id;
    std::span<const std::int64_t> latency_ns;
    std::span<const double> value;

    std::size_t size() const noexcept { return tail.size(); }
};

// Latency and value of every arc, in the order (head, tail, id): position -> pairs -> options.
struct Options {
    std::span<const std::size_t> first_pair;  // of each head; one more at the end
    std::span<const std::int32_t> tail;       // of each pair
    std::span<const std::size_t> first;       // option of each pair; one more at the end
    std::span<const std::int64_t> latency_ns;
    std::span<const double> value;

    std::int32_t last_position() const noexcept { return std::int32_t(first_pair.size()) - 2; }
    std::size_t pairs() const noexcept { return tail.size(); }
    std::size_t size() const noexcept { return latency_ns.size(); }
};

// A directed acyclic graph on positions 0..last with parallel arcs: each arc is a segment
// (tail, head] replaced by one candidate, of which it has the latency and the value. An arc's id is
// its index in the arrays given. Immutable, so threads may share it.
//
// Positions at which no arc begins or ends are left out, and the others numbered anew from 0 on:
// what comes after needs time and memory for positions that matter only.
//
// Throws std::invalid_argument, naming the argument and the value, unless 0 <= tail < head,
// latency_ns >= 0, the values are finite, the last position can be reached, and every path's
// latency and value can be summed without overflow.
class Problem {
 public:
    static constexpr std::int32_t max_position = 1 << 24;

    Problem(std::span<const std::int32_t> tail, std::span<const std::int32_t> head,
            std::span<const std::int64_t> latency_ns, std::span<const double> value,
            Interrupt interrupt = {});

    std::int32_t last_position() const noexcept { return last_position_; }
    // A position as it was given.
    std::int32_t given(std::int32_t position) const {
        return given_.empty() ? position : given_[std::size_t(position)];
    }
    std::size_t arc_count() const noexcept { return tail_.size(); }
    std::int64_t least_latency_ns() const noexcept { return least_latency_ns_; }
    // No path is slower; from position 0 to any, no sum of |value| is larger.
    std::int64_t most_latency_ns() const noexcept { return most_latency_ns_; }
    double most_magnitude() const noexcept { return most_magnitude_; }

    // Throws std::invalid_argument for a negative budget, InfeasibleError for one no path meets.
    void check_budget(std::int64_t budget_ns) const;

    Options options() const noexcept {
        return {first_pair_, pair_tail_, pair_first_, latency_ns_, value_};
    }
    IncomingArcs incoming(std::int32_t head) const;
    // Index of a position's first incoming arc, among all arcs by (head, tail, id).
    std::size_t first_incoming(std::int32_t head) const { return first_[std::size_t(head)]; }

    std::int32_t id(std::size_t index) const noexcept { return id_[index]; }
    // The path through these arcs, given as indices in the order (head, tail, id).
    Path path(std::span<const std::size_t> indices) const;

 private:
    std::string unreachable_message(std::span<const std::int64_t> fastest) const;
    void append_arcs(const std::int32_t* order, std::span<const std::int32_t> tail,
                     std::span<const std::int64_t> latency_ns, std::span<const double> value,
                     Interrupt& interrupt);
    void find_pairs(Interrupt& interrupt);
    void check_paths(Interrupt& interrupt);

    std::int32_t last_position_ = 0;
    std::int64_t least_latency_ns_ = 0;
    std::int64_t most_latency_ns_ = 0;
    double most_magnitude_ = 0;
    std::vector<std::int32_t> given_;  // none if all positions matter
    std::vector<std::size_t> first_;
    std::vector<std::int32_t> tail_;
    std::vector<std::int32_t> id_;
    std::vector<std::int64_t> latency_ns_;
    std::vector<double> value_;
    std::vector<std::size_t> first_pair_;
    std::vector<std::int32_t> pair_tail_;
    std::vector<std::size_t> pair_first_;
};

}  // namespace layermerge
