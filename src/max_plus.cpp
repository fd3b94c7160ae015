#include "max_plus.hpp"

// One binary runs everywhere and uses the widest vectors the machine has.
#if defined(__x86_64__) && defined(__linux__) && !defined(LAYERMERGE_NO_DISPATCH)
#define LAYERMERGE_DISPATCH __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define LAYERMERGE_DISPATCH
#endif

namespace layermerge {

LAYERMERGE_DISPATCH void max_plus(double* __restrict best, const double* __restrict before,
                                  double value, std::size_t count) {
    for (std::size_t t = 0; t < count; ++t) {
        const double sum = before[t] + value;
        best[t] = sum > best[t] ? sum : best[t];
    }
}

}  // namespace layermerge
