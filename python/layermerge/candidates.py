"""Enumerate what may replace each segment: merged kernel size, kept layers, signature."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from layermerge import _core
from layermerge.errors import InputError
from layermerge.network import Layer, Network, Padding, Segment, Size

METHODS = ("layermerge", "depth", "layer_only")


@dataclass(frozen=True)
class Signature:
    """What decides the latency of a merged convolution on a given device.

    Equal signatures are measured once. `is_sum` and `activation` describe what runs right after
    it: a residual addition, an activation.
    """

    in_channels: int
    out_channels: int
    kernel_size: Size
    stride: Size
    padding: Padding
    dilation: Size
    groups: int
    input_size: Size
    is_sum: bool
    activation: str | None

    @property
    def output_size(self) -> Size:
        """Height and width of the output."""
        left, right, top, bottom = self.padding
        height, width = self.input_size
        return (
            _output_length(
                height + top + bottom, self.kernel_size[0], self.stride[0], self.dilation[0]
            ),
            _output_length(
                width + left + right, self.kernel_size[1], self.stride[1], self.dilation[1]
            ),
        )

    def __str__(self) -> str:
        height, width = self.kernel_size
        parts = [f"{height}x{width}", f"{self.in_channels} -> {self.out_channels}"]
        if max(self.stride) > 1:
            parts.append(f"stride {max(self.stride)}")
        if self.is_depthwise:
            parts.append("depthwise")
        elif self.groups > 1:
            parts.append(f"{self.groups} groups")
        if self.is_sum:
            parts.append("add")
        if self.activation:
            parts.append(self.activation)
        return ", ".join(parts)

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is convolved on its own."""
        return self.groups == self.in_channels == self.out_channels and self.groups > 1

    @property
    def flops(self) -> int:
        """Multiply-adds x 2 of the convolution for one image (bias and activation left out)."""
        taps = self.kernel_size[0] * self.kernel_size[1]
        per_pixel = 2 * taps * self.in_channels // self.groups * self.out_channels
        return per_pixel * math.prod(self.output_size)


@dataclass(frozen=True)
class Candidate:
    """One way to run a segment: layers `kept` merge into a `kernel_size` convolution."""

    start: int
    end: int
    kernel_size: Size
    kept: tuple[int, ...]
    signature: Signature

    @property
    def is_original(self) -> bool:
        """Whether this leaves the network as it is: one layer, kept."""
        return self.end - self.start == 1 == len(self.kept)

    @property
    def key(self) -> str:
        """Identity within a network, as stored with scores.

        Examples
        --------
        ``"2-5:3x3:4,5"``: layers 3..5 become a 3x3 convolution made of layers 4 and 5.
        """
        height, width = self.kernel_size
        return f"{self.start}-{self.end}:{height}x{width}:{','.join(map(str, self.kept))}"


@dataclass(frozen=True)
class CandidateSpace:
    """All candidates of a network, ordered by (start, end, kernel size)."""

    network: Network
    candidates: tuple[Candidate, ...]
    method: str

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """The distinct signatures, in order of first appearance."""
        return tuple(dict.fromkeys(candidate.signature for candidate in self.candidates))

    @property
    def original(self) -> tuple[Candidate, ...]:
        """The candidates that leave every layer as it is."""
        return tuple(candidate for candidate in self.candidates if candidate.is_original)


def enumerate_candidates(
    network: Network,
    *,
    method: str = "layermerge",
    max_kernel: int | None = None,
    frozen: Collection[int] = (),
    breaks: Collection[int] = (),
) -> CandidateSpace:
    """Enumerate the candidates of every segment.

    For each segment and each achievable merged kernel size k = 1 + Σ d_l (k_l - 1) Π s, the kept
    set is the one with the largest Σ ‖θ_l‖₁ (paper, section 3; solved by dynamic programming in
    the core).

    Parameters
    ----------
    network : Network
    method : {"layermerge", "depth", "layer_only"}
        ``depth`` keeps every convolution (Kim et al., 2023); ``layer_only`` merges none, so that
        a segment is reduced to the one layer it keeps.
    max_kernel : int, optional
        Largest merged kernel, in taps along either axis. Original layers are exempt.
    frozen : collection of int
        Layers left as they are.
    breaks : collection of int
        Positions that no segment may cross.

    Returns
    -------
    CandidateSpace

    Raises
    ------
    InputError
        If an option names no method, layer or position of this network.
    """
    _check(network, method, max_kernel, frozen, breaks)
    candidates = [
        candidate
        for segment in network.segments
        if _is_allowed(segment, frozen, breaks)
        for candidate in _candidates_of(network, segment, max_kernel)
        if _fits_method(candidate, method)
    ]
    candidates.sort(key=lambda c: (c.start, c.end, c.kernel_size, c.signature.groups, c.kept))
    return CandidateSpace(network, tuple(candidates), method)


