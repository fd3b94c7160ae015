#pragma once

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
        if (done_ < units_between_checks) return;
        done_ = 0;
        if (check_) check_();
    }

 private:
    // 10 to 50 ms of work, from vectorised to scalar loops.
    static constexpr std::size_t units_between_checks = std::size_t{1} << 24;

    std::function<void()> check_;
    std::size_t done_ = 0;
};

}  // namespace layermerge
