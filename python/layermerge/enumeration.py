"""Enumerate the candidates of every segment."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np

from layermerge import _core
from layermerge.arguments import check_argument
from layermerge.candidates import Candidate, CandidateSpace, Signature
from layermerge.channels import follow_channels
from layermerge.checks import check_truth
from layermerge.dataflow import Kind, Node, Survivors, skeleton, survivors
from layermerge.network import Layer, Network, Segment
from layermerge.restrictions import Limits, check_restrictions, frozen_layers, is_allowed
from layermerge.structure import Block, follow_windows, structure_of
from layermerge.windows import NO_PADDING, Size

MAX_WEIGHTS = 2**25
"""Of a merged convolution, unless told otherwise: 256 MiB in float64."""


def enumerate_candidates(
    network: Network,
    *,
    method: str = "layermerge",
    max_kernel: int | None = None,
    max_segment: int | None = None,
    max_flops_ratio: float | None = None,
    max_weights: int | None = MAX_WEIGHTS,
    frozen: Collection[int | str] = (),
    breaks: Collection[int] = (),
    drop_branches: bool = True,
    boundary_activation: bool = False,
) -> CandidateSpace:
    """Enumerate the candidates of every segment.

    For each segment and each achievable merged kernel size k = 1 + Σ d_l (k_l - 1) Π s, the kept
    set is the one with the largest Σ ‖θ_l‖₁ (paper, section 3; solved by dynamic programming in
    the core). Of parallel branches the larger growth counts, and a branch of a sum may go as a
    whole.

    Parameters
    ----------
    network : Network
    method : {"layermerge", "depth", "layer_only"}
        ``depth`` keeps every convolution (Kim et al., 2023); ``layer_only`` merges none, so that
        a segment is reduced to the one layer it keeps, if any.
    max_kernel : int, optional
        Largest merged kernel, in pixels along either axis. Original layers are exempt.
    max_segment : int, optional
        Most layers in a segment.
    max_flops_ratio : float, optional
        Leave out candidates with more than so many times the FLOPs of the layers they replace.
    max_weights : int, optional
        Leave out candidates whose merged convolution has more weights.
    frozen : collection of int or str
        Layers left as they are, by number or by name; the name of a module that holds several
        stands for all of them.
    breaks : collection of int
        Positions that no segment may cross.
    drop_branches : bool
        Offer to drop a branch of a sum whole, also where its layers change the channels, so that a
        residual block becomes its shortcut; and any segment whose input may stand in for its
        output.
    boundary_activation : bool
        Add an activation behind each merged segment that has none there, of the kind that was
        removed last inside it (the paper does so for MobileNetV2).

    Returns
    -------
    CandidateSpace

    Raises
    ------
    InputError
        If an option names no method, layer or position of this network.
    """
    check_argument("network", network, Network)
    limits = {
        "max_kernel": max_kernel,
        "max_segment": max_segment,
        "max_weights": max_weights,
        "max_flops_ratio": max_flops_ratio,
    }
    check_restrictions(network, method, limits, breaks)
    check_truth("drop_branches", drop_branches)
    check_truth("boundary_activation", boundary_activation)
    left = frozen_layers(network, frozen)
    search = _Search(
        network,
        method,
        max_kernel,
        Limits(max_flops_ratio, max_weights),
        left,
        drop_branches,
        boundary_activation,
    )
    found = [
        candidate
        for segment in network.segments
        if is_allowed(segment, max_segment, left, breaks)
        for candidate in search.candidates(segment)
    ]
    found.sort(key=lambda c: (c.start, c.end, c.kernel_size, c.signature.groups, c.kept))
    return CandidateSpace(network, tuple(found), method, dict(search.skipped))


@dataclass(frozen=True)
class _Search:
    network: Network
    method: str
    max_kernel: int | None
    limits: Limits
    frozen: Collection[int]
    drop_branches: bool
    boundary_activation: bool
    skipped: Counter[str] = field(default_factory=Counter)

    def candidates(self, segment: Segment) -> Iterator[Candidate]:
        """The candidates of one segment: of one kernel size and kind, the best."""
        nodes = self.network.nodes_of(segment)
        bare = skeleton(nodes)
        replaced_flops = sum(layer.flops for layer in self.network.layers_of(segment))
        is_bounded = segment.end - segment.start > 1 and _is_gapless(bare)
        whole = _layers_of_all_channels(bare)
        best: dict[tuple[Size, bool, bool], tuple[float, Candidate]] = {}
        for kept, size, weight_l1 in self._kept_sets(segment, nodes):
            if not self._is_wanted(segment, kept):
                continue
            weights = self._least_weights(segment, whole & {*kept}, size) if is_bounded else 0
            flops = 2 * weights * math.prod(segment.output_size)
            if reason := self.limits.why_skipped(weights, flops, replaced_flops):
                self.skipped[reason] += 1
                continue
            candidate = self._candidate(segment, nodes, bare, kept)
            if candidate is None or not self._is_small(candidate):
                continue
            key = (candidate.kernel_size, candidate.signature.is_depthwise, bool(kept))
            if key not in best or weight_l1 > best[key][0]:
                best[key] = (weight_l1, candidate)
        for _, candidate in best.values():
            signature = candidate.signature
            reason = self.limits.why_skipped(signature.num_weights, signature.flops, replaced_flops)
            if reason and not candidate.is_original:
                self.skipped[reason] += 1
            else:
                yield candidate

    def _is_wanted(self, segment: Segment, kept: tuple[int, ...]) -> bool:
        length = segment.end - segment.start
        if self.method == "depth" and len(kept) < length:
            return False
        if self.method == "layer_only" and len(kept) > 1:
            return False
        return segment.end not in self.frozen or len(kept) == 1 == length

    def _least_weights(self, segment: Segment, kept: Collection[int], size: Size) -> int:
        """A lower bound on the weights of the merged convolution, for gapless segments.

        Compositions and sums have as many groups as the gcd of their parts at most, of those
        parts that see all channels.
        """
        ends = math.gcd(segment.in_channels, segment.out_channels)
        groups = math.gcd(ends, *(self.network.layers[layer - 1].groups for layer in kept))
        return math.prod(size) * segment.in_channels // groups * segment.out_channels

    def _is_small(self, candidate: Candidate) -> bool:
        is_exempt = self.max_kernel is None or candidate.is_original
        return is_exempt or max(candidate.kernel_size) <= (self.max_kernel or 0)

    def _kept_sets(
        self, segment: Segment, nodes: tuple[Node, ...]
    ) -> Iterator[tuple[tuple[int, ...], Size, float]]:
        """Kept layers, how large a kernel they make at least, and the L1 norm of their weights."""
        layers = self.network.layers_of(segment)
        if len(layers) == 1:
            yield (layers[0].index,), (1, 1), layers[0].weight_l1
            if not layers[0].is_irreducible:
                yield (), (0, 0), 0.0
            return
        structure = structure_of(nodes, segment.entry, drop_branches=self.drop_branches)
        by_index = {layer.index: layer for layer in layers}
        blocks = [_measured(block, by_index) for block in structure.blocks]
        growth = np.array([block.growth for block in structure.blocks], dtype=np.int32)
        cap = np.iinfo(np.int32).max if self.max_kernel is None else self.max_kernel
        sizes, _, norms, masks = _core.kernel_sizes(
            np.ascontiguousarray(growth[:, 0]),
            np.ascontiguousarray(growth[:, 1]),
            np.array([weight_l1 for weight_l1, _, _ in blocks]),
            np.array([is_irreducible for _, is_irreducible, _ in blocks]),
            np.array([is_depthwise for _, _, is_depthwise in blocks]),
            program=np.array(structure.program, dtype=np.int32),
            max_kernel_h=cap,
            max_kernel_w=cap,
        )
        for mask, (height, width), weight_l1 in zip(masks, sizes, norms, strict=True):
            held = [b.layers for b, is_kept in zip(structure.blocks, mask, strict=True) if is_kept]
            kept = tuple(sorted(sum(held, ())))
            yield kept, (int(height), int(width)) if kept else (0, 0), float(weight_l1)

    def _candidate(
        self,
        segment: Segment,
        nodes: tuple[Node, ...],
        bare: tuple[Node, ...],
        kept: tuple[int, ...],
    ) -> Candidate | None:
        left = survivors(bare if kept else nodes, segment.entry, kept)
        if not kept and not (self.drop_branches and _may_drop(segment, left)):
            return None
        is_merged = segment.end - segment.start > 1 and bool(kept)
        activation = self._added_activation(segment, nodes) if is_merged else None
        norm = _moved_norm(segment, nodes) if is_merged else None
        signature = _signature(segment, left, kept, activation)
        kernel_size = (0, 0)
        if kept:
            down, across = signature.kernel_size
            kernel_size = (
                signature.dilation[0] * (down - 1) + 1,
                signature.dilation[1] * (across - 1) + 1,
            )
        tail = (*segment.tail, *([norm] if norm else []))
        return Candidate(
            segment.start, segment.end, kernel_size, kept, signature, tail, activation, norm
        )

    def _added_activation(self, segment: Segment, nodes: tuple[Node, ...]) -> str | None:
        if not self.boundary_activation or segment.activation:
            return None
        removed = [node.operation.name for node in nodes if node.kind is Kind.ACTIVATION]
        return removed[-1] if removed else None


def _is_gapless(nodes: tuple[Node, ...]) -> bool:
    """Whether merged kernels have as many taps as pixels."""
    return not any(
        any(dilation > 1 for dilation in node.operation.window.dilation)
        or any(
            stride > 1 == taps
            for stride, taps in zip(
                node.operation.window.stride, node.operation.window.kernel_size, strict=True
            )
        )
        for node in nodes
    )


def _layers_of_all_channels(nodes: tuple[Node, ...]) -> set[int]:
    """The layers that do not lie between a slice of the channels and a concatenation."""
    num_slices: dict[str, int] = {}
    for node in nodes:
        inside = max((num_slices.get(source, 0) for source in node.sources), default=0)
        change = {Kind.SLICE: 1, Kind.CONCAT: -1}.get(node.kind, 0)
        num_slices[node.name] = max(0, inside + change)
    return {node.layer for node in nodes if node.layer and not num_slices[node.name]}


def _measured(block: Block, layers: dict[int, Layer]) -> tuple[float, bool, bool]:
    """L1 norm of a block's weights, whether it must stay, and whether it is depthwise."""
    own = [layers[index] for index in block.layers]
    must_stay = block.is_rigid or any(layer.is_irreducible for layer in own)
    return (
        math.fsum(layer.weight_l1 for layer in own),
        must_stay,
        all(layer.is_depthwise for layer in own),
    )


