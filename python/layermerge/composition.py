"""The algebra of affine maps of images: composition, addition and concatenation, in float64.

A map is y[q] = b + Σ_u K[u] x[s q + d u - P] + Σ_v M_v v on the infinite zero-padded plane. x is
what enters a segment, and the v are its side inputs: one number for each image and channel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import torch
from torch import Tensor, nn

from layermerge import windows
from layermerge.convolutions import LayerModule, exact_weight_of, window_of
from layermerge.windows import NO_PADDING, Grid, Padding, Size, Union, Window


@dataclass(frozen=True)
class AffineMap:
    """A convolution as a map.

    Attributes
    ----------
    kernel : Tensor
        float64, shape (out channels, in channels / groups, taps down, taps across).
    bias : Tensor
        float64, shape (out channels,).
    sides : mapping of str to Tensor
        For each side input, by node name, its float64 matrix (out channels, side channels).
    """

    kernel: Tensor
    bias: Tensor
    stride: Size = (1, 1)
    padding: Padding = NO_PADDING
    dilation: Size = (1, 1)
    groups: int = 1
    sides: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return self.kernel.shape[0]

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return self.kernel.shape[1] * self.groups

    @property
    def window(self) -> Window:
        """Which pixels it sees."""
        taps = (self.kernel.shape[2], self.kernel.shape[3])
        return Window(taps, self.stride, self.padding, self.dilation)


def identity(channels: int, device: torch.device) -> AffineMap:
    """The map y = x: a depthwise 1x1 Dirac kernel."""
    kernel = torch.ones(channels, 1, 1, 1, dtype=torch.float64, device=device)
    return AffineMap(kernel, kernel.new_zeros(channels), groups=channels)


def from_convolution(conv: LayerModule) -> AffineMap:
    """The map that a convolution computes, or a linear layer at every pixel."""
    kernel = exact_weight_of(conv)
    bias = kernel.new_zeros(len(kernel)) if conv.bias is None else conv.bias.detach().double()
    return _on(window_of(conv), kernel, bias, getattr(conv, "groups", 1))


def from_batch_norm(norm: nn.BatchNorm2d) -> AffineMap:
    """The map of an inference-mode batch norm: γ (x - μ) / √(σ² + ε) + β, channel by channel."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    shift = -norm.running_mean.double() * factor
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return scale(factor, shift)


def scale(factor: Tensor, shift: Tensor) -> AffineMap:
    """The map y = factor x + shift, channel by channel."""
    return AffineMap(factor.double().reshape(-1, 1, 1, 1), shift.double(), groups=len(factor))


def average(channels: int, window: Window, device: torch.device) -> AffineMap:
    """The map of an average pooling that counts what it pads."""
    taps = window.kernel_size
    kernel = torch.full((channels, 1, *taps), 1 / math.prod(taps), dtype=torch.float64)
    bias = torch.zeros(channels, dtype=torch.float64)
    return _on(window, kernel.to(device), bias.to(device), channels)


def pad(first: AffineMap, padding: Padding) -> AffineMap:
    """The map, followed by zero padding; negative amounts crop."""
    return replace(first, padding=first.window.padded(padding).padding)


def select(first: AffineMap, start: int, stop: int) -> AffineMap:
    """The output channels start..stop-1 of a map."""
    dense = regroup(first, 1)
    sides = {name: matrix[start:stop] for name, matrix in first.sides.items()}
    return replace(dense, kernel=dense.kernel[start:stop], bias=first.bias[start:stop], sides=sides)


def add_side(first: AffineMap, name: str, channels: int) -> AffineMap:
    """The map plus a side input of as many channels, or of one channel for all."""
    own = first.kernel.new_ones(first.out_channels, 1)
    matrix = own if channels == 1 else torch.diag(own[:, 0])
    known = first.sides.get(name)
    return replace(first, sides={**first.sides, name: matrix if known is None else known + matrix})


def compose(first: AffineMap, second: AffineMap) -> AffineMap:
    """The map x -> second(first(x)): see `windows.compose`; groups gcd(g₁, g₂), b = b₂ + ΣK₂b₁."""
    groups = math.gcd(first.groups, second.groups)
    inner, outer, equation = _operands(first, second, groups)
    down, across = (Grid.of(first.window, second.window, axis) for axis in (0, 1))
    kernel = inner.new_zeros(
        second.out_channels, first.in_channels // groups, down.length, across.length
    )
    for v_h in range(outer.shape[-2]):
        for v_w in range(outer.shape[-1]):
            product = torch.einsum(equation, outer[..., v_h, v_w], inner)
            kernel[..., down.taps(v_h), across.taps(v_w)] += product.reshape(
                *kernel.shape[:2], *first.kernel.shape[2:]
            )
    total = _by_group(second, second.groups).sum((3, 4))
    through = {name: _apply(total, matrix) for name, matrix in first.sides.items()}
    return _on(
        windows.compose(first.window, second.window),
        kernel,
        second.bias + _apply(total, first.bias[:, None])[:, 0],
        groups,
        _sum_of_sides([through, second.sides]),
    )


