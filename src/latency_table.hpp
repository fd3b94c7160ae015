#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace layermerge {

// Signatures, row by row: each describes one merged convolution in `width` integers.
struct Signatures {
    std::span<const std::int64_t> values;
    std::size_t width = 0;

    std::size_t size() const noexcept { return values.size() / width; }
    std::span<const std::int64_t> row(std::size_t index) const {
        return values.subspan(index * width, width);
    }
};

// Signature of a merged convolution -> its latency, hashed. Immutable once built.
//
// Throws std::invalid_argument for a negative latency, and for a signature given two latencies.
class LatencyTable {
 public:
    LatencyTable(Signatures signatures, std::span<const std::int64_t> latency_ns);

    std::size_t size() const noexcept { return latency_ns_.size(); }  // distinct signatures
    std::size_t width() const noexcept { return width_; }

    // The latency of each; throws std::invalid_argument, naming the first that is missing.
    std::vector<std::int64_t> lookup(Signatures signatures) const;

 private:
    static constexpr std::size_t free_slot = ~std::size_t{0};

    Signatures stored() const { return {values_, width_}; }
    std::size_t find_slot(std::span<const std::int64_t> signature) const;
    void check_width(Signatures signatures) const;

    std::size_t width_;
    std::vector<std::int64_t> values_;
    std::vector<std::int64_t> latency_ns_;
    std::vector<std::size_t> slots_;  // open addressing: index of a stored signature, or free
};

}  // namespace layermerge
