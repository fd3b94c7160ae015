#include "bounds.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace layermerge {
namespace {

constexpr double nothing = -std::numeric_limits<double>::infinity();
constexpr Lanes no_score = {nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing};

void clear(LaneLabels& labels, const Options& options, std::int32_t origin) {
    labels.assign(std::size_t(options.last_position()) + 1, {no_score, Lanes{}});
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

}  // namespace

LAYERMERGE_DISPATCH void longest_prefixes(const Options& options, const Lanes& multiplier,
                                          LaneLabels& labels, Interrupt& interrupt) {
    clear(labels, options, 0);
    const std::int64_t* const latency_ns = options.latency_ns.data();
    const double* const value = options.value.data();
    const Lanes lambda = multiplier;
    for (std::size_t j = 1; j < labels.size(); ++j) {
        const std::size_t pairs_end = options.first_pair[j + 1];
        Lanes most = no_score, most_ns{};
        for (std::size_t p = options.first_pair[j]; p < pairs_end; ++p) {
            Lanes score = no_score, score_ns{};
            for (std::size_t o = options.first[p]; o < options.first[p + 1]; ++o) {
                const Lanes ns = double(latency_ns[o]) - Lanes{};
                const Lanes with = value[o] - lambda * ns;
                assign_where(with > score, ns, score_ns);
                assign_where(with > score, with, score);
            }
            const LaneLabel& from = labels[std::size_t(options.tail[p])];
            score += from.score;
            score_ns += from.latency_ns;
            assign_where(score > most, score_ns, most_ns);
            assign_where(score > most, score, most);
        }
        labels[j] = {most, most_ns};
        interrupt.work(2 * (options.first[pairs_end] - options.first[options.first_pair[j]]));
    }
}

LAYERMERGE_DISPATCH void longest_suffixes(const Options& options, const Lanes& multiplier,
                                          LaneLabels& labels, Interrupt& interrupt) {
    clear(labels, options, options.last_position());
    const std::int64_t* const latency_ns = options.latency_ns.data();
    const double* const value = options.value.data();
    const Lanes lambda = multiplier;
    for (std::size_t j = labels.size() - 1; j > 0; --j) {
        const std::size_t pairs_end = options.first_pair[j + 1];
        const LaneLabel onwards = labels[j];
        for (std::size_t p = options.first_pair[j]; p < pairs_end; ++p) {
            Lanes score = no_score, score_ns{};
            for (std::size_t o = options.first[p]; o < options.first[p + 1]; ++o) {
                const Lanes ns = double(latency_ns[o]) - Lanes{};
                const Lanes with = value[o] - lambda * ns;
                assign_where(with > score, ns, score_ns);
                assign_where(with > score, with, score);
            }
            score += onwards.score;
            score_ns += onwards.latency_ns;
            LaneLabel& to = labels[std::size_t(options.tail[p])];
            assign_where(score > to.score, score_ns, to.latency_ns);
            assign_where(score > to.score, score, to.score);
        }
        interrupt.work(2 * (options.first[pairs_end] - options.first[options.first_pair[j]]));
    }
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

LAYERMERGE_DISPATCH void surviving_pairs(const Bounds& bounds, double target,
                                         std::vector<SurvivingPair>& pairs, Interrupt& interrupt) {
    pairs.clear();
    const Options options = bounds.envelope().options();
    const Lanes lambda = bounds.multiplier();
    const Lanes spent = lambda * bounds.budget_ns();
    for (std::int32_t j = 1; j <= options.last_position(); ++j) {
        const Lanes onwards = bounds.suffixes()[std::size_t(j)].score + spent;
        const std::size_t pairs_end = options.first_pair[std::size_t(j) + 1];
        for (std::size_t p = options.first_pair[std::size_t(j)]; p < pairs_end; ++p) {
            const std::int32_t i = options.tail[p];
            Lanes score = no_score;
            for (std::size_t o = options.first[p]; o < options.first[p + 1]; ++o) {
                const Lanes with = options.value[o] - lambda * double(options.latency_ns[o]);
                assign_where(with > score, with, score);
            }
            const Lanes around = onwards + bounds.prefixes()[std::size_t(i)].score;
            if (least(score + around) >= target) pairs.push_back({p, i, j, around});
        }
        interrupt.work(32 * (pairs_end - options.first_pair[std::size_t(j)]));
    }
}

}  // namespace layermerge
