#pragma once

#include <cstddef>

// One binary runs everywhere and uses the widest vectors the machine has.
#if defined(__x86_64__) && defined(__linux__) && !defined(LAYERMERGE_NO_DISPATCH)
#define LAYERMERGE_DISPATCHES
#define LAYERMERGE_DISPATCH __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define LAYERMERGE_DISPATCH
#endif

namespace layermerge {

constexpr std::size_t lanes = 8;

// Eight doubles; compiled to as many registers as the machine needs. What stores some is declared
// alignas(64): compilers disagree on the alignment otherwise.
typedef double Lanes __attribute__((vector_size(64)));

inline double least(const Lanes& values) {
    double found = values[0];
    for (std::size_t l = 1; l < lanes; ++l) found = values[l] < found ? values[l] : found;
    return found;
}

}  // namespace layermerge
