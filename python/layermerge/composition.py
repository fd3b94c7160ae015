"""The algebra of affine maps of images: composition and addition of convolutions, in float64.

A map is y[q] = b + Σ_u K[u] x[s q + d u - P] on the infinite zero-padded plane, per axis; P is the
left (top) padding, and the right (bottom) padding says where the output stops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from layermerge.network import Padding, Size
from layermerge.regions import conv_padding, pair


@dataclass(frozen=True)
class AffineMap:
    """A convolution as a map.

    Attributes
    ----------
    kernel : Tensor
        float64, shape (out channels, in channels / groups, taps down, taps across).
    bias : Tensor
        float64, shape (out channels,).
    """

    kernel: Tensor
    bias: Tensor
    stride: Size = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: Size = (1, 1)
    groups: int = 1

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return self.kernel.shape[0]

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return self.kernel.shape[1] * self.groups


def identity(channels: int, device: torch.device) -> AffineMap:
    """The map y = x: a depthwise 1x1 Dirac kernel."""
    kernel = torch.ones(channels, 1, 1, 1, dtype=torch.float64, device=device)
    return AffineMap(kernel, kernel.new_zeros(channels), groups=channels)


def from_convolution(conv: nn.Conv2d) -> AffineMap:
    """The map that a convolution computes."""
    kernel = conv.weight.detach().double()
    bias = kernel.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().double()
    return AffineMap(
        kernel, bias, pair(conv.stride), conv_padding(conv), pair(conv.dilation), conv.groups
    )


def from_batch_norm(norm: nn.BatchNorm2d) -> AffineMap:
    """The map of an inference-mode batch norm: γ (x - μ) / √(σ² + ε) + β, channel by channel."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return AffineMap(scale.reshape(-1, 1, 1, 1), shift, groups=len(scale))


def pad(first: AffineMap, padding: Padding) -> AffineMap:
    """The map, followed by zero padding; negative amounts crop.

    On the infinite plane this only shifts the output, by `stride` input pixels for each pixel.
    """
    (height, width), (left, right, top, bottom) = first.stride, first.padding
    moved = (
        left + width * padding[0],
        right + width * padding[1],
        top + height * padding[2],
        bottom + height * padding[3],
    )
    return replace(first, padding=moved)


def compose(first: AffineMap, second: AffineMap) -> AffineMap:
    """The map x -> second(first(x)).

    Strides multiply; tap offsets are d₁ u + s₁ d₂ v on a grid of their gcd; P = P₁ + s₁ P₂;
    groups = gcd(g₁, g₂); b = b₂ + Σ K₂ b₁.
    """
    groups = math.gcd(first.groups, second.groups)
    inner, outer = _by_group(first, groups), _by_group(second, groups)
    grids = [_Grid.of(first, second, axis) for axis in (0, 1)]
    shape = (groups, outer.shape[1], inner.shape[2], grids[0].length, grids[1].length)
    kernel = inner.new_zeros(shape)
    for v_h in range(outer.shape[3]):
        for v_w in range(outer.shape[4]):
            product = torch.einsum("gom,gmihw->goihw", outer[..., v_h, v_w], inner)
            kernel[..., grids[0].taps(v_h), grids[1].taps(v_w)] += product
    bias = second.bias + torch.einsum(
        "gomhw,gm->go", outer, first.bias.reshape(groups, -1)
    ).reshape(-1)
    return AffineMap(
        kernel.flatten(0, 1),
        bias,
        (first.stride[0] * second.stride[0], first.stride[1] * second.stride[1]),
        pad(first, second.padding).padding,
        (grids[0].step, grids[1].step),
        groups,
    )


