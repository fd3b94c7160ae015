// Whether a computation can be stopped, and soon enough.
#pragma once

#include <algorithm>
#include <ctime>
#include <exception>
#include <limits>

#include "interrupt.hpp"

// Checks are 0.05 s apart, and no more than 0.1 s. Sanitised code has no pace of its own: there the
// computations run, and are not timed.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double most_unchecked_seconds = std::numeric_limits<double>::infinity();
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

// The longest stretch without a check, in seconds of processor time: the least of up to five runs,
// since a busy machine lengthens a stretch now and then, and a missing check always.
template <class Compute>
double longest_unchecked_seconds(Compute compute) {
    double least = std::numeric_limits<double>::infinity();
    for (int run = 0; run < 5; ++run) {
        std::clock_t checked = std::clock(), longest = 0;
        const auto check = [&] {
            const std::clock_t now = std::clock();
            longest = std::max(longest, now - checked);
            checked = now;
        };
        compute(layermerge::Interrupt(check));
        check();
        least = std::min(least, double(longest) / CLOCKS_PER_SEC);
        if (least < most_unchecked_seconds) break;
    }
    return least;
}
