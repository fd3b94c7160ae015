#include "frontier.hpp"

#include <algorithm>
#include <cmath>
#include <queue>
#include <stdexcept>

#include "exact.hpp"
#include "labels.hpp"
#include "text.hpp"

namespace layermerge {
namespace {

// In units of which no path is worth more than 2^61; as ExactSolver::choose_unit, for all arcs.
double value_unit(const Problem& problem) {
    constexpr int least_exponent = -900;
    const double most = problem.most_magnitude();
    return std::ldexp(1.0, std::max(least_exponent, most > 0 ? std::ilogb(most) : 0) - 60);
}

[[noreturn]] void refuse_size(const FrontierOptions& options) {
    throw std::invalid_argument(
        text("the exact frontier needs more than the memory limit of ",
             double(options.memory_limit_bytes) / 1e6,
             " MB for labels: raise memory_limit_bytes, or give epsilon > 0 or max_points for an "
             "approximation with a proven error"));
}

Frontier all_points(const Problem& problem, const FrontierOptions& options, Interrupt& interrupt) {
    const double unit = value_unit(problem);
    const std::size_t most_labels = options.memory_limit_bytes / sizeof(Label);
    const std::int32_t last = problem.last_position();
    LabelLists lists;
    lists.start(last + 1, 0);
    std::vector<Step> steps;
    for (std::int32_t j = 1; j <= last; ++j) {
        const IncomingArcs in = problem.incoming(j);
        steps.clear();
        for (std::size_t a = 0; a < in.size(); ++a)
            steps.push_back({in.tail[a], {in.latency_ns[a], std::llrint(in.value[a] / unit)}});
        if (lists.stored() > most_labels ||
            !lists.extend(j, steps, nullptr, most_labels - lists.stored(), interrupt))
            refuse_size(options);
        interrupt.work(in.size());
    }
    Frontier points;
    points.latency_ns.reserve(lists.size(last));
    points.value.reserve(lists.size(last));
    interrupt.in_stretches(lists.size(last), 8, [&](std::size_t begin, std::size_t end) {
        for (std::size_t k = begin; k < end; ++k) {
            const Label label = lists.label(last, k);
            points.latency_ns.push_back(label.latency_ns);
            points.value.push_back(double(label.value) * unit);
        }
    });
    return points;
}

struct Point {
    std::int64_t latency_ns;
    double value;
    double upper_bound;
};

// Budgets between two points: the best path is that of the lower point up to `budget_ns`, and not
// known from there to the higher point.
struct Gap {
    Point lower, higher;
    std::int64_t budget_ns;
    bool may_be_step = false;  // nothing new was found at its middle

    std::int64_t next_budget_ns() const {
        return may_be_step ? higher.latency_ns - 1
                           : budget_ns + (higher.latency_ns - budget_ns) / 2;
    }
    double error() const { return higher.upper_bound - lower.value; }
    bool closed() const { return budget_ns + 1 >= higher.latency_ns; }
    bool operator<(const Gap& other) const {
        return std::pair(error(), other.budget_ns) < std::pair(other.error(), budget_ns);
    }
};

class Bisection {
 public:
    Bisection(const Problem& problem, const FrontierOptions& options, Interrupt& interrupt)
        : problem_(problem), options_(options), interrupt_(interrupt), solver_(problem) {}

    Frontier run() {
        const Point lower = add(problem_.least_latency_ns());
        const Point higher = add(problem_.most_latency_ns());
        open({lower, higher, lower.latency_ns});
        while (!gaps_.empty() && gaps_.top().error() > options_.epsilon &&
               points_.size() < options_.max_points)
            divide();
        return sorted();
    }

 private:
    Point add(std::int64_t budget_ns) {
        const Solution found =
            solver_.solve(budget_ns, {0, options_.memory_limit_bytes}, interrupt_);
        unproven_ = std::max(unproven_, found.upper_bound - found.path.value);
        points_.push_back({found.path.latency_ns, found.path.value, found.upper_bound});
        return points_.back();
    }

    void open(const Gap& gap) {
        if (!gap.closed() && gap.higher.value > gap.lower.value) gaps_.push(gap);
    }

    // At the middle of the budgets; if that finds nothing new, just below the higher point: a true
    // step of the frontier takes two solves to prove.
    void divide() {
        const Gap gap = gaps_.top();
        gaps_.pop();
        const std::int64_t budget_ns = gap.next_budget_ns();
        const Point middle = add(budget_ns);
        if (middle.value <= gap.lower.value) {
            points_.pop_back();
            open({gap.lower, gap.higher, budget_ns, true});
        } else {
            open({gap.lower, middle, gap.budget_ns});
            open({middle, gap.higher, budget_ns});
        }
    }

    Frontier sorted() {
        std::sort(points_.begin(), points_.end(),
                  [](const Point& a, const Point& b) { return a.latency_ns < b.latency_ns; });
        Frontier frontier;
        for (const Point& point : points_) {
            if (!frontier.value.empty() && point.value <= frontier.value.back()) continue;
            frontier.latency_ns.push_back(point.latency_ns);
            frontier.value.push_back(point.value);
        }
        frontier.error = std::max(unproven_, gaps_.empty() ? 0 : gaps_.top().error());
        return frontier;
    }

    const Problem& problem_;
    const FrontierOptions& options_;
    Interrupt& interrupt_;
    ExactSolver solver_;
    std::vector<Point> points_;
    std::priority_queue<Gap> gaps_;
    double unproven_ = 0;  // of any solve
};

}  // namespace

Frontier frontier(const Problem& problem, const FrontierOptions& options, Interrupt interrupt) {
    if (!(options.epsilon >= 0))
        throw std::invalid_argument(text("epsilon must be >= 0, got ", options.epsilon));
    if (options.max_points < 2)
        throw std::invalid_argument(text("max_points must be >= 2, got ", options.max_points));
    const bool all = options.epsilon == 0 && options.max_points == FrontierOptions{}.max_points;
    return all ? all_points(problem, options, interrupt)
               : Bisection(problem, options, interrupt).run();
}

}  // namespace layermerge