def add(first: AffineMap, second: AffineMap) -> AffineMap:
    """The map x -> first(x) + second(x), for maps of equal stride.

    Kernels are aligned by their left paddings (not their centres) and embedded in the union of
    their extents.
    """
    if first.stride != second.stride:
        raise ValueError(f"strides differ: {first.stride} and {second.stride}")
    groups = math.gcd(first.groups, second.groups)
    unions = [_Union.of(first, second, axis) for axis in (0, 1)]
    kernel = first.kernel.new_zeros(
        first.out_channels, first.in_channels // groups, unions[0].length, unions[1].length
    )
    for place, term in enumerate((first, second)):
        grouped = _by_group(term, groups).flatten(0, 1)
        kernel[..., unions[0].taps[place], unions[1].taps[place]] += grouped
    padding = (unions[1].before, unions[1].after, unions[0].before, unions[0].after)
    steps = (unions[0].step, unions[1].step)
    return AffineMap(kernel, first.bias + second.bias, first.stride, padding, steps, groups)


@dataclass(frozen=True)
class _Grid:
    """Where the taps of a composition lie along one axis, in steps of `step` pixels."""

    step: int
    length: int
    inner: slice
    outer_step: int

    @classmethod
    def of(cls, first: AffineMap, second: AffineMap, axis: int) -> _Grid:
        taps_1, taps_2 = first.kernel.shape[2 + axis], second.kernel.shape[2 + axis]
        spacing_1 = first.dilation[axis]
        spacing_2 = first.stride[axis] * second.dilation[axis]
        step = _grid_step((spacing_1, taps_1), (spacing_2, taps_2))
        extent_1 = spacing_1 * (taps_1 - 1)
        extent = extent_1 + spacing_2 * (taps_2 - 1)
        inner = slice(0, extent_1 // step + 1, max(spacing_1 // step, 1))
        return cls(step, extent // step + 1, inner, spacing_2 // step if taps_2 > 1 else 0)

    def taps(self, outer: int) -> slice:
        shift = outer * self.outer_step
        return slice(shift, shift + self.inner.stop, self.inner.step)


@dataclass(frozen=True)
class _Union:
    """How two kernels lie in the union of their extents along one axis."""

    step: int
    length: int
    before: int
    after: int
    taps: tuple[slice, slice]

    @classmethod
    def of(cls, first: AffineMap, second: AffineMap, axis: int) -> _Union:
        befores = [_padding(term, axis)[0] for term in (first, second)]
        afters = [_padding(term, axis)[1] for term in (first, second)]
        taps = [term.kernel.shape[2 + axis] for term in (first, second)]
        spacings = [term.dilation[axis] for term in (first, second)]
        step = _grid_step(*zip(spacings, taps, strict=True), (abs(befores[0] - befores[1]), 2))
        extents = [d * (k - 1) for d, k in zip(spacings, taps, strict=True)]
        before = max(befores)
        # The last tap lies at extent - before; the output stops as that of the shorter term does.
        reach = max(e - b for e, b in zip(extents, befores, strict=True))
        after = reach + min(a - (e - b) for a, e, b in zip(afters, extents, befores, strict=True))
        places = [
            slice(
                (before - b) // step,
                (before - b + e) // step + 1,
                max(d // step, 1),
            )
            for b, e, d in zip(befores, extents, spacings, strict=True)
        ]
        return cls(step, (before + reach) // step + 1, before, after, (places[0], places[1]))


def _grid_step(*spacings: tuple[int, int]) -> int:
    """The gcd of the spacings of more than one tap, 1 if there is none."""
    return math.gcd(*(spacing for spacing, taps in spacings if taps > 1)) or 1


def _padding(term: AffineMap, axis: int) -> tuple[int, int]:
    left, right, top, bottom = term.padding
    return (top, bottom) if axis == 0 else (left, right)


def _by_group(term: AffineMap, groups: int) -> Tensor:
    """The kernel as (groups, out / groups, in / groups, taps, taps), block-diagonal if coarser."""
    blocks = term.groups // groups
    out, per_group, *taps = term.kernel.shape
    fine = term.kernel.reshape(groups, blocks, out // term.groups, per_group, *taps)
    if blocks == 1:
        return fine[:, 0]
    coarse = fine.new_zeros(groups, blocks, out // term.groups, blocks, per_group, *taps)
    diagonal = torch.arange(blocks, device=fine.device)
    coarse[:, diagonal, :, diagonal] = fine.transpose(0, 1)
    return coarse.reshape(groups, out // groups, blocks * per_group, *taps)
