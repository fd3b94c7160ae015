#include "bounds.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace layermerge {
namespace {

constexpr double nothing = -std::numeric_limits<double>::infinity();

void clear(LaneLabels& labels, const Options& options, std::int32_t origin) {
    labels.assign(std::size_t(options.last_position()) + 1, {all_lanes<double>(nothing), {}});
    labels[std::size_t(origin)].score = Lanes{};
}

// The best option of options [begin, end) at a multiplier.
std::size_t best_option(const Options& options, std::size_t begin, std::size_t end,
                        double multiplier) {
    std::size_t best = begin;
    double most = nothing;
    for (std::size_t o = begin; o < end; ++o) {
        const double score = options.value[o] - multiplier * double(options.latency_ns[o]);
        if (score > most) most = score, best = o;
    }
    return best;
}

// The largest I - λT of the options of a pair, and their T.
template <class Register>
LAYERMERGE_INLINE inline void best_of_pair(const Options& options, std::size_t pair,
                                           const LanesIn<Register>& multiplier,
                                           LanesIn<Register>& score, LanesIn<Register>& score_ns) {
    score = all_lanes<Register>(nothing);
    score_ns = {};
    for (std::size_t o = options.first[pair]; o < options.first[pair + 1]; ++o) {
        const double ns = double(options.latency_ns[o]);
        score.raise(options.value[o] - multiplier * ns, all_lanes<Register>(ns), score_ns);
    }
}

struct LongestPrefixes {
    template <class Register>
    LAYERMERGE_INLINE static void run(const Options& options, const Lanes& multiplier,
                                      LaneLabels& labels, Interrupt& interrupt) {
        const LanesIn<Register> lambda = loaded<Register>(multiplier);
        for (std::size_t j = 1; j < labels.size(); ++j) {
            const std::size_t pairs_end = options.first_pair[j + 1];
            LanesIn<Register> most = all_lanes<Register>(nothing), most_ns{}, score, score_ns;
            for (std::size_t p = options.first_pair[j]; p < pairs_end; ++p) {
                best_of_pair(options, p, lambda, score, score_ns);
                const LaneLabel& from = labels[std::size_t(options.tail[p])];
                score += loaded<Register>(from.score);
                score_ns += loaded<Register>(from.latency_ns);
                most.raise(score, score_ns, most_ns);
            }
            store(most, labels[j].score);
            store(most_ns, labels[j].latency_ns);
            interrupt.work(2 * (options.first[pairs_end] - options.first[options.first_pair[j]]));
        }
    }
};

struct LongestSuffixes {
    template <class Register>
    LAYERMERGE_INLINE static void run(const Options& options, const Lanes& multiplier,
                                      LaneLabels& labels, Interrupt& interrupt) {
        const LanesIn<Register> lambda = loaded<Register>(multiplier);
        for (std::size_t j = labels.size() - 1; j > 0; --j) {
            const std::size_t pairs_end = options.first_pair[j + 1];
            const LanesIn<Register> onwards = loaded<Register>(labels[j].score);
            const LanesIn<Register> onwards_ns = loaded<Register>(labels[j].latency_ns);
            LanesIn<Register> score, score_ns;
            for (std::size_t p = options.first_pair[j]; p < pairs_end; ++p) {
                best_of_pair(options, p, lambda, score, score_ns);
                score += onwards;
                score_ns += onwards_ns;
                LaneLabel& to = labels[std::size_t(options.tail[p])];
                LanesIn<Register> most = loaded<Register>(to.score);
                LanesIn<Register> most_ns = loaded<Register>(to.latency_ns);
                most.raise(score, score_ns, most_ns);
                store(most, to.score);
                store(most_ns, to.latency_ns);
            }
            interrupt.work(2 * (options.first[pairs_end] - options.first[options.first_pair[j]]));
        }
    }
};

struct SurvivingPairs {
    template <class Register>
    LAYERMERGE_INLINE static void run(const Bounds& bounds, double target,
                                      std::vector<SurvivingPair>& pairs, Interrupt& interrupt) {
        const Options options = bounds.envelope().options();
        const LanesIn<Register> lambda = loaded<Register>(bounds.multiplier());
        const LanesIn<Register> spent = lambda * bounds.budget_ns();
        for (std::int32_t j = 1; j <= options.last_position(); ++j) {
            const LanesIn<Register> onwards =
                loaded<Register>(bounds.suffixes()[std::size_t(j)].score) + spent;
            const std::size_t pairs_end = options.first_pair[std::size_t(j) + 1];
            for (std::size_t p = options.first_pair[std::size_t(j)]; p < pairs_end; ++p) {
                const std::int32_t i = options.tail[p];
                LanesIn<Register> score = all_lanes<Register>(nothing);
                for (std::size_t o = options.first[p]; o < options.first[p + 1]; ++o)
                    score.raise(options.value[o] - lambda * double(options.latency_ns[o]));
                const LanesIn<Register> around =
                    onwards + loaded<Register>(bounds.prefixes()[std::size_t(i)].score);
                if (least(score + around) < target) continue;
                pairs.push_back({p, i, j, {}});
                store(around, pairs.back().around);
            }
            interrupt.work(32 * (pairs_end - options.first_pair[std::size_t(j)]));
        }
    }
};

}  // namespace

