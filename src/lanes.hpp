#pragma once

#include <concepts>
#include <cstddef>
#include <cstring>

#include "registers.hpp"

namespace layermerge {

constexpr std::size_t lanes = 8;

// Eight doubles, in as many registers as they take. All of it is inlined, always: how a register is
// passed depends on the instructions that a function is compiled for.
template <class Register>
struct alignas(64) LanesIn {
    static constexpr std::size_t registers = lanes * sizeof(double) / sizeof(Register);

    Register part[registers];

    double& operator[](std::size_t lane)
        requires std::same_as<Register, double>
    {
        return part[lane];
    }
    const double& operator[](std::size_t lane) const
        requires std::same_as<Register, double>
    {
        return part[lane];
    }

    LAYERMERGE_INLINE LanesIn& operator+=(const LanesIn& other) {
        for (std::size_t p = 0; p < registers; ++p) part[p] += other.part[p];
        return *this;
    }
    LAYERMERGE_INLINE LanesIn& operator+=(double other) {
        for (std::size_t p = 0; p < registers; ++p) part[p] += other;
        return *this;
    }
    LAYERMERGE_INLINE LanesIn& operator*=(const LanesIn& other) {
        for (std::size_t p = 0; p < registers; ++p) part[p] *= other.part[p];
        return *this;
    }
    LAYERMERGE_INLINE LanesIn& operator*=(double other) {
        for (std::size_t p = 0; p < registers; ++p) part[p] *= other;
        return *this;
    }
    // Takes what is larger, lane by lane.
    LAYERMERGE_INLINE void raise(const LanesIn& to) {
        for (std::size_t p = 0; p < registers; ++p)
            part[p] = to.part[p] > part[p] ? to.part[p] : part[p];
    }
    // And where it does, lets `carried` be `with`.
    LAYERMERGE_INLINE void raise(const LanesIn& to, const LanesIn& with, LanesIn& carried) {
        for (std::size_t p = 0; p < registers; ++p)
            carried.part[p] = to.part[p] > part[p] ? with.part[p] : carried.part[p];
        raise(to);
    }
};

using Lanes = LanesIn<double>;  // in memory

// Register by register, as they will be used: whole, they would be copied in smaller pieces, for
// which a register has to wait.
template <class Register>
LAYERMERGE_INLINE inline LanesIn<Register> loaded(const Lanes& from) {
    LanesIn<Register> to;
    constexpr std::size_t held = sizeof(Register) / sizeof(double);
    for (std::size_t p = 0; p < to.registers; ++p)
        std::memcpy(&to.part[p], from.part + p * held, sizeof(Register));
    return to;
}

template <class Register>
LAYERMERGE_INLINE inline void store(const LanesIn<Register>& from, Lanes& to) {
    constexpr std::size_t held = sizeof(Register) / sizeof(double);
    for (std::size_t p = 0; p < from.registers; ++p)
        std::memcpy(to.part + p * held, &from.part[p], sizeof(Register));
}

template <class Register>
LAYERMERGE_INLINE inline LanesIn<Register> all_lanes(double value) {
    LanesIn<Register> lanes{};
    return lanes += value;
}

template <class Register, class Other>
LAYERMERGE_INLINE inline LanesIn<Register> operator+(LanesIn<Register> a, const Other& b) {
    return a += b;
}

template <class Register, class Other>
LAYERMERGE_INLINE inline LanesIn<Register> operator*(LanesIn<Register> a, const Other& b) {
    return a *= b;
}

template <class Register>
LAYERMERGE_INLINE inline LanesIn<Register> operator-(double a, const LanesIn<Register>& b) {
    LanesIn<Register> result;
    for (std::size_t p = 0; p < LanesIn<Register>::registers; ++p) result.part[p] = a - b.part[p];
    return result;
}

template <class Register>
LAYERMERGE_INLINE inline double least(const LanesIn<Register>& values) {
    Lanes stored;
    store(values, stored);
    double found = stored[0];
    for (std::size_t l = 1; l < lanes; ++l) found = stored[l] < found ? stored[l] : found;
    return found;
}

}  // namespace layermerge
