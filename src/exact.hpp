#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bounds.hpp"
#include "interrupt.hpp"
#include "label_search.hpp"
#include "problem.hpp"

namespace layermerge {

struct ExactOptions {
    double gap = 0;  // stop once (upper bound - value) <= gap * |value|
    std::size_t memory_limit_bytes = std::size_t{2} << 30;  // of labels
};

// What a path within the budget is worth, and the most that any such path can be.
struct Solution {
    Path path;
    double upper_bound = 0;      // equal to the path's value if that is optimal
    bool optimal = false;        // to within value_tolerance
    bool ties_resolved = false;  // and the best of all optimal paths by the order below
    std::size_t arcs_left = 0;   // that the bounds could not rule out
    std::size_t labels = 0;      // made in all
    double seconds = 0;
};

// Values are summed exactly, in units of 2^-61 of the largest sum there can be. Bounds of doubles
// must differ by more than rounding, at most this relative to the largest score, to count.
constexpr double value_tolerance = 1e-9;

// The path of largest value whose latency is at most the budget, with proof: Lagrangian bounds
// remove most arcs, and a search for labels on what is left, aimed first close below the upper
// bound, finds the optimum or lowers the bound.
//
// Ties: larger value, then less latency, then fewer arcs, then the lexicographically smallest arc
// ids. This order holds for every solution with ties_resolved. It is not for a solution that is
// optimal only because its value meets the bound, or that a gap or the memory limit ended; such
// solutions are the same in every run all the same.
//
// Keeps its memory from solve to solve. Not to be shared by threads; the problem may be.
class ExactSolver {
 public:
    explicit ExactSolver(const Problem& problem) : problem_(problem) {}

    // Throws what Problem::check_budget throws, and std::invalid_argument for a gap that is not a
    // number >= 0.
    Solution solve(std::int64_t budget_ns, const ExactOptions& options = {},
                   Interrupt interrupt = {});

 private:
    struct CoreArc {
        UnitArc arc;
        double upper;  // no path through it is worth more
    };

    void start(std::int64_t budget_ns, Interrupt& interrupt);
    void take(const std::vector<std::size_t>& path);
    void find_core(Interrupt& interrupt);
    void choose_unit();
    void select_arcs(double target);
    double value_step() const;
    void search(const ExactOptions& options, Interrupt& interrupt);
    bool run(const LabelSearch::Target& target, const LabelSearch::Limits& limits,
             Interrupt& interrupt);
    bool close_enough(const ExactOptions& options) const;

    const Problem& problem_;
    std::int64_t budget_ns_ = 0;
    Bounds bounds_;
    std::vector<SurvivingPair> pairs_;
    std::vector<CoreArc> core_;
    std::vector<UnitArc> selected_;
    double unit_ = 1;
    LabelSearch label_search_;
    double upper_ = 0;  // no path is worth more
    std::vector<std::size_t> best_;
    Solution solution_;
};

Solution solve_exact(const Problem& problem, std::int64_t budget_ns,
                     const ExactOptions& options = {}, Interrupt interrupt = {});

}  // namespace layermerge
