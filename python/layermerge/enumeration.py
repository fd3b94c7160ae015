"""Enumerate the candidates of every segment."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np

from layermerge import _core
from layermerge.candidates import METHODS, Candidate, CandidateSpace, Signature
from layermerge.channels import follow_channels
from layermerge.dataflow import Kind, Node, Survivors, survivors
from layermerge.errors import InputError
from layermerge.network import Layer, Network, Segment
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
    frozen: Collection[int] = (),
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
    frozen : collection of int
        Layers left as they are.
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
    limits = {"max_kernel": max_kernel, "max_segment": max_segment, "max_weights": max_weights}
    _check(network, method, limits, frozen, breaks)
    _check_ratio(max_flops_ratio)
    search = _Search(network, max_kernel, drop_branches, boundary_activation)
    found = []
    for segment in network.segments:
        if not _is_allowed(segment, max_segment, frozen, breaks):
            continue
        for candidate in search.candidates(segment):
            if not _fits_method(candidate, method) or (
                candidate.end in frozen and not candidate.is_original
            ):
                continue
            found.append(candidate)
    found.sort(key=lambda c: (c.start, c.end, c.kernel_size, c.signature.groups, c.kept))
    space = CandidateSpace(network, tuple(found), method)
    return limit_work(space, max_flops_ratio, max_weights)


def limit_work(
    space: CandidateSpace, max_flops_ratio: float | None, max_weights: int | None = None
) -> CandidateSpace:
    """Leave out the candidates above the limits of `enumerate_candidates`, and count them."""
    _check_ratio(max_flops_ratio)
    left, skipped = [], Counter[str]()
    for candidate in space.candidates:
        reason = _why_skipped(space.network, candidate, max_flops_ratio, max_weights)
        if reason:
            skipped[reason] += 1
        else:
            left.append(candidate)
    return replace(space, candidates=tuple(left), skipped=dict(skipped))


def _check(
    network: Network,
    method: str,
    limits: dict[str, int | None],
    frozen: Collection[int],
    breaks: Collection[int],
) -> None:
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    for name, limit in limits.items():
        if limit is not None and (not isinstance(limit, Integral) or limit < 1):
            raise InputError(f"{name} must be a whole number of at least 1, got {limit!r}")
    _check_places("frozen", "layer", frozen, range(1, network.num_layers + 1))
    _check_places("breaks", "position", breaks, range(network.num_layers + 1))


def _check_ratio(ratio: float | None) -> None:
    if ratio is not None and not (isinstance(ratio, Real) and ratio > 0):
        raise InputError(f"max_flops_ratio must be a number greater than 0, got {ratio!r}")


def _check_places(name: str, word: str, places: Collection[int], allowed: range) -> None:
    if not isinstance(places, Collection):
        raise InputError(f"{name} must be a collection of {word}s, got {places!r}")
    for place in places:
        if not isinstance(place, Integral) or place not in allowed:
            raise InputError(
                f"{name} names {word} {place!r}; {word}s are {allowed[0]}..{allowed[-1]}"
            )


def _is_allowed(
    segment: Segment, max_segment: int | None, frozen: Collection[int], breaks: Collection[int]
) -> bool:
    length = segment.end - segment.start
    if length == 1:
        return True
    return (
        (max_segment is None or length <= max_segment)
        and not any(layer in segment.indices for layer in frozen)
        and not any(segment.start < position < segment.end for position in breaks)
    )


def _fits_method(candidate: Candidate, method: str) -> bool:
    if method == "depth":
        return len(candidate.kept) == candidate.end - candidate.start
    if method == "layer_only":
        return len(candidate.kept) <= 1
    return True


def _why_skipped(
    network: Network,
    candidate: Candidate,
    max_flops_ratio: float | None,
    max_weights: int | None,
) -> str:
    if candidate.is_original:
        return ""
    if max_weights is not None and candidate.signature.num_weights > max_weights:
        return f"more than {max_weights} weights"
    replaced = sum(layer.flops for layer in network.layers[candidate.start : candidate.end])
    if max_flops_ratio is not None and candidate.signature.flops > max_flops_ratio * replaced:
        return f"more than {max_flops_ratio:g} times the FLOPs"
    return ""


@dataclass(frozen=True)
class _Search:
    network: Network
    max_kernel: int | None
    drop_branches: bool
    boundary_activation: bool

    def candidates(self, segment: Segment) -> Iterator[Candidate]:
        """The candidates of one segment: of one kernel size and kind, the best."""
        nodes = self.network.nodes_of(segment)
        best: dict[tuple[Size, bool, bool], tuple[float, Candidate]] = {}
        for kept, weight_l1 in self._kept_sets(segment, nodes):
            candidate = self._candidate(segment, nodes, kept)
            if candidate is None or not self._is_small(candidate):
                continue
            key = (candidate.kernel_size, candidate.signature.is_depthwise, bool(kept))
            if key not in best or weight_l1 > best[key][0]:
                best[key] = (weight_l1, candidate)
        yield from (candidate for _, candidate in best.values())

    def _is_small(self, candidate: Candidate) -> bool:
        is_exempt = self.max_kernel is None or candidate.is_original
        return is_exempt or max(candidate.kernel_size) <= (self.max_kernel or 0)

    def _kept_sets(
        self, segment: Segment, nodes: tuple[Node, ...]
    ) -> Iterator[tuple[tuple[int, ...], float]]:
        layers = self.network.layers_of(segment)
        if len(layers) == 1:
            yield (layers[0].index,), layers[0].weight_l1
            if not layers[0].is_irreducible:
                yield (), 0.0
            return
        structure = structure_of(nodes, segment.entry, drop_branches=self.drop_branches)
        by_index = {layer.index: layer for layer in layers}
        blocks = [_measured(block, by_index) for block in structure.blocks]
        growth = np.array([block.growth for block in structure.blocks], dtype=np.int32)
        cap = np.iinfo(np.int32).max if self.max_kernel is None else self.max_kernel
        _, _, norms, masks = _core.kernel_sizes(
            np.ascontiguousarray(growth[:, 0]),
            np.ascontiguousarray(growth[:, 1]),
            np.array([weight_l1 for weight_l1, _, _ in blocks]),
            np.array([is_irreducible for _, is_irreducible, _ in blocks]),
            np.array([is_depthwise for _, _, is_depthwise in blocks]),
            program=np.array(structure.program, dtype=np.int32),
            max_kernel_h=cap,
            max_kernel_w=cap,
        )
        for mask, weight_l1 in zip(masks, norms, strict=True):
            held = [b.layers for b, is_kept in zip(structure.blocks, mask, strict=True) if is_kept]
            yield tuple(sorted(sum(held, ()))), float(weight_l1)

    def _candidate(
        self, segment: Segment, nodes: tuple[Node, ...], kept: tuple[int, ...]
    ) -> Candidate | None:
        left = survivors(nodes, segment.entry, kept)
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
