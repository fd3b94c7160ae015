#include "kernel_sizes.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
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

// What is kept: nothing, depthwise layers alone, or any layers.
enum Kind : std::size_t { nothing, mixed, depthwise, num_kinds };

Kind kind_of(Kind a, Kind b) {
    if (a == nothing) return b;
    if (b == nothing) return a;
    return a == depthwise && b == depthwise ? depthwise : mixed;
}

// The best set of kept layers of its kind that grows the kernel so.
struct State {
    Growth growth;
    Kind kind = nothing;
    std::int32_t layers = 0;
    std::int64_t norm = 0;
    std::size_t set = 0;  // where its bits begin; bits of layer 0 first, from the highest
};

using States = std::vector<State>;  // by growth and kind, one of each

struct Branch {
    States states;
    bool has_layers = false;
    bool may_lose_layers = true;  // whatever the largest kernel is

    // What is left of it without its layers, if it may be without them and fits.
    std::optional<State> without_layers() const {
        const auto found = std::find_if(states.begin(), states.end(),
                                        [](const State& state) { return state.kind == nothing; });
        return found == states.end() ? std::nullopt : std::optional(*found);
    }
};

// A union of two sets, not built yet.
struct Union {
    State state;
    std::size_t a = 0;
    std::size_t b = 0;
};

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

class Search {
 public:
    Search(const SegmentLayers& layers, MaxKernel max_kernel, Interrupt& interrupt)
        : layers_(layers),
          max_growth_{max_kernel.h - 1, max_kernel.w - 1},
          interrupt_(interrupt),
          words_((layers.size() + 63) / 64),
          sets_(words_) {
        scale_norms();
    }

