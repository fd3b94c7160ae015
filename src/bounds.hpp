#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "interrupt.hpp"
#include "lanes.hpp"
#include "problem.hpp"

namespace layermerge {

// For eight multipliers λ, one per lane: the largest I - λT of a path, and that path's latency T.
struct alignas(64) LaneLabel {
    Lanes score;
    Lanes latency_ns;
};
using LaneLabels = std::vector<LaneLabel>;  // by position

// From position 0 to each position; O(options). Unreachable positions score minus infinity.
void longest_prefixes(const Options& options, const Lanes& multiplier, LaneLabels& labels,
                      Interrupt& interrupt);
// From each position to the last one.
void longest_suffixes(const Options& options, const Lanes& multiplier, LaneLabels& labels,
                      Interrupt& interrupt);

// Of each pair, the options that are best for some multiplier in [low, high]: for those multipliers
// the longest paths are the same as with all options.
class EnvelopeOptions {
 public:
    void assign(const Options& all, double low, double high, Interrupt& interrupt);

    Options options() const { return {all_.first_pair, all_.tail, first_, latency_ns_, value_}; }
    std::size_t index(std::size_t option) const { return index_[option]; }  // among all options

 private:
    void emit(std::size_t option);
    void emit_between(std::size_t lower, std::size_t higher, std::size_t begin, std::size_t end);

    Options all_;
    std::vector<std::size_t> first_;
    std::vector<std::int64_t> latency_ns_;
    std::vector<double> value_;
    std::vector<std::size_t> index_;
};

// The Lagrangian dual of max I subject to T <= budget: for every λ >= 0
//
//   max I  <=  L(λ) = max over paths of (I - λT) + λ budget,
//
// convex and piecewise linear in λ. The least L(λ) is the bound; around its λ lie eight multipliers
// whose longest prefixes and suffixes bound what any position, arc or partial path can lead to.
class alignas(64) Bounds {
 public:
    // Throws what Problem::check_budget throws.
    void assign(const Problem& problem, std::int64_t budget_ns, Interrupt& interrupt);

    const Options& all() const { return all_; }
    const EnvelopeOptions& envelope() const { return envelope_; }
    const Lanes& multiplier() const { return multiplier_; }  // ascending
    const LaneLabels& prefixes() const { return prefixes_; }
    const LaneLabels& suffixes() const { return suffixes_; }
    double budget_ns() const { return budget_ns_; }
    double upper() const { return upper_; }
    // Above the error of rounding in any sum of scores.
    double tolerance() const { return tolerance_; }

 private:
    // A path as the line I - λT over λ; at an end of the bracket, where L falls or rises.
    struct Line {
        double multiplier = 0;
        double latency_ns = 0;
        double value = 0;
    };

    void bracket(const Problem& problem, Interrupt& interrupt);
    void narrow(Interrupt& interrupt);
    bool take(const Lanes& multiplier);
    double crossing() const;
    void place_lanes(Interrupt& interrupt);

    Options all_;
    EnvelopeOptions envelope_;
    double budget_ns_ = 0;
    Line above_;   // T > budget, at the largest such multiplier; at 0 if there is none
    Line within_;  // T <= budget, at the least such multiplier
    double low_ = 0, high_ = 0;  // what the envelope covers
    double upper_ = 0;
    double tolerance_ = 0;
    Lanes multiplier_{};
    LaneLabels prefixes_, suffixes_;
};

// A pair of positions, and for each multiplier what a path that leaves by its tail and goes on from
// its head is worth at most, but for the option between them.
struct alignas(64) SurvivingPair {
    std::size_t index;
    std::int32_t tail, head;
    Lanes around;
};

// The pairs through which a path may be worth the target.
void surviving_pairs(const Bounds& bounds, double target, std::vector<SurvivingPair>& pairs,
                     Interrupt& interrupt);

}  // namespace layermerge