def _may_drop(segment: Segment, left: Survivors) -> bool:
    """Whether the identity may stand in for the segment, and nothing of it is left."""
    same_shape = (segment.in_channels, segment.input_size) == (
        segment.out_channels,
        segment.output_size,
    )
    is_empty = all(node.kind is Kind.IDENTITY for node in left.nodes)
    return segment.is_droppable and same_shape and is_empty


def _moved_norm(segment: Segment, nodes: tuple[Node, ...]) -> str | None:
    """The last norm inside that fits behind the merged convolution (the paper's DDPM)."""
    fitting = [
        node.name
        for node in nodes
        if node.kind is Kind.STATISTIC_NORM and node.channels == segment.out_channels
    ]
    return fitting[-1] if fitting else None


def _signature(
    segment: Segment, left: Survivors, kept: tuple[int, ...], activation: str | None
) -> Signature:
    """Compose what is left of a segment."""
    if not kept:
        taps, stride, padding, dilation, groups = (0, 0), (1, 1), NO_PADDING, (1, 1), 1
    else:
        window = follow_windows(left.nodes, segment.entry)[left.exit]
        support = follow_channels(left.nodes, segment.entry, segment.in_channels)[left.exit]
        taps, stride, padding = window.kernel_size, window.stride, window.padding
        dilation, groups = window.dilation, support.groups(segment.in_channels)
    return Signature(
        segment.in_channels,
        segment.out_channels,
        taps,
        stride,
        padding,
        dilation,
        groups,
        segment.input_size,
        segment.is_sum,
        segment.activation or activation,
    )
