#include "problem.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "text.hpp"

namespace layermerge {
namespace {

constexpr std::int64_t unreached = std::numeric_limits<std::int64_t>::max();

using Order = std::unique_ptr<std::int32_t[]>;

void check_sizes(std::size_t tail, std::size_t head, std::size_t latency_ns, std::size_t value) {
    if (head != tail || latency_ns != tail || value != tail)
        throw std::invalid_argument(
            text("tail, head, latency_ns and value must be of one length, got ", tail, ", ", head,
                 ", ", latency_ns, " and ", value));
    if (tail == 0) throw std::invalid_argument("there must be at least one arc, got none");
    if (tail > std::size_t(std::numeric_limits<std::int32_t>::max()))
        throw std::invalid_argument(text("there may be at most 2^31 - 1 arcs, got ", tail));
}

void check_arc(std::size_t a, std::int32_t tail, std::int32_t head, std::int64_t latency_ns,
               double value) {
    if (tail < 0) throw std::invalid_argument(text("tail[", a, "] must be >= 0, got ", tail));
    if (head <= tail)
        throw std::invalid_argument(
            text("head[", a, "] must be > tail[", a, "] = ", tail, ", got ", head));
    if (head > Problem::max_position)
        throw std::invalid_argument(
            text("head[", a, "] must be <= ", Problem::max_position, ", got ", head));
    if (latency_ns < 0)
        throw std::invalid_argument(text("latency_ns[", a, "] must be >= 0, got ", latency_ns));
    if (!std::isfinite(value))
        throw std::invalid_argument(text("value[", a, "] must be finite, got ", value));
}

// Where each key's first place is when sorted by key, which runs from 0 to last; one more at the
// end.
std::vector<std::size_t> first_places(std::span<const std::int32_t> key, std::int32_t last,
                                      Interrupt& interrupt) {
    std::vector<std::size_t> first(std::size_t(last) + 2, 0);
    interrupt.in_stretches(key.size(), 2, [&](std::size_t begin, std::size_t end) {
        for (std::size_t a = begin; a < end; ++a) ++first[std::size_t(key[a]) + 1];
    });
    std::partial_sum(first.begin(), first.end(), first.begin());
    return first;
}

// Indices 0..n-1 stably sorted by key, in the order given or else their own; a counting sort from
// the first place of each key.
Order sorted_by(std::span<const std::int32_t> key, std::vector<std::size_t> next,
                const std::int32_t* order, Interrupt& interrupt) {
    Order sorted = std::make_unique_for_overwrite<std::int32_t[]>(key.size());
    interrupt.in_stretches(key.size(), 16, [&](std::size_t begin, std::size_t end) {
        for (std::size_t k = begin; k < end; ++k) {
            const std::int32_t a = order ? order[k] : std::int32_t(k);
            sorted[next[std::size_t(key[std::size_t(a)])]++] = a;
        }
    });
    return sorted;
}

// The positions at which an arc begins or ends, rising; none if those are all from 0 to last.
std::vector<std::int32_t> used_positions(std::span<const std::int32_t> tail,
                                         std::span<const std::int32_t> head, std::int32_t last,
                                         Interrupt& interrupt) {
    std::vector<bool> is_used(std::size_t(last) + 1);
    interrupt.in_stretches(tail.size(), 4, [&](std::size_t begin, std::size_t end) {
        for (std::size_t a = begin; a < end; ++a)
            is_used[std::size_t(tail[a])] = is_used[std::size_t(head[a])] = true;
    });
    is_used[0] = true;
    std::vector<std::int32_t> used;
    if (std::find(is_used.begin(), is_used.end(), false) == is_used.end()) return used;
    for (std::int32_t position = 0; position <= last; ++position)
        if (is_used[std::size_t(position)]) used.push_back(position);
    return used;
}

// Of each position, its place among those used.
std::vector<std::int32_t> places(std::span<const std::int32_t> positions,
                                 std::span<const std::int32_t> used, Interrupt& interrupt) {
    std::vector<std::int32_t> place(std::size_t(used.back()) + 1);
    for (std::size_t k = 0; k < used.size(); ++k) place[std::size_t(used[k])] = std::int32_t(k);
    std::vector<std::int32_t> found(positions.size());
    interrupt.in_stretches(positions.size(), 4, [&](std::size_t begin, std::size_t end) {
        for (std::size_t a = begin; a < end; ++a) found[a] = place[std::size_t(positions[a])];
    });
    return found;
}

}  // namespace

Problem::Problem(std::span<const std::int32_t> tail, std::span<const std::int32_t> head,
                 std::span<const std::int64_t> latency_ns, std::span<const double> value,
                 Interrupt interrupt) {
    check_sizes(tail.size(), head.size(), latency_ns.size(), value.size());
    interrupt.in_stretches(tail.size(), 4, [&](std::size_t begin, std::size_t end) {
        for (std::size_t a = begin; a < end; ++a) {
            check_arc(a, tail[a], head[a], latency_ns[a], value[a]);
            last_position_ = std::max(last_position_, head[a]);
        }
    });
    given_ = used_positions(tail, head, last_position_, interrupt);
    std::vector<std::int32_t> tail_places, head_places;
    if (!given_.empty()) {
        tail = tail_places = places(tail, given_, interrupt);
        head = head_places = places(head, given_, interrupt);
        last_position_ = std::int32_t(given_.size()) - 1;
    }
    const Order by_tail =
        sorted_by(tail, first_places(tail, last_position_, interrupt), nullptr, interrupt);
    first_ = first_places(head, last_position_, interrupt);
    const Order by_head = sorted_by(head, first_, by_tail.get(), interrupt);
    append_arcs(by_head.get(), tail, latency_ns, value, interrupt);
    find_pairs(interrupt);
    check_paths(interrupt);
}

void Problem::append_arcs(const std::int32_t* order, std::span<const std::int32_t> tail,
                          std::span<const std::int64_t> latency_ns, std::span<const double> value,
                          Interrupt& interrupt) {
    id_.reserve(tail.size());
    tail_.reserve(tail.size());
    latency_ns_.reserve(tail.size());
    value_.reserve(tail.size());
    interrupt.in_stretches(tail.size(), 32, [&](std::size_t begin, std::size_t end) {
        for (std::size_t k = begin; k < end; ++k) {
            const auto a = std::size_t(order[k]);
            id_.push_back(order[k]);
            tail_.push_back(tail[a]);
            latency_ns_.push_back(latency_ns[a]);
            value_.push_back(value[a]);
        }
    });
}

void Problem::find_pairs(Interrupt& interrupt) {
    first_pair_.reserve(first_.size());
    for (std::size_t j = 0; j + 1 < first_.size(); ++j) {
        first_pair_.push_back(pair_tail_.size());
        for (std::size_t a = first_[j]; a < first_[j + 1]; ++a)
            if (a == first_[j] || tail_[a] != tail_[a - 1]) {
                pair_tail_.push_back(tail_[a]);
                pair_first_.push_back(a);
            }
        interrupt.work(1 + 2 * (first_[j + 1] - first_[j]));
    }
    first_pair_.push_back(pair_tail_.size());
    pair_first_.push_back(tail_.size());
}

void Problem::check_paths(Interrupt& interrupt) {
    const std::size_t positions = std::size_t(last_position_) + 1;
    std::vector<std::int64_t> fastest(positions, unreached);
    std::vector<std::int64_t> slowest(positions, 0);
    std::vector<double> largest(positions, 0);  // sum of |value|
    fastest[0] = 0;
    for (std::int32_t j = 1; j <= last_position_; ++j) {
        const IncomingArcs in = incoming(j);
        const std::size_t to = std::size_t(j);
        interrupt.work(8 * in.size());
        for (std::size_t a = 0; a < in.size(); ++a) {
            const std::size_t from = std::size_t(in.tail[a]);
            if (fastest[from] == unreached) continue;
            // Strictly below the maximum, which stands for unreached.
            if (in.latency_ns[a] >= unreached - slowest[from])
                throw std::invalid_argument(
                    text("latency_ns[", in.id[a], "] = ", in.latency_ns[a],
                         " makes the slowest path to position ", given(j),
                         " take 2^63 - 1 nanoseconds or more: are the latencies in nanoseconds?"));
            fastest[to] = std::min(fastest[to], fastest[from] + in.latency_ns[a]);
            slowest[to] = std::max(slowest[to], slowest[from] + in.latency_ns[a]);
            largest[to] = std::max(largest[to], largest[from] + std::fabs(in.value[a]));
            if (std::isinf(largest[to]))
                throw std::invalid_argument(text("value[", in.id[a], "] = ", in.value[a],
                                                 " makes the values of a path to position ",
                                                 given(j), " sum to infinity"));
        }
    }
    if (fastest.back() == unreached) throw std::invalid_argument(unreachable_message(fastest));
    least_latency_ns_ = fastest.back();
    most_latency_ns_ = slowest.back();
    most_magnitude_ = *std::max_element(largest.begin(), largest.end());
}

std::string Problem::unreachable_message(std::span<const std::int64_t> fastest) const {
    const auto gap = std::find(fastest.begin(), fastest.end(), unreached);
    const auto reached = std::find_if(fastest.rbegin(), fastest.rend(),
                                      [](std::int64_t ns) { return ns != unreached; });
    return text("no sequence of segments leads from position 0 to position ", given(last_position_),
                ": position ", given(std::int32_t(gap - fastest.begin())),
                " is the first that cannot be reached, and position ",
                given(std::int32_t(fastest.rend() - reached - 1)),
                " the last that can. Add the segments that are missing between them");
}

void Problem::check_budget(std::int64_t budget_ns) const {
    if (budget_ns < 0) throw std::invalid_argument(text("budget_ns must be >= 0, got ", budget_ns));
    if (budget_ns < least_latency_ns_)
        throw InfeasibleError(
            text("no plan meets the budget of ", milliseconds(budget_ns),
                 ": the least achievable latency is ", milliseconds(least_latency_ns_),
                 ". Raise the budget to at least that"),
            least_latency_ns_);
}

IncomingArcs Problem::incoming(std::int32_t head) const {
    const std::size_t first = first_[std::size_t(head)];
    const std::size_t count = first_[std::size_t(head) + 1] - first;
    return {std::span(tail_).subspan(first, count), std::span(id_).subspan(first, count),
            std::span(latency_ns_).subspan(first, count), std::span(value_).subspan(first, count)};
}

Path Problem::path(std::span<const std::size_t> indices) const {
    Path path;
    for (const std::size_t index : indices) {
        path.arcs.push_back(id_[index]);
        path.value += value_[index];
        path.latency_ns += latency_ns_[index];
    }
    return path;
}

}  // namespace layermerge
