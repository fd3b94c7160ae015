#include "label_search.hpp"

#include <tuple>

namespace layermerge {
namespace {

// Labels at a position, completed by any of the longest paths `onwards`, must attain the target.
BoundLines bound_lines(const Bounds& bounds, const LaneLabel& onwards,
                       const LabelSearch::Target& target) {
    BoundLines lines;
    for (std::size_t l = 0; l < lanes; ++l) {
        const double multiplier = bounds.multiplier()[l];
        lines.slope[l] = multiplier / target.unit;
        lines.intercept[l] = (onwards.score[l] + multiplier * bounds.budget_ns() - target.value +
                              bounds.tolerance()) /
                             target.unit;
    }
    return lines;
}

}  // namespace

void LabelSearch::assign(std::span<const UnitArc> arcs, std::int32_t last) {
    arcs_ = arcs;
    last_ = last;
    const std::size_t positions = std::size_t(last) + 1;
    steps_on_.first.assign(positions + 1, 0);
    steps_back_.first.assign(positions + 1, 0);
    for (const UnitArc& arc : arcs) {
        ++steps_on_.first[std::size_t(arc.head) + 1];
        ++steps_back_.first[std::size_t(arc.tail) + 1];
    }
    for (std::size_t j = 0; j < positions; ++j) {
        steps_on_.first[j + 1] += steps_on_.first[j];
        steps_back_.first[j + 1] += steps_back_.first[j];
    }
    steps_on_.steps.clear();
    steps_back_.steps.resize(arcs.size());
    std::vector<std::size_t> next(steps_back_.first.begin(), steps_back_.first.end() - 1);
    for (const UnitArc& arc : arcs) {
        steps_on_.steps.push_back({arc.tail, arc.by});
        steps_back_.steps[next[std::size_t(arc.tail)]++] = {arc.head, arc.by};
    }
}

bool LabelSearch::expand(const Bounds& bounds, const Target& target, const Limits& limits,
                         Interrupt& interrupt) {
    from_start_.start(last_ + 1, 0);
    from_end_.start(last_ + 1, last_);
    cut_ = 0;
    bool complete = true;
    for (std::int32_t end = last_; cut_ + 1 < end;) {
        const auto on = steps_on_.into(cut_ + 1), back = steps_back_.into(end - 1);
        const std::size_t more_on = from_start_.reachable(on);
        const std::size_t more_back = from_end_.reachable(back);
        const std::size_t more = std::min(more_on, more_back);
        if (labels() + more > limits.labels) return false;
        if (more_on <= more_back) {
            ++cut_;
            const LaneLabel& onwards = bounds.suffixes()[std::size_t(cut_)];
            const BoundLines lines = bound_lines(bounds, onwards, target);
            complete &= from_start_.extend(cut_, on, &lines, limits.width, interrupt);
        } else {
            --end;
            const LaneLabel& onwards = bounds.prefixes()[std::size_t(end)];
            const BoundLines lines = bound_lines(bounds, onwards, target);
            complete &= from_end_.extend(end, back, &lines, limits.width, interrupt);
        }
        interrupt.work(64);
    }
    return complete;
}

// For each label before the arc, the slowest after it that the budget allows is of most value.
void LabelSearch::join(const UnitArc& arc, std::int64_t budget_ns, Interrupt& interrupt) {
    std::size_t after = from_end_.size(arc.head);
    for (std::size_t b = 0; b < from_start_.size(arc.tail) && after > 0; ++b) {
        const Label before = from_start_.label(arc.tail, b);
        const std::int64_t left = budget_ns - before.latency_ns - arc.by.latency_ns;
        for (; after > 0 && from_end_.label(arc.head, after - 1).latency_ns > left; --after)
            interrupt.work(4);
        interrupt.work(4);
        if (after == 0) return;
        const Label rest = from_end_.label(arc.head, after - 1);
        const Label total{before.latency_ns + arc.by.latency_ns + rest.latency_ns,
                          before.value + arc.by.value + rest.value};
        if (!meetings_.empty() &&
            std::tie(total.value, best_.latency_ns) < std::tie(best_.value, total.latency_ns))
            continue;
        if (meetings_.empty() || total != best_) meetings_.clear();
        best_ = total;
        meetings_.push_back({&arc, before, rest});
    }
}

std::vector<std::size_t> LabelSearch::path(Interrupt& interrupt) {
    TiedPaths paths(arcs_, steps_on_.first);
    for (const Meeting& meeting : meetings_) {
        paths.add(meeting.arc->tail, meeting.before);
        paths.add(meeting.arc->head,
                  {best_.latency_ns - meeting.after.latency_ns, best_.value - meeting.after.value});
    }
    paths.trace_back(from_start_, cut_, interrupt);
    paths.trace_on(from_end_, cut_, best_, interrupt);
    return paths.best(interrupt);
}

LabelSearch::Outcome LabelSearch::run(const Bounds& bounds, const Target& target,
                                      const Limits& limits, Interrupt& interrupt) {
    Outcome outcome;
    meetings_.clear();
    outcome.complete = expand(bounds, target, limits, interrupt);
    if (!outcome.complete && limits.width >= limits.labels) return outcome;
    for (const UnitArc& arc : arcs_)
        if (arc.tail <= cut_ && arc.head > cut_) join(arc, target.budget_ns, interrupt);
    if (meetings_.empty()) return outcome;
    const bool is_better = double(best_.value) * target.unit > target.known;
    if (!is_better && target.value > target.known) return outcome;
    outcome.best = best_;
    outcome.path = path(interrupt);
    return outcome;
}

}  // namespace layermerge
