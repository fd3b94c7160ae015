// Whether a computation can be stopped, and soon enough.
#pragma once

#include <algorithm>
#include <ctime>
#include <exception>

#include "interrupt.hpp"

// Checks are 0.05 s apart, and no more than 0.1 s; sanitised, memory that grows is copied.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double most_unchecked_seconds = 1;
#else
constexpr double most_unchecked_seconds = 0.1;
#endif

// Whether the computation ends by what the check throws.
template <class Compute>
bool is_stopped(Compute compute) {
    struct Stopped : std::exception {};
    try {
        compute(layermerge::Interrupt([] { throw Stopped(); }));
    } catch (const Stopped&) {
        return true;
    }
    return false;
}

// The longest stretch without a check, in seconds of processor time.
template <class Compute>
double longest_unchecked_seconds(Compute compute) {
    std::clock_t checked = std::clock(), longest = 0;
    const auto check = [&] {
        const std::clock_t now = std::clock();
        longest = std::max(longest, now - checked);
        checked = now;
    };
    compute(layermerge::Interrupt(check));
    check();
    return double(longest) / CLOCKS_PER_SEC;
}
