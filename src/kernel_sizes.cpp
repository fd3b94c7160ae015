#include "kernel_sizes.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <string>

#include "text.hpp"

namespace layermerge {
namespace {

struct Growth {
    std::int32_t h = 0;
    std::int32_t w = 0;

    auto operator<=>(const Growth&) const = default;
};

// The best set of kept layers that grows the kernel so, among the layers from some layer on.
struct State {
    Growth growth;
    std::int32_t layers = 0;
    std::int64_t norm = 0;

    bool operator==(const State&) const = default;
    bool better_than(const State& other) const {
        return norm != other.norm ? norm > other.norm : layers > other.layers;
    }
};

using States = std::vector<State>;  // by growth

enum Kind : std::size_t { mixed = 0, depthwise = 1 };
using Level = std::array<States, 2>;  // by kind: are all kept layers depthwise?

void check_length(std::size_t got, std::size_t layers, const char* name) {
    if (got != layers)
        throw std::invalid_argument(
            text(name, " must have as many elements as growth_h = ", layers, ", got ", got));
}

void check_growth(std::span<const std::int32_t> growth, const char* name) {
    std::int64_t total = 0;
    for (std::size_t l = 0; l < growth.size(); ++l) {
        if (growth[l] < 0)
            throw std::invalid_argument(text(name, "[", l, "] must be >= 0, got ", growth[l]));
        total += growth[l];
        if (total >= std::numeric_limits<std::int32_t>::max())
            throw std::invalid_argument(
                text(name, "[", l, "] = ", growth[l], " makes the merged kernel larger than 2^31"));
    }
}

void check(const SegmentLayers& layers, MaxKernel max_kernel) {
    if (layers.size() == 0) throw std::invalid_argument("growth_h must not be empty");
    check_length(layers.growth_w.size(), layers.size(), "growth_w");
    check_length(layers.weight_l1.size(), layers.size(), "weight_l1");
    check_length(layers.irreducible.size(), layers.size(), "irreducible");
    check_length(layers.depthwise.size(), layers.size(), "depthwise");
    check_growth(layers.growth_h, "growth_h");
    check_growth(layers.growth_w, "growth_w");
    for (std::size_t l = 0; l < layers.size(); ++l)
        if (!(layers.weight_l1[l] >= 0) || std::isinf(layers.weight_l1[l]))
            throw std::invalid_argument(
                text("weight_l1[", l, "] must be finite and >= 0, got ", layers.weight_l1[l]));
    if (max_kernel.h < 1)
        throw std::invalid_argument(text("max_kernel_h must be >= 1, got ", max_kernel.h));
    if (max_kernel.w < 1)
        throw std::invalid_argument(text("max_kernel_w must be >= 1, got ", max_kernel.w));
}

// Both sorted by growth; of two states of one growth the better stays.
States best_of(const States& a, const States& b) {
    States merged;
    merged.reserve(a.size() + b.size());
    auto i = a.begin();
    auto j = b.begin();
    while (i != a.end() && j != b.end()) {
        if (i->growth == j->growth) {
            merged.push_back(j->better_than(*i) ? *j : *i);
            ++i, ++j;
        } else {
            merged.push_back(i->growth < j->growth ? *i++ : *j++);
        }
    }
    merged.insert(merged.end(), i, a.end());
    merged.insert(merged.end(), j, b.end());
    return merged;
}

class Search {
 public:
    Search(const SegmentLayers& layers, MaxKernel max_kernel, Interrupt& interrupt)
        : layers_(layers),
          max_growth_{max_kernel.h - 1, max_kernel.w - 1},
          levels_(layers.size() + 1) {
        scale_norms();
        levels_.back()[depthwise] = {State{}};
        for (std::size_t l = layers_.size(); l-- > 0;) {
            levels_[l] = level_before(l);
            interrupt.work(4 * (levels_[l][mixed].size() + levels_[l][depthwise].size()));
        }
    }

    KernelSizes entries() const {
        KernelSizes found;
        const States& mixed_sets = levels_[0][mixed];
        const States& depthwise_sets = levels_[0][depthwise];
        auto next = depthwise_sets.begin();
        for (const State& state : mixed_sets) {
            for (; next != depthwise_sets.end() && next->growth < state.growth; ++next)
                add(found, *next, depthwise);
            add(found, state, mixed);
        }
        for (; next != depthwise_sets.end(); ++next) add(found, *next, depthwise);
        return found;
    }