void longest_prefixes(const Options& options, const Lanes& multiplier, LaneLabels& labels,
                      Interrupt& interrupt) {
    clear(labels, options, 0);
    run_on_widest<LongestPrefixes>(options, multiplier, labels, interrupt);
}

void longest_suffixes(const Options& options, const Lanes& multiplier, LaneLabels& labels,
                      Interrupt& interrupt) {
    clear(labels, options, options.last_position());
    run_on_widest<LongestSuffixes>(options, multiplier, labels, interrupt);
}

void EnvelopeOptions::emit(std::size_t option) {
    latency_ns_.push_back(all_.latency_ns[option]);
    value_.push_back(all_.value[option]);
    index_.push_back(option);
}

// Of two options that are best at a lower and a higher multiplier: what is above both where they
// cross is best there. Latencies fall as multipliers rise, so this ends.
void EnvelopeOptions::emit_between(std::size_t lower, std::size_t higher, std::size_t begin,
                                   std::size_t end) {
    const std::int64_t slow = all_.latency_ns[lower], fast = all_.latency_ns[higher];
    if (slow <= fast) return;
    const double crossing =
        (all_.value[lower] - all_.value[higher]) / (double(slow) - double(fast));
    const std::size_t best = best_option(all_, begin, end, crossing);
    if (all_.latency_ns[best] >= slow || all_.latency_ns[best] <= fast) return;
    emit(best);
    emit_between(lower, best, begin, end);
    emit_between(best, higher, begin, end);
}

void EnvelopeOptions::assign(const Options& all, double low, double high, Interrupt& interrupt) {
    all_ = all;
    first_.clear();
    latency_ns_.clear();
    value_.clear();
    index_.clear();
    for (std::size_t p = 0; p < all.pairs(); ++p) {
        const std::size_t begin = all.first[p], end = all.first[p + 1];
        first_.push_back(index_.size());
        if (end == begin + 1) {
            emit(begin);
            continue;
        }
        const std::size_t lower = best_option(all, begin, end, low);
        const std::size_t higher = best_option(all, begin, end, high);
        emit(lower);
        if (higher != lower) {
            emit(higher);
            emit_between(lower, higher, begin, end);
        }
        interrupt.work(4 * (end - begin));
    }
    first_.push_back(index_.size());
}

void Bounds::assign(const Problem& problem, std::int64_t budget_ns, Interrupt& interrupt) {
    problem.check_budget(budget_ns);
    all_ = problem.options();
    // A budget beyond the slowest path buys nothing, and its product with λ would only lose digits.
    budget_ns_ = double(std::min(budget_ns, problem.most_latency_ns()));
    upper_ = std::numeric_limits<double>::infinity();
    bracket(problem, interrupt);
    low_ = above_.multiplier / 2;
    high_ = 2 * within_.multiplier;
    envelope_.assign(all_, low_, high_, interrupt);
    narrow(interrupt);
    place_lanes(interrupt);
}

// Multipliers in steps of eight around the ratio of the largest values to the largest latencies; in
// further ladders of larger ones until a path meets the budget.
void Bounds::bracket(const Problem& problem, Interrupt& interrupt) {
    const double magnitude = std::max(problem.most_magnitude(), 1e-300);
    const double latency_ns = std::max(1.0, double(problem.most_latency_ns()));
    double rung = magnitude / latency_ns / 64;
    above_ = {};
    within_ = {std::numeric_limits<double>::infinity(), 0, 0};
    Lanes multiplier{};
    for (std::size_t first = 1; std::isinf(within_.multiplier); first = 0) {
        for (std::size_t l = first; l < lanes; ++l, rung *= 8) multiplier[l] = rung;
        longest_prefixes(all_, multiplier, prefixes_, interrupt);
        take(multiplier);
        if (multiplier[lanes - 1] > 1e3 * magnitude) break;
    }
    // The budget is so near the least latency that rounding hides the path: any λ is a bound.
    if (std::isinf(within_.multiplier)) within_ = above_;
}

