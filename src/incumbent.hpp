#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "bounds.hpp"

namespace layermerge {

// The best path within the budget that joins a longest prefix and a longest suffix, each for one of
// the bounds' multipliers, at a position or by one more arc between them.
class Incumbent {
 public:
    explicit Incumbent(const Bounds& bounds) : bounds_(bounds) {}

    // Tries all prefixes and suffixes that meet at a position.
    void cross_positions(Interrupt& interrupt);
    // Tries those that an arc connects, of this index in the problem's order.
    void insert(std::int32_t tail, std::int32_t head, std::size_t arc);

    double value() const { return value_; }
    // As indices in the problem's order; none if no path is known.
    std::optional<std::vector<std::size_t>> path() const;

 private:
    static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

    void join(std::int32_t tail, std::int32_t head, std::size_t arc, double latency_ns,
              double value);
    void trace_prefix(std::vector<std::size_t>& path) const;
    void trace_suffix(std::vector<std::size_t>& path) const;

    const Bounds& bounds_;
    double value_ = -std::numeric_limits<double>::infinity();
    std::int32_t tail_ = 0, head_ = 0;
    std::size_t prefix_lane_ = 0, suffix_lane_ = 0;
    std::size_t arc_ = none;
};

}  // namespace layermerge
