#include "exact.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "incumbent.hpp"
#include "text.hpp"

namespace layermerge {
namespace {

constexpr std::int64_t unreached = std::numeric_limits<std::int64_t>::max();

// As indices in the problem's order.
std::vector<std::size_t> fastest_path(const Problem& problem, Interrupt& interrupt) {
    const Options options = problem.options();
    const std::size_t positions = std::size_t(problem.last_position()) + 1;
    std::vector<std::int64_t> least_ns(positions, unreached);
    std::vector<std::size_t> last_option(positions), from(positions);
    least_ns[0] = 0;
    for (std::size_t j = 1; j < positions; ++j)
        for (std::size_t p = options.first_pair[j]; p < options.first_pair[j + 1]; ++p) {
            const std::size_t i = std::size_t(options.tail[p]);
            if (least_ns[i] == unreached) continue;
            for (std::size_t o = options.first[p]; o < options.first[p + 1]; ++o)
                if (least_ns[i] + options.latency_ns[o] < least_ns[j]) {
                    least_ns[j] = least_ns[i] + options.latency_ns[o];
                    last_option[j] = o, from[j] = i;
                }
            interrupt.work(4 * (options.first[p + 1] - options.first[p]));
        }
    std::vector<std::size_t> path;
    for (std::size_t j = positions - 1; j != 0; j = from[j]) path.push_back(last_option[j]);
    std::reverse(path.begin(), path.end());
    return path;
}

}  // namespace

Solution ExactSolver::solve(std::int64_t budget_ns, const ExactOptions& options,
                            Interrupt interrupt) {
    const auto began = std::chrono::steady_clock::now();
    if (!(options.gap >= 0))
        throw std::invalid_argument(text("gap must be >= 0, got ", options.gap));
    bounds_.assign(problem_, budget_ns, interrupt);
    start(budget_ns, interrupt);
    if (!close_enough(options) || options.gap == 0) {
        find_core(interrupt);
        search(options, interrupt);
    }
    if (!solution_.ties_resolved)
        solution_.optimal = upper_ - solution_.path.value <= bounds_.tolerance();
    solution_.upper_bound =
        solution_.ties_resolved ? solution_.path.value : std::max(upper_, solution_.path.value);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    solution_.seconds = took.count();
    return solution_;
}

void ExactSolver::start(std::int64_t budget_ns, Interrupt& interrupt) {
    budget_ns_ = std::min(budget_ns, problem_.most_latency_ns());
    upper_ = bounds_.upper();
    solution_ = {};
    best_.clear();
    Incumbent incumbent(bounds_);
    incumbent.cross_positions(interrupt);
    if (const auto path = incumbent.path()) take(*path);
    if (best_.empty()) take(fastest_path(problem_, interrupt));
}

// Latencies of incumbents are summed in double: beyond 2^53 ns they may exceed the budget.
void ExactSolver::take(const std::vector<std::size_t>& indices) {
    Path path = problem_.path(indices);
    if (path.latency_ns > budget_ns_) return;
    if (!best_.empty() && path.value <= solution_.path.value) return;
    best_ = indices;
    solution_.path = std::move(path);
}

void ExactSolver::find_core(Interrupt& interrupt) {
    core_.clear();
    Incumbent incumbent(bounds_);
    const double target = solution_.path.value - bounds_.tolerance();
    surviving_pairs(bounds_, target, pairs_, interrupt);
    const Options& all = bounds_.all();
    for (const SurvivingPair& pair : pairs_) {
        for (std::size_t o = all.first[pair.index]; o < all.first[pair.index + 1]; ++o) {
            const double ns = double(all.latency_ns[o]);
            const double upper = least(pair.around + (all.value[o] - bounds_.multiplier() * ns));
            if (upper < target) continue;
            const Label by{all.latency_ns[o], 0};
            core_.push_back({{pair.tail, pair.head, problem_.id(o), by, o}, upper});
            incumbent.insert(pair.tail, pair.head, o);
        }
        interrupt.work(64);
    }
    if (const auto path = incumbent.path()) take(*path);
    choose_unit();
}

// A unit of which no path through the core is worth more than 2^61.
void ExactSolver::choose_unit() {
    const Options& all = bounds_.all();
    std::vector<double> most(std::size_t(all.last_position()) + 1, 0.0);
    for (const CoreArc& core : core_) {
        double& to = most[std::size_t(core.arc.head)];
        to = std::max(to, most[std::size_t(core.arc.tail)] + std::fabs(all.value[core.arc.index]));
    }
    constexpr int least_exponent = -900;  // so that its inverse is finite
    const int exponent = std::max(least_exponent, most.back() > 0 ? std::ilogb(most.back()) : 0);
    unit_ = std::ldexp(1.0, exponent - 60);
    for (CoreArc& core : core_) core.arc.by.value = std::llrint(all.value[core.arc.index] / unit_);
}

void ExactSolver::select_arcs(double target) {
    selected_.clear();
    for (const CoreArc& core : core_)
        if (core.upper >= target - bounds_.tolerance()) selected_.push_back(core.arc);
    label_search_.assign(selected_, problem_.last_position());
}

bool ExactSolver::close_enough(const ExactOptions& options) const {
    const double value = solution_.path.value;
    return upper_ - value <= std::max(bounds_.tolerance(), options.gap * std::fabs(value));
}

void ExactSolver::search(const ExactOptions& options, Interrupt& interrupt) {
    constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();
    const std::size_t most_labels = options.memory_limit_bytes / (4 * sizeof(Label));
    std::size_t limit = std::min(most_labels, std::size_t{1} << 18);
    solution_.arcs_left = core_.size();
    const double step = value_step();
    if (step > 0) upper_ = std::floor((upper_ + bounds_.tolerance()) / step) * step;
    const double dual = upper_;
    for (double slack = std::max(0.0, dual - solution_.path.value) / 8;;) {
        const double lower = solution_.path.value;
        const double below = step > 0 ? std::floor(slack / step) * step : slack;
        const LabelSearch::Target target{std::max(lower, dual - below), lower, unit_, budget_ns_};
        select_arcs(target.value);
        bool complete = run(target, {limit, unlimited}, interrupt);
        if (!complete) {
            if (close_enough(options)) return;
            const std::size_t width = std::min(limit / 64, most_labels / (selected_.size() + 1));
            complete = run(target, {unlimited, std::max<std::size_t>(width, 16)}, interrupt);
        }
        if (complete) {
            upper_ = std::min(upper_, target.value - step);
            if (solution_.ties_resolved || target.value <= lower) return;
            slack *= 4;
        } else {
            if (limit == most_labels || close_enough(options)) return;
            limit = std::min(most_labels, 4 * limit);
        }
        if (options.gap > 0 && close_enough(options)) return;
    }
}

// Paths through the core are worth multiples of this, of which all values are multiples; 0 if that
// is too little to matter.
double ExactSolver::value_step() const {
    std::int64_t divisor = 0;
    for (const CoreArc& core : core_) {
        if (double(core.arc.by.value) * unit_ != bounds_.all().value[core.arc.index]) return 0;
        divisor = std::gcd(divisor, core.arc.by.value);
        if (divisor != 0 && double(divisor) * unit_ <= 4 * bounds_.tolerance()) return 0;
    }
    return double(divisor) * unit_;
}

// One search for labels; true if it missed nothing of the target's value. Then a path of that value
// is optimal, and so is any if the target was the value of one already known.
bool ExactSolver::run(const LabelSearch::Target& target, const LabelSearch::Limits& limits,
                      Interrupt& interrupt) {
    const double lower = solution_.path.value;
    const LabelSearch::Outcome outcome = label_search_.run(bounds_, target, limits, interrupt);
    solution_.labels += label_search_.labels();
    if (outcome.path.empty()) return outcome.complete;
    const bool proven = target.value <= lower || double(outcome.best.value) * unit_ >= target.value;
    if (outcome.complete && proven) {
        solution_.path = problem_.path(outcome.path);
        solution_.optimal = solution_.ties_resolved = true;
    } else {
        take(outcome.path);
    }
    return outcome.complete;
}

Solution solve_exact(const Problem& problem, std::int64_t budget_ns, const ExactOptions& options,
                     Interrupt interrupt) {
    return ExactSolver(problem).solve(budget_ns, options, std::move(interrupt));
}

}  // namespace layermerge