// Moves the ends of the bracket to the lanes around the least L; true if an end moved.
bool Bounds::take(const Lanes& multiplier) {
    const LaneLabel& end = prefixes_.back();
    bool moved = false;
    for (std::size_t l = 0; l < lanes; ++l) {
        const double lambda = multiplier[l], ns = end.latency_ns[l];
        upper_ = std::min(upper_, end.score[l] + lambda * budget_ns_);
        const Line line{lambda, ns, end.score[l] + lambda * ns};
        if (ns > budget_ns_ && lambda >= above_.multiplier) {
            moved |= lambda > above_.multiplier;
            above_ = line;
        } else if (ns <= budget_ns_ && lambda < within_.multiplier) {
            moved = true;
            within_ = line;
        }
    }
    return moved;
}

// Where the lines at the ends of the bracket cross: below L, so its least value is not elsewhere if
// L equals them there.
double Bounds::crossing() const {
    if (above_.latency_ns <= within_.latency_ns) return above_.multiplier;
    const double lambda = (above_.value - within_.value) / (above_.latency_ns - within_.latency_ns);
    return std::clamp(lambda, above_.multiplier, within_.multiplier);
}

void Bounds::narrow(Interrupt& interrupt) {
    constexpr int most_passes = 20;  // each divides the bracket by two at the least
    for (int pass = 0; pass < most_passes && within_.multiplier > 0; ++pass) {
        const double centre = crossing(), low = above_.multiplier, high = within_.multiplier;
        Lanes multiplier;
        for (std::size_t l = 0; l < 4; ++l) {
            const double fraction = std::ldexp(1.0, -2 * int(l) - 1);
            multiplier[l] = centre + (low - centre) * fraction;
            multiplier[7 - l] = centre + (high - centre) * fraction;
        }
        multiplier[3] = centre;
        longest_prefixes(envelope_.options(), multiplier, prefixes_, interrupt);
        const double least_possible =
            above_.value - centre * above_.latency_ns + centre * budget_ns_;
        const bool moved = take(multiplier);
        if (!moved || upper_ <= least_possible + 1e-12 * std::fabs(least_possible)) break;
    }
}

// λ* and multipliers ever further from it, as far as the envelope covers: a partial path that
// strays by a few arcs is bounded best by a multiplier that differs by a few parts of the length.
void Bounds::place_lanes(Interrupt& interrupt) {
    const double centre = crossing();
    const double spacing = std::min(0.125, 4.0 / double(all_.last_position()));
    constexpr double steps[lanes] = {-16, -4, -1, 0, 1, 4, 16, 64};
    for (std::size_t l = 0; l < lanes; ++l) {
        const double lambda = centre > 0 ? centre * std::exp(steps[l] * spacing)
                                         : high_ * std::max(0.0, steps[l] / 64);
        multiplier_[l] = std::clamp(lambda, low_, high_);
    }
    longest_prefixes(envelope_.options(), multiplier_, prefixes_, interrupt);
    longest_suffixes(envelope_.options(), multiplier_, suffixes_, interrupt);
    double magnitude = 0;
    for (std::size_t j = 0; j < prefixes_.size(); ++j)
        for (std::size_t l = 0; l < lanes; ++l) {
            if (std::isinf(prefixes_[j].score[l]) || std::isinf(suffixes_[j].score[l])) continue;
            magnitude = std::max(
                {magnitude, std::fabs(prefixes_[j].score[l]), std::fabs(suffixes_[j].score[l])});
        }
    magnitude += multiplier_[lanes - 1] * budget_ns_;
    tolerance_ = 0x1p-50 * double(all_.last_position()) * magnitude;
    for (std::size_t l = 0; l < lanes; ++l)
        upper_ = std::min(upper_, prefixes_.back().score[l] + multiplier_[l] * budget_ns_);
}

void surviving_pairs(const Bounds& bounds, double target, std::vector<SurvivingPair>& pairs,
                     Interrupt& interrupt) {
    pairs.clear();
    run_on_widest<SurvivingPairs>(bounds, target, pairs, interrupt);
}

}  // namespace layermerge