    KernelSizes entries(std::span<const std::int32_t> program) {
        if (program.empty()) {
            push_layer(0);
            for (std::size_t l = 1; l < layers_.size(); ++l) {
                push_layer(l);
                combine(structure::series, l);
            }
        }
        for (std::size_t place = 0; place < program.size(); ++place) run(program, place);
        if (operands_.size() != 1)
            throw std::invalid_argument(
                text("program must leave one operand, got ", operands_.size()));
        return listed(operands_.back().states);
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

    void run(std::span<const std::int32_t> program, std::size_t place) {
        const std::int32_t code = program[place];
        const auto layers = std::int64_t(layers_.size());
        if (code >= layers || code < structure::identity - layers)
            throw std::invalid_argument(text("program[", place, "] must be the index l of one of ",
                                             layers, " layers, -5 - l, or -1..-4, got ", code));
        if (code >= 0)
            push_layer(std::size_t(code));
        else if (code <= structure::identity)
            push_window(code);
        else
            combine(code, place);
    }

    void push_window(std::int32_t code) {
        State state;
        if (code != structure::identity) {
            const auto l = std::size_t(structure::first_window - code);
            state.growth = {layers_.growth_h[l], layers_.growth_w[l]};
        }
        operands_.push_back({fits(state.growth) ? States{state} : States{}, false, true});
    }

    void push_layer(std::size_t l) {
        Branch branch;
        branch.has_layers = true;
        branch.may_lose_layers = !layers_.irreducible[l];
        if (!layers_.irreducible[l]) branch.states.push_back({});
        const Growth growth{layers_.growth_h[l], layers_.growth_w[l]};
        if (fits(growth)) {
            const Kind kind = layers_.depthwise[l] ? depthwise : mixed;
            branch.states.push_back({growth, kind, 1, norms_[l], sets_.size()});
            sets_.resize(sets_.size() + words_);
            sets_[branch.states.back().set + l / 64] = std::uint64_t{1} << (63 - l % 64);
        }
        operands_.push_back(std::move(branch));
    }

    void combine(std::int32_t code, std::size_t place) {
        if (operands_.size() < 2)
            throw std::invalid_argument(text("program[", place, "] joins two operands, but only ",
                                             operands_.size(), " stand before it"));
        Branch b = std::move(operands_.back());
        operands_.pop_back();
        Branch a = std::move(operands_.back());
        operands_.pop_back();
        const bool has_layers = a.has_layers || b.has_layers;
        const bool is_sum = code == structure::sum;
        const bool may_lose_layers =
            (a.may_lose_layers && b.may_lose_layers) || (is_sum && !(a.has_layers && b.has_layers));
        operands_.push_back(
            {is_sum ? sums(a, b) : unions(a, b, code), has_layers, may_lose_layers});
    }

    // A branch that keeps none of its layers leaves the sum, and grows nothing. If neither keeps
    // any, the second one stays, without them.
    States sums(Branch& a, Branch& b) {
        const bool both = a.has_layers && b.has_layers;
        const auto neither =
            both && a.may_lose_layers ? b.without_layers() : std::optional<State>();
        allow_dropping(a);
        allow_dropping(b);
        States states = unions(a, b, structure::sum);
        if (!both) return states;
        std::erase_if(states, [](const State& state) { return state.kind == nothing; });
        if (neither)
            states.insert(std::find_if(states.begin(), states.end(),
                                       [&](const State& s) { return s.growth >= neither->growth; }),
                          *neither);
        return states;
    }

    static void allow_dropping(Branch& branch) {
        if (!branch.has_layers) return;
        std::erase_if(branch.states, [](const State& state) { return state.kind == nothing; });
        branch.states.insert(branch.states.begin(), State{});
    }

    States unions(const Branch& a, const Branch& b, std::int32_t code) {
        std::vector<Union> found;
        found.reserve(a.states.size() * b.states.size());
        for (const State& x : a.states)
            for (const State& y : b.states) {
                const Growth growth = joined(x.growth, y.growth, code);
                if (!fits(growth)) continue;
                const State state{growth, kind_of(x.kind, y.kind), x.layers + y.layers,
                                  x.norm + y.norm, 0};
                found.push_back({state, x.set, y.set});
            }
        interrupt_.work(4 * found.size() + 1);
        std::sort(found.begin(), found.end(),
                  [&](const Union& x, const Union& y) { return comes_before(x, y); });
        States best;
        for (const Union& each : found)
            if (best.empty() || best.back().growth != each.state.growth ||
                best.back().kind != each.state.kind)
                best.push_back(built(each));
        return best;
    }

    static Growth joined(const Growth& a, const Growth& b, std::int32_t code) {
        if (code == structure::series) return {a.h + b.h, a.w + b.w};
        return {std::max(a.h, b.h), std::max(a.w, b.w)};
    }

    bool fits(const Growth& growth) const {
        return growth.h <= max_growth_.h && growth.w <= max_growth_.w;
    }

    bool comes_before(const Union& x, const Union& y) const {
        if (x.state.growth != y.state.growth) return x.state.growth < y.state.growth;
        if (x.state.kind != y.state.kind) return x.state.kind < y.state.kind;
        if (x.state.norm != y.state.norm) return x.state.norm > y.state.norm;
        if (x.state.layers != y.state.layers) return x.state.layers > y.state.layers;
        // Of two sets of one size, the list with the first layer that the other lacks is smaller.
        for (std::size_t w = 0; w < words_; ++w) {
            const std::uint64_t of_x = sets_[x.a + w] | sets_[x.b + w];
            const std::uint64_t of_y = sets_[y.a + w] | sets_[y.b + w];
            if (of_x != of_y) return of_x > of_y;
        }
        return false;
    }

    State built(const Union& found) {
        State state = found.state;
        if (state.layers == 0) return state;  // the empty set lies at 0
        state.set = sets_.size();
        sets_.resize(sets_.size() + words_);
        for (std::size_t w = 0; w < words_; ++w)
            sets_[state.set + w] = sets_[found.a + w] | sets_[found.b + w];
        return state;
    }

    KernelSizes listed(const States& states) const {
        KernelSizes found;
        for (const State& state : states) {
            found.kernel_h.push_back(1 + state.growth.h);
            found.kernel_w.push_back(1 + state.growth.w);
            found.is_depthwise.push_back(state.kind == depthwise);
            found.weight_l1.push_back(std::ldexp(double(state.norm), exponent_));
            for (std::size_t l = 0; l < layers_.size(); ++l)
                found.kept.push_back((sets_[state.set + l / 64] >> (63 - l % 64)) & 1);
        }
        return found;
    }

    const SegmentLayers& layers_;
    Growth max_growth_;
    Interrupt& interrupt_;
    std::size_t words_;                // of one set
    std::vector<std::uint64_t> sets_;  // one after the other, the empty one first
    std::vector<std::int64_t> norms_;  // in units of 2^exponent_
    int exponent_ = 0;
    std::vector<Branch> operands_;
};

}  // namespace

KernelSizes kernel_sizes(const SegmentLayers& layers, std::span<const std::int32_t> program,
                         MaxKernel max_kernel, Interrupt interrupt) {
    check(layers, max_kernel);
    return Search(layers, max_kernel, interrupt).entries(program);
}

}  // namespace layermerge