 private:
    void scale_norms() {
        double total = 0;
        for (const double norm : layers_.weight_l1) total += norm;
        if (std::isinf(total)) throw std::invalid_argument("weight_l1 must have a finite sum");
        int exponent = 0;
        std::frexp(total, &exponent);
        exponent_ = exponent - 62;
        for (const double norm : layers_.weight_l1)
            norms_.push_back(std::llrint(std::ldexp(norm, -exponent_)));
    }

    Level level_before(std::size_t l) const {
        const Level& after = levels_[l + 1];
        Level level;
        if (!layers_.irreducible[l]) level = after;
        if (layers_.depthwise[l]) {
            level[depthwise] = best_of(level[depthwise], with(l, after[depthwise]));
            level[mixed] = best_of(level[mixed], with(l, after[mixed]));
        } else {
            level[mixed] = best_of(level[mixed], with(l, best_of(after[mixed], after[depthwise])));
        }
        return level;
    }

    States with(std::size_t l, const States& after) const {
        States kept;
        kept.reserve(after.size());
        for (const State& state : after) {
            const Growth growth{state.growth.h + layers_.growth_h[l],
                                state.growth.w + layers_.growth_w[l]};
            if (growth.h <= max_growth_.h && growth.w <= max_growth_.w)
                kept.push_back({growth, state.layers + 1, state.norm + norms_[l]});
        }
        return kept;
    }

    State without(std::size_t l, const State& state) const {
        return {{state.growth.h - layers_.growth_h[l], state.growth.w - layers_.growth_w[l]},
                state.layers - 1,
                state.norm - norms_[l]};
    }

    bool has(std::size_t l, Kind kind, const State& state) const {
        const States& states = levels_[l][kind];
        const auto found = std::lower_bound(
            states.begin(), states.end(), state.growth,
            [](const State& each, const Growth& growth) { return each.growth < growth; });
        return found != states.end() && *found == state;
    }

    void add(KernelSizes& found, const State& state, Kind kind) const {
        if (state.layers == 0) return;  // nothing kept is no convolution
        found.kernel_h.push_back(1 + state.growth.h);
        found.kernel_w.push_back(1 + state.growth.w);
        found.is_depthwise.push_back(kind == depthwise);
        found.weight_l1.push_back(std::ldexp(double(state.norm), exponent_));
        append_kept(found.kept, state, kind);
    }

    // Finds the lexicographically smallest of the equally good sets: keep each layer that can be
    // kept. Before a kept layer that is not depthwise, sets of either kind may continue it.
    void append_kept(std::vector<std::uint8_t>& kept, State state, Kind kind) const {
        std::array<bool, 2> kinds = {kind == mixed, kind == depthwise};
        for (std::size_t l = 0; l < layers_.size(); ++l) {
            const State rest = without(l, state);
            std::array<bool, 2> keeping = {kinds[mixed], kinds[mixed]};
            if (layers_.depthwise[l]) keeping = kinds;
            for (const Kind each : {mixed, depthwise})
                keeping[each] = keeping[each] && has(l + 1, each, rest);
            const bool keep = keeping[mixed] || keeping[depthwise];
            kept.push_back(keep);
            if (keep) {
                kinds = keeping;
                state = rest;
            } else {
                for (const Kind each : {mixed, depthwise})
                    kinds[each] = kinds[each] && has(l + 1, each, state);
            }
        }
    }

    const SegmentLayers& layers_;
    Growth max_growth_;
    std::vector<std::int64_t> norms_;  // in units of 2^exponent_
    int exponent_ = 0;
    std::vector<Level> levels_;  // levels_[l]: sets among the layers l, l + 1, ...
};

}  // namespace

KernelSizes kernel_sizes(const SegmentLayers& layers, MaxKernel max_kernel, Interrupt interrupt) {
    check(layers, max_kernel);
    return Search(layers, max_kernel, interrupt).entries();
}

}  // namespace layermerge