def _operands(first: AffineMap, second: AffineMap, groups: int) -> tuple[Tensor, Tensor, str]:
    """The kernels to multiply, tap by tap, and how: of one of them each block is used but once.

    Batch norms and depthwise convolutions have as many blocks as channels, and a product with the
    matrix that they are would cost that many times more.
    """
    coarse, fine = first.groups // groups, second.groups // groups
    if fine > 1 or coarse == 1:
        inner, outer = _by_group(first, groups), _by_group(second, second.groups)
        inner = inner.reshape(second.groups, -1, *inner.shape[2:])
        return inner, outer, "gom,gmihw->goihw"
    inner, outer = _by_group(first, first.groups), _by_group(second, groups)
    inner = inner.reshape(groups, coarse, *inner.shape[1:])
    outer = outer.reshape(*outer.shape[:2], coarse, -1, *outer.shape[3:])
    return inner, outer, "goam,gamihw->goaihw"


def add(first: AffineMap, second: AffineMap) -> AffineMap:
    """The map x -> first(x) + second(x), for maps of equal stride: see `windows.union`."""
    groups = math.gcd(first.groups, second.groups)
    window = windows.union(first.window, second.window)
    kernel = _embed(first, groups, window).add_(_embed(second, groups, window))
    sides = _sum_of_sides([first.sides, second.sides])
    return _on(window, kernel, first.bias + second.bias, groups, sides)


def concatenate(terms: Sequence[AffineMap]) -> AffineMap:
    """The map x -> the outputs of all terms, of equal stride, stacked along the channels."""
    window = reduce(windows.union, (term.window for term in terms))
    kernel = torch.cat([_embed(term, 1, window) for term in terms])
    ends = [sum(term.out_channels for term in terms[: place + 1]) for place in range(len(terms))]
    stacked: list[Mapping[str, Tensor]] = []
    for term, end in zip(terms, ends, strict=True):
        rows = slice(end - term.out_channels, end)
        stacked.append({name: _rows(m, rows, ends[-1]) for name, m in term.sides.items()})
    bias = torch.cat([term.bias for term in terms])
    return _on(window, kernel, bias, 1, _sum_of_sides(stacked))


def regroup(term: AffineMap, groups: int) -> AffineMap:
    """The same map in fewer groups, or in more where its kernel is block-diagonal."""
    if groups == term.groups:
        return term
    if groups % term.groups:
        return replace(term, kernel=_by_group(term, groups).flatten(0, 1), groups=groups)
    blocks = groups // term.groups
    out, per_group, *taps = term.kernel.shape
    coarse = term.kernel.reshape(
        term.groups, blocks, out // groups, blocks, per_group // blocks, *taps
    )
    diagonal = torch.arange(blocks, device=coarse.device)
    kernel = coarse[:, diagonal, :, diagonal].transpose(0, 1).flatten(0, 2)
    return replace(term, kernel=kernel, groups=groups)


def _on(
    window: Window,
    kernel: Tensor,
    bias: Tensor,
    groups: int,
    sides: Mapping[str, Tensor] | None = None,
) -> AffineMap:
    return AffineMap(
        kernel, bias, window.stride, window.padding, window.dilation, groups, sides or {}
    )


def _embed(term: AffineMap, groups: int, window: Window) -> Tensor:
    """The kernel, in as many groups, placed in a larger window of the same stride."""
    down, across = (Union.of(window, term.window, axis).taps[1] for axis in (0, 1))
    shape = (term.out_channels, term.in_channels // groups, *window.kernel_size)
    kernel = term.kernel.new_zeros(shape)
    kernel[..., down, across] = regroup(term, groups).kernel
    return kernel


def _apply(total: Tensor, matrix: Tensor) -> Tensor:
    """Multiply by a block-diagonal matrix, given as (groups, out / groups, in / groups)."""
    grouped = matrix.reshape(len(total), -1, matrix.shape[1])
    return torch.einsum("gom,gmv->gov", total, grouped).flatten(0, 1)


def _rows(matrix: Tensor, rows: slice, height: int) -> Tensor:
    placed = matrix.new_zeros(height, matrix.shape[1])
    placed[rows] = matrix
    return placed


def _sum_of_sides(terms: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for term in terms:
        for name, matrix in term.items():
            total[name] = total[name] + matrix if name in total else matrix
    return total


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
