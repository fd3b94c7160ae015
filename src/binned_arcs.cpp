#include "binned_arcs.hpp"

#include <algorithm>
#include <limits>
#include <tuple>

namespace layermerge {
namespace {

std::int64_t in_bins(std::int64_t ns, const BinnedOptions& options) {
    const bool partial = options.rounding == Rounding::up && ns % options.bin_ns != 0;
    return ns / options.bin_ns + (partial ? 1 : 0);
}

}  // namespace

BinnedArcs::BinnedArcs(const Problem& problem, const BinnedOptions& options, Interrupt& interrupt) {
    arcs_.reserve(problem.arc_count());
    first_ = {0, 0};
    for (std::int32_t j = 1; j <= problem.last_position(); ++j) {
        const IncomingArcs in = problem.incoming(j);
        std::size_t pair = arcs_.size();
        for (std::size_t a = 0; a < in.size(); ++a) {
            arcs_.push_back({in.tail[a], in.id[a], in_bins(in.latency_ns[a], options), in.value[a],
                             problem.first_incoming(j) + a});
            if (a + 1 < in.size() && in.tail[a + 1] == in.tail[a]) continue;
            drop_dominated(pair);
            pair = arcs_.size();
        }
        first_.push_back(arcs_.size());
        interrupt.work(32 * in.size());  // divisions and sorting
    }
}

// Of parallel arcs, only those of more value than every arc of as few bins can be on the best path.
void BinnedArcs::drop_dominated(std::size_t begin) {
    const auto first = arcs_.begin() + std::ptrdiff_t(begin);
    std::sort(first, arcs_.end(), [](const BinnedArc& a, const BinnedArc& b) {
        return std::tie(a.bins, b.value, a.id) < std::tie(b.bins, a.value, b.id);
    });
    double best = -std::numeric_limits<double>::infinity();
    const auto dominated = [&best](const BinnedArc& arc) {
        if (arc.value <= best) return true;
        best = arc.value;
        return false;
    };
    auto kept = first;
    for (auto arc = first; arc != arcs_.end(); ++arc)
        if (!dominated(*arc)) *kept++ = *arc;
    arcs_.erase(kept, arcs_.end());
}

}  // namespace layermerge
