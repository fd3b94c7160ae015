#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "interrupt.hpp"

namespace layermerge {

// The layers of one segment, in order.
struct SegmentLayers {
    // What keeping the layer adds to the merged kernel, per axis:
    // dilation * (kernel - 1) * product of the strides of the segment's layers before it.
    std::span<const std::int32_t> growth_h;
    std::span<const std::int32_t> growth_w;
    std::span<const double> weight_l1;  // L1 norm of the layer's weight
    std::span<const bool> irreducible;  // cannot be replaced by the identity: always kept
    std::span<const bool> depthwise;

    std::size_t size() const noexcept { return growth_h.size(); }
};

struct MaxKernel {
    std::int32_t h = std::numeric_limits<std::int32_t>::max();
    std::int32_t w = std::numeric_limits<std::int32_t>::max();
};

// One entry per achievable kernel size, by (h, w), not depthwise before depthwise.
struct KernelSizes {
    std::vector<std::int32_t> kernel_h;
    std::vector<std::int32_t> kernel_w;
    std::vector<std::uint8_t> is_depthwise;  // all kept layers are depthwise
    std::vector<double> weight_l1;           // sum over the kept layers
    std::vector<std::uint8_t> kept;          // entry by entry, one flag per layer

    std::size_t size() const noexcept { return kernel_h.size(); }
};

// Every kernel size 1 + sum of growth over a non-empty set of kept layers that contains the
// irreducible ones, with the set of largest sum of L1 norms. Ties: more layers, then the
// lexicographically smallest list of layers.
//
// Dynamic programme over the growth from each layer to the last, on the reachable growths only:
// O(layers x reachable growths). Norms are summed as integers, in units of 2^-62 of the power of
// two above their total, so that equal sums are equal whatever the order of the layers.
//
// Throws std::invalid_argument, naming the argument and the value.
KernelSizes kernel_sizes(const SegmentLayers& layers, MaxKernel max_kernel = {},
                         Interrupt interrupt = {});

}  // namespace layermerge
