#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <utility>

namespace layermerge {

// Lets a caller stop a long computation: the check runs now and then, and stops by throwing.
class Interrupt {
 public:
    Interrupt() = default;
    explicit Interrupt(std::function<void()> check) : check_(std::move(check)) {}

    // Counts units of work, each about as long as reading and writing one number.
    void work(std::size_t units) {
        done_ += units;
        if (done_ < units_between_looks) return;
        done_ = 0;
        if (check_) look();
    }

    // body(begin, end) over [0, count) in stretches, of so many units each, between looks.
    template <class Body>
    void in_stretches(std::size_t count, std::size_t units, Body body) {
        const std::size_t stretch = units_between_looks / units;
        for (std::size_t begin = 0; begin < count; begin += stretch) {
            const std::size_t end = std::min(count, begin + stretch);
            body(begin, end);
            work((end - begin) * units);
        }
    }

 private:
    // A look at the clock comes every millisecond or so; a check, which may wait for a lock, at
    // most twenty times a second.
    static constexpr std::size_t units_between_looks = std::size_t{1} << 18;
    static constexpr std::chrono::milliseconds between_checks{50};

    void look() {
        const auto now = std::chrono::steady_clock::now();
        if (now - checked_ < between_checks) return;
        checked_ = now;
        check_();
    }

    std::function<void()> check_;
    std::size_t done_ = 0;
    std::chrono::steady_clock::time_point checked_{};
};

}  // namespace layermerge
