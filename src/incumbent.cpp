#include "incumbent.hpp"

#include <algorithm>

namespace layermerge {
namespace {

constexpr double nothing = -std::numeric_limits<double>::infinity();

// The option of options [begin, end) that leads from one label to the other in a lane: the sums are
// computed as they were by the longest paths, so equality is exact.
std::optional<std::size_t> connecting(const Options& options, std::size_t pair,
                                      const LaneLabel& from, const LaneLabel& to, std::size_t lane,
                                      double multiplier) {
    for (std::size_t o = options.first[pair]; o < options.first[pair + 1]; ++o) {
        const double ns = double(options.latency_ns[o]);
        const double score = options.value[o] - multiplier * ns;
        if (score + from.score[lane] == to.score[lane] &&
            ns + from.latency_ns[lane] == to.latency_ns[lane])
            return o;
    }
    return {};
}

}  // namespace

void Incumbent::cross_positions(Interrupt& interrupt) {
    for (std::int32_t j = 0; j <= bounds_.all().last_position(); ++j) {
        join(j, j, none, 0, 0);
        interrupt.work(lanes * lanes);
    }
}

void Incumbent::insert(std::int32_t tail, std::int32_t head, std::size_t arc) {
    join(tail, head, arc, double(bounds_.all().latency_ns[arc]), bounds_.all().value[arc]);
}

void Incumbent::join(std::int32_t tail, std::int32_t head, std::size_t arc, double latency_ns,
                     double value) {
    const LaneLabel& before = bounds_.prefixes()[std::size_t(tail)];
    const LaneLabel& after = bounds_.suffixes()[std::size_t(head)];
    const Lanes& multiplier = bounds_.multiplier();
    const Lanes after_value = after.score + multiplier * after.latency_ns;
    for (std::size_t l = 0; l < lanes; ++l) {
        const double before_ns = before.latency_ns[l] + latency_ns;
        const double before_value = before.score[l] + multiplier[l] * before.latency_ns[l] + value;
        const Lanes total_ns = after.latency_ns + before_ns;
        const Lanes joined = after_value + before_value;
        for (std::size_t m = 0; m < lanes; ++m)
            if (total_ns[m] <= bounds_.budget_ns() && joined[m] > value_) {
                value_ = joined[m];
                tail_ = tail, head_ = head, arc_ = arc;
                prefix_lane_ = l, suffix_lane_ = m;
            }
    }
}

std::optional<std::vector<std::size_t>> Incumbent::path() const {
    if (value_ == nothing) return {};
    std::vector<std::size_t> path;
    trace_prefix(path);
    std::reverse(path.begin(), path.end());
    if (arc_ != none) path.push_back(arc_);
    trace_suffix(path);
    return path;
}

void Incumbent::trace_prefix(std::vector<std::size_t>& path) const {
    const Options options = bounds_.envelope().options();
    const LaneLabels& labels = bounds_.prefixes();
    for (std::int32_t j = tail_; j != 0;) {
        const std::size_t end = options.first_pair[std::size_t(j) + 1];
        for (std::size_t p = options.first_pair[std::size_t(j)]; p < end; ++p) {
            const std::int32_t i = options.tail[p];
            const auto option =
                connecting(options, p, labels[std::size_t(i)], labels[std::size_t(j)], prefix_lane_,
                           bounds_.multiplier()[prefix_lane_]);
            if (!option) continue;
            path.push_back(bounds_.envelope().index(*option));
            j = i;
            break;
        }
    }
}

void Incumbent::trace_suffix(std::vector<std::size_t>& path) const {
    const Options options = bounds_.envelope().options();
    const LaneLabels& labels = bounds_.suffixes();
    for (std::int32_t i = head_, j = head_ + 1; i != options.last_position(); ++j) {
        const auto begin =
            options.tail.begin() + std::ptrdiff_t(options.first_pair[std::size_t(j)]);
        const auto end =
            options.tail.begin() + std::ptrdiff_t(options.first_pair[std::size_t(j) + 1]);
        const auto found = std::lower_bound(begin, end, i);
        if (found == end || *found != i) continue;
        const auto option =
            connecting(options, std::size_t(found - options.tail.begin()), labels[std::size_t(j)],
                       labels[std::size_t(i)], suffix_lane_, bounds_.multiplier()[suffix_lane_]);
        if (!option) continue;
        path.push_back(bounds_.envelope().index(*option));
        i = j;
    }
}

}  // namespace layermerge
