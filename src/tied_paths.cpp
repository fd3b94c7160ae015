#include "tied_paths.hpp"

#include <algorithm>
#include <tuple>

namespace layermerge {
namespace {

Label difference(const Label& a, const Label& b) {
    return {a.latency_ns - b.latency_ns, a.value - b.value};
}

Label sum(const Label& a, const Label& b) {
    return {a.latency_ns + b.latency_ns, a.value + b.value};
}

auto order(const Label& label) {
    return std::tie(label.latency_ns, label.value);
}

}  // namespace

std::span<const UnitArc> TiedPaths::into(std::int32_t head) const {
    const std::size_t begin = first_into_[std::size_t(head)];
    return arcs_.subspan(begin, first_into_[std::size_t(head) + 1] - begin);
}

void TiedPaths::make_unique(std::vector<State>& states) {
    std::sort(states.begin(), states.end(),
              [](const State& a, const State& b) { return order(a.label) < order(b.label); });
    states.erase(std::unique(states.begin(), states.end(),
                             [](const State& a, const State& b) { return a.label == b.label; }),
                 states.end());
}

TiedPaths::State* TiedPaths::find(std::vector<State>& states, Label label) {
    const auto found =
        std::lower_bound(states.begin(), states.end(), label,
                         [](const State& s, const Label& l) { return order(s.label) < order(l); });
    return found != states.end() && found->label == label ? &*found : nullptr;
}

void TiedPaths::add(std::int32_t position, Label label) {
    at(position).push_back({label});
}

void TiedPaths::trace_back(const LabelLists& from_start, std::int32_t cut, Interrupt& interrupt) {
    for (std::int32_t j = cut; j >= 1; --j) {
        make_unique(at(j));
        for (const UnitArc& arc : into(j))
            for (const State& state : at(j)) {
                const Label before = difference(state.label, arc.by);
                if (from_start.contains(arc.tail, before)) add(arc.tail, before);
            }
        interrupt.work(16 * into(j).size() * at(j).size());
    }
    make_unique(at(0));
}

void TiedPaths::trace_on(const LabelLists& from_end, std::int32_t cut, Label total,
                         Interrupt& interrupt) {
    for (std::int32_t j = cut + 1; j < std::int32_t(states_.size()); ++j) {
        for (const UnitArc& arc : into(j)) {
            if (arc.tail <= cut) continue;
            for (const State& state : at(arc.tail)) {
                const Label after = sum(state.label, arc.by);
                if (from_end.contains(j, difference(total, after))) add(j, after);
            }
            interrupt.work(16 * at(arc.tail).size());
        }
        make_unique(at(j));
    }
}

std::vector<std::size_t> TiedPaths::best(Interrupt& interrupt) {
    const std::int32_t last = std::int32_t(states_.size()) - 1;
    for (State& state : at(last)) state.arcs_to_go = 0;
    for (std::int32_t j = last; j >= 1; --j) {
        for (const UnitArc& arc : into(j))
            for (const State& state : at(j)) {
                if (state.arcs_to_go < 0) continue;
                State* const before = find(at(arc.tail), difference(state.label, arc.by));
                if (!before) continue;
                const std::int32_t to_go = state.arcs_to_go + 1;
                if (before->arcs_to_go >= 0 &&
                    std::tie(before->arcs_to_go, before->id) < std::tie(to_go, arc.id))
                    continue;
                before->arcs_to_go = to_go;
                before->id = arc.id;
                before->arc = &arc;
            }
        interrupt.work(16 * into(j).size() * at(j).size());
    }
    std::vector<std::size_t> path;
    Label label{};
    for (std::int32_t j = 0; j != last;) {
        const UnitArc& arc = *find(at(j), label)->arc;
        path.push_back(arc.index);
        label = sum(label, arc.by);
        j = arc.head;
    }
    return path;
}

}  // namespace layermerge
