#include "max_plus.hpp"

#include <cstring>
#include <limits>

#include "lanes.hpp"

namespace layermerge {
namespace {

#if defined(LAYERMERGE_VECTORS)

// As many doubles as fill a register.
typedef double Two __attribute__((vector_size(16)));
typedef double Four __attribute__((vector_size(32)));
typedef double Eight __attribute__((vector_size(64)));

// Keeps `width` registers of cells over all terms: one load, addition and maximum for each.
template <class Register, std::size_t width>
[[gnu::always_inline]] inline void fill_blocks(double* best, const double* cells,
                                               std::span<const MaxPlusTerm> terms,
                                               std::size_t begin, std::size_t end) {
    constexpr std::size_t held = sizeof(Register) / sizeof(double), step = width * held;
    static_assert(max_plus_block % step == 0);
    constexpr double nothing = -std::numeric_limits<double>::infinity();
    for (std::size_t t = begin; t < end; t += step) {
        Register most[width];
        for (std::size_t w = 0; w < width; ++w) most[w] = nothing - Register{};
        for (const MaxPlusTerm& term : terms) {
            const double* const from = cells + term.offset + std::ptrdiff_t(t);
            for (std::size_t w = 0; w < width; ++w) {
                Register sum;
                std::memcpy(&sum, from + w * held, sizeof(sum));
                sum += term.value;
                most[w] = sum > most[w] ? sum : most[w];
            }
        }
        for (std::size_t w = 0; w < width; ++w)
            std::memcpy(best + t + w * held, &most[w], sizeof(most[w]));
    }
}

// Of the 32 registers of 64 bytes, or 16 of 32 bytes, or 16 or more of 16 bytes, half hold cells.
#if defined(LAYERMERGE_DISPATCHES)
__attribute__((target("avx512f"))) void fill(double* best, const double* cells,
                                             std::span<const MaxPlusTerm> terms, std::size_t begin,
                                             std::size_t end) {
    fill_blocks<Eight, 8>(best, cells, terms, begin, end);
}

__attribute__((target("avx2"))) void fill(double* best, const double* cells,
                                          std::span<const MaxPlusTerm> terms, std::size_t begin,
                                          std::size_t end) {
    fill_blocks<Four, 8>(best, cells, terms, begin, end);
}

__attribute__((target("default")))
#endif
void fill(double* best, const double* cells, std::span<const MaxPlusTerm> terms, std::size_t begin,
          std::size_t end) {
    fill_blocks<Two, 8>(best, cells, terms, begin, end);
}

#else

void fill(double* best, const double* cells, std::span<const MaxPlusTerm> terms, std::size_t begin,
          std::size_t end) {
    for (std::size_t t = begin; t < end; t += max_plus_block) {
        double most[max_plus_block];
        for (double& cell : most) cell = -std::numeric_limits<double>::infinity();
        for (const MaxPlusTerm& term : terms) {
            const double* const from = cells + term.offset + std::ptrdiff_t(t);
            for (std::size_t w = 0; w < max_plus_block; ++w) {
                const double sum = from[w] + term.value;
                most[w] = sum > most[w] ? sum : most[w];
            }
        }
        std::memcpy(best + t, most, sizeof(most));
    }
}

#endif

}  // namespace

// Callers elsewhere would bind to the default: they do not see that there are others.
void max_plus(double* best, const double* cells, std::span<const MaxPlusTerm> terms,
              std::size_t begin, std::size_t end) {
    fill(best, cells, terms, begin, end);
}

}  // namespace layermerge
