#include "max_plus.hpp"

#include "lanes.hpp"

namespace layermerge {
namespace {

// Eight doubles that may lie anywhere.
typedef double AnyLanes __attribute__((vector_size(64), aligned(alignof(double)), may_alias));

constexpr std::size_t block = 4 * lanes;

}  // namespace

LAYERMERGE_DISPATCH void max_plus(double* __restrict best, MaxPlusTerm term, std::size_t count) {
    const double* __restrict before = term.before;
    for (std::size_t t = 0; t < count; ++t) {
        const double sum = before[t] + term.value;
        best[t] = sum > best[t] ? sum : best[t];
    }
}

LAYERMERGE_DISPATCH void max_plus(double* best, std::span<const MaxPlusTerm> terms,
                                  std::size_t count) {
    const std::size_t blocks_end = count - count % block;
    for (std::size_t t = 0; t < blocks_end; t += block) {
        AnyLanes* const into = reinterpret_cast<AnyLanes*>(best + t);
        AnyLanes best_0 = into[0], best_1 = into[1], best_2 = into[2], best_3 = into[3];
        for (const MaxPlusTerm& term : terms) {
            const AnyLanes* const before = reinterpret_cast<const AnyLanes*>(term.before + t);
            const AnyLanes sum_0 = before[0] + term.value, sum_1 = before[1] + term.value;
            const AnyLanes sum_2 = before[2] + term.value, sum_3 = before[3] + term.value;
            best_0 = sum_0 > best_0 ? sum_0 : best_0;
            best_1 = sum_1 > best_1 ? sum_1 : best_1;
            best_2 = sum_2 > best_2 ? sum_2 : best_2;
            best_3 = sum_3 > best_3 ? sum_3 : best_3;
        }
        into[0] = best_0, into[1] = best_1, into[2] = best_2, into[3] = best_3;
    }
    for (const MaxPlusTerm& term : terms)
        for (std::size_t t = blocks_end; t < count; ++t) {
            const double sum = term.before[t] + term.value;
            best[t] = sum > best[t] ? sum : best[t];
        }
}

}  // namespace layermerge