def _check(
    network: Network,
    method: str,
    max_kernel: int | None,
    frozen: Collection[int],
    breaks: Collection[int],
) -> None:
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if max_kernel is not None and (not isinstance(max_kernel, Integral) or max_kernel < 1):
        raise InputError(f"max_kernel must be a whole number of at least 1, got {max_kernel!r}")
    for layer in frozen:
        if not 1 <= layer <= network.num_layers:
            raise InputError(f"frozen names layer {layer}; layers are 1..{network.num_layers}")
    for position in breaks:
        if not 0 <= position <= network.num_layers:
            raise InputError(
                f"breaks names position {position}; positions are 0..{network.num_layers}"
            )


def _is_allowed(segment: Segment, frozen: Collection[int], breaks: Collection[int]) -> bool:
    if segment.end - segment.start == 1:
        return True
    return not any(layer in segment.indices for layer in frozen) and not any(
        segment.start < position < segment.end for position in breaks
    )


def _fits_method(candidate: Candidate, method: str) -> bool:
    if method == "depth":
        return len(candidate.kept) == candidate.end - candidate.start
    if method == "layer_only":
        return len(candidate.kept) == 1
    return True


def _candidates_of(
    network: Network, segment: Segment, max_kernel: int | None
) -> Iterator[Candidate]:
    layers = network.layers_of(segment)
    if len(layers) == 1:
        yield _candidate(segment, layers, layers)
        return
    growth = np.array(
        [
            (layer.growth[0] * jump[0], layer.growth[1] * jump[1])
            for layer, jump in zip(layers, segment.jumps, strict=True)
        ],
        dtype=np.int32,
    )
    cap = np.iinfo(np.int32).max if max_kernel is None else max_kernel
    _, _, _, kept_masks = _core.kernel_sizes(
        np.ascontiguousarray(growth[:, 0]),
        np.ascontiguousarray(growth[:, 1]),
        np.array([layer.weight_l1 for layer in layers]),
        np.array([layer.is_irreducible for layer in layers]),
        np.array([layer.is_depthwise for layer in layers]),
        max_kernel_h=cap,
        max_kernel_w=cap,
    )
    for mask in kept_masks:
        kept = tuple(layer for layer, is_kept in zip(layers, mask, strict=True) if is_kept)
        yield _candidate(segment, layers, kept)


def _candidate(segment: Segment, layers: tuple[Layer, ...], kept: tuple[Layer, ...]) -> Candidate:
    signature = _signature(segment, layers, kept)
    kernel_size = (
        signature.dilation[0] * (signature.kernel_size[0] - 1) + 1,
        signature.dilation[1] * (signature.kernel_size[1] - 1) + 1,
    )
    indices = tuple(layer.index for layer in kept)
    return Candidate(segment.start, segment.end, kernel_size, indices, signature)


def _signature(segment: Segment, layers: tuple[Layer, ...], kept: tuple[Layer, ...]) -> Signature:
    """Compose the kept layers: extents and paddings add up, scaled by the strides before them."""
    jumps = dict(zip((layer.index for layer in layers), segment.jumps, strict=True))
    padding = [0, 0, 0, 0]
    extent = [1, 1]
    for layer in kept:
        jump_h, jump_w = jumps[layer.index]
        extent[0] += layer.growth[0] * jump_h
        extent[1] += layer.growth[1] * jump_w
        for side, jump in enumerate((jump_w, jump_w, jump_h, jump_h)):
            padding[side] += layer.padding[side] * jump
    dilation = (_merged_dilation(kept, jumps, 0), _merged_dilation(kept, jumps, 1))
    stride = [1, 1]
    for layer in layers:
        for axis in (0, 1):
            stride[axis] = max(stride[axis], jumps[layer.index][axis] * layer.stride[axis])
    return Signature(
        segment.in_channels,
        segment.out_channels,
        ((extent[0] - 1) // dilation[0] + 1, (extent[1] - 1) // dilation[1] + 1),
        (stride[0], stride[1]),
        (padding[0], padding[1], padding[2], padding[3]),
        dilation,
        math.gcd(*(layer.groups for layer in kept)),
        segment.input_size,
        segment.is_sum,
        segment.activation,
    )


def _merged_dilation(kept: tuple[Layer, ...], jumps: dict[int, Size], axis: int) -> int:
    """Spacing of the merged taps: the gcd of the tap spacings that occur, 1 if there is one tap."""
    spacings = (
        layer.dilation[axis] * jumps[layer.index][axis]
        for layer in kept
        if layer.kernel_size[axis] > 1
    )
    return math.gcd(*spacings) or 1


def _output_length(padded: int, taps: int, stride: int, dilation: int) -> int:
    return (padded - dilation * (taps - 1) - 1) // stride + 1
