#include "max_plus.hpp"

#include <cstring>
#include <limits>

#include "registers.hpp"

namespace layermerge {
namespace {

struct MaxPlus {
    // Of 32 registers of 64 bytes, or 16 or more of fewer, half hold cells over all terms: one
    // load, addition and maximum for each. Where there are no vectors, compilers make some of a
    // block.
    template <class Register>
    LAYERMERGE_INLINE static void run(double* best, const double* cells,
                                      std::span<const MaxPlusTerm> terms, std::size_t begin,
                                      std::size_t end) {
        constexpr std::size_t held = sizeof(Register) / sizeof(double);
        constexpr std::size_t width = held > 1 ? 8 : max_plus_block, step = width * held;
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
};

}  // namespace

void max_plus(double* best, const double* cells, std::span<const MaxPlusTerm> terms,
              std::size_t begin, std::size_t end) {
    run_on_widest<MaxPlus>(best, cells, terms, begin, end);
}

}  // namespace layermerge
