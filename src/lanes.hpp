#pragma once

#include <cstddef>

// GCC and Clang compute on whole vectors; other compilers get loops, which they may vectorise.
#if defined(__GNUC__) && !defined(LAYERMERGE_NO_VECTORS)
#define LAYERMERGE_VECTORS
#endif

// One binary runs everywhere and uses the widest vectors the machine has. The choice is made as the
// binary is loaded, which takes a C library that can (glibc; musl cannot).
#if defined(LAYERMERGE_VECTORS) && defined(__x86_64__) && defined(__GLIBC__) && \
    !defined(LAYERMERGE_NO_DISPATCH)
#define LAYERMERGE_DISPATCHES
#define LAYERMERGE_DISPATCH __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define LAYERMERGE_DISPATCH
#endif

namespace layermerge {

constexpr std::size_t lanes = 8;

#if defined(LAYERMERGE_VECTORS)

// Eight doubles; compiled to as many registers as the machine needs. What stores some is declared
// alignas(64): compilers disagree on the alignment otherwise.
typedef double Lanes __attribute__((vector_size(64)));

// Nothing is returned: the size of a register would be part of the call.
template <class Condition>
[[gnu::always_inline]] inline void assign_where(const Condition& condition, const Lanes& from,
                                                Lanes& to) {
    to = condition ? from : to;
}

#else

struct Lanes {
    double values[lanes];

    double& operator[](std::size_t lane) { return values[lane]; }
    const double& operator[](std::size_t lane) const { return values[lane]; }
    Lanes& operator+=(const Lanes& other) {
        for (std::size_t l = 0; l < lanes; ++l) values[l] += other[l];
        return *this;
    }
};

struct LaneConditions {
    bool values[lanes];
};

template <class Function>
inline Lanes by_lane(Function function) {
    Lanes result;
    for (std::size_t l = 0; l < lanes; ++l) result[l] = function(l);
    return result;
}

inline Lanes operator+(const Lanes& a, const Lanes& b) {
    return by_lane([&](std::size_t l) { return a[l] + b[l]; });
}
inline Lanes operator+(const Lanes& a, double b) {
    return by_lane([&](std::size_t l) { return a[l] + b; });
}
inline Lanes operator-(double a, const Lanes& b) {
    return by_lane([&](std::size_t l) { return a - b[l]; });
}
inline Lanes operator*(const Lanes& a, const Lanes& b) {
    return by_lane([&](std::size_t l) { return a[l] * b[l]; });
}
inline Lanes operator*(const Lanes& a, double b) {
    return by_lane([&](std::size_t l) { return a[l] * b; });
}
inline LaneConditions operator>(const Lanes& a, const Lanes& b) {
    LaneConditions result;
    for (std::size_t l = 0; l < lanes; ++l) result.values[l] = a[l] > b[l];
    return result;
}
inline void assign_where(const LaneConditions& condition, const Lanes& from, Lanes& to) {
    for (std::size_t l = 0; l < lanes; ++l) to[l] = condition.values[l] ? from[l] : to[l];
}

#endif

inline double least(const Lanes& values) {
    double found = values[0];
    for (std::size_t l = 1; l < lanes; ++l) found = values[l] < found ? values[l] : found;
    return found;
}

}  // namespace layermerge
