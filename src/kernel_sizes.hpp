#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "interrupt.hpp"

namespace layermerge {

// The layers of one segment, in order. What can only be kept as a whole may stand as one layer; so
// may a pooling, which the program reads as a window.
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

// How the layers are connected, in postfix notation: the index of a layer (>= 0), or what joins the
// two operands that were read last. Growths add up along a series, and the larger one counts of
// parallel branches.
namespace structure {
inline constexpr std::int32_t series = -1;
// A sum of two branches. A branch with layers of which none is kept is left out of the sum, also
// where its layers are irreducible, as long as the other one is there. If neither keeps any, which
// both must allow, the second one is there.
inline constexpr std::int32_t sum = -2;
inline constexpr std::int32_t join = -3;      // branches that must all be there: concatenation
inline constexpr std::int32_t identity = -4;  // an operand: a branch without layers
// An operand: -5 - l grows the kernel as layer l says and is always there, but holds no layer.
inline constexpr std::int32_t first_window = -5;
}  // namespace structure

struct MaxKernel {
    std::int32_t h = std::numeric_limits<std::int32_t>::max();
    std::int32_t w = std::numeric_limits<std::int32_t>::max();
};

// One entry per achievable kernel size, by (h, w); of one size, the empty set comes first, then a
// set that is not depthwise, then a depthwise one.
struct KernelSizes {
    std::vector<std::int32_t> kernel_h;
    std::vector<std::int32_t> kernel_w;
    std::vector<std::uint8_t> is_depthwise;  // all kept layers are depthwise
    std::vector<double> weight_l1;           // sum over the kept layers
    std::vector<std::uint8_t> kept;          // entry by entry, one flag per layer

    std::size_t size() const noexcept { return kernel_h.size(); }
};

// Every kernel size 1 + growth over a set of kept layers that contains the irreducible ones, with
// the set of largest sum of L1 norms, for sets of depthwise layers and for others; and the empty
// set, where nothing need be kept. Ties: more layers, then the lexicographically smallest list.
//
// `program` connects the layers; empty, it is the series of all. Dynamic programme from the leaves
// of that expression to its root, on the reachable growths only: a series of n layers takes
// O(n x reachable growths). Norms are summed as integers, in units of 2^-62 of the power of two
// above their total, so that equal sums are equal whatever the order of the layers.
//
// Throws std::invalid_argument, naming the argument and the value.
KernelSizes kernel_sizes(const SegmentLayers& layers, std::span<const std::int32_t> program = {},
                         MaxKernel max_kernel = {}, Interrupt interrupt = {});

}  // namespace layermerge
