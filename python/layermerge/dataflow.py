"""The operations that segments are made of, and what is left of a segment. Free of torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from layermerge.windows import POINT, Size, Window


class Kind(Enum):
    """What an operation means for merging."""

    LAYER = "layer"
    NORM = "norm"  # affine, channel by channel: batch norm in inference, a learned scale
    ACTIVATION = "activation"
    GATE = "gate"  # multiplies by what it computes of the value: squeeze-excite
    STATISTIC_NORM = "statistic_norm"  # by the statistics of the value: group norm, layer norm
    SUM = "sum"
    CONCAT = "concat"
    SLICE = "slice"  # some of the channels
    POOL = "pool"  # average
    PAD = "pad"
    SIDE = "side"  # adds one number for each image and channel
    IDENTITY = "identity"
    PART = "part"  # belongs to a gate, or to an activation that is written as several operations
    BARRIER = "barrier"


REMOVABLE = {
    "activation": Kind.ACTIVATION,
    "gate": Kind.GATE,
    "norm": Kind.STATISTIC_NORM,
}
"""What `trace` may be told to remove, by name."""

NONLINEAR = frozenset(REMOVABLE.values())


@dataclass(frozen=True)
class Operation:
    """What a node of the data-flow graph computes.

    Attributes
    ----------
    kind : Kind
    name : str
        In words, such as ``"relu"``.
    reason : str
        For a barrier, why it is one.
    window : Window
        Of a layer, a pooling or a padding.
    groups : int
        Of a layer.
    channels : (int, int)
        Of a slice: the first channel and the one after the last.
    unlock : str
        For a barrier that may be removed, the word of `REMOVABLE` that allows it.
    """

    kind: Kind
    name: str
    reason: str = ""
    window: Window = POINT
    groups: int = 1
    channels: tuple[int, int] = (0, 0)
    unlock: str = ""


@dataclass(frozen=True)
class Node:
    """An operation that a segment may contain.

    Attributes
    ----------
    name : str
        Its graph node, which also names the value that it computes.
    sources : tuple of str
        The values that it is computed from, as far as they matter to a segment: not the side
        input, and not what a gate multiplies by.
    channels, size : int and (int, int)
        Of its value.
    layer : int
        Index of the layer that it is; 0 for none.
    """

    name: str
    operation: Operation
    sources: tuple[str, ...]
    channels: int
    size: Size
    layer: int = 0

    @property
    def kind(self) -> Kind:
        """What it means for merging."""
        return self.operation.kind


@dataclass(frozen=True)
class Survivors:
    """What is left of a segment.

    Attributes
    ----------
    nodes : tuple of Node
        In topological order, their sources being nodes that are left, or the entry.
    exit : str
        The node that computes the segment's value, or the entry.
    stand_ins : mapping of str to str
        What takes the place of each node that goes.
    """

    nodes: tuple[Node, ...]
    exit: str
    stand_ins: Mapping[str, str]


def survivors(nodes: Sequence[Node], entry: str, kept: Collection[int]) -> Survivors:
    """Take from a segment what is not affine, and the layers that are not kept.

    A layer goes with the norm behind it and the padding in front. A branch of a sum that keeps
    none of its layers goes as a whole, so that a residual block becomes its shortcut: an emptied
    branch would double the value.

    Parameters
    ----------
    nodes : sequence of Node
        Of the segment, in topological order; the last one is its exit.
    entry : str
        The value that enters.
    kept : collection of int
        Indices of the layers that stay.
    """
    gone = {node.name for node in nodes if node.layer and node.layer not in kept}
    padded = _read_only_by(gone, nodes)
    layers = _upstream_layers(nodes, entry)
    held = sum(1 << layer for layer in kept)
    became: dict[str, str] = {}
    for node in nodes:
        if node.kind is Kind.SUM:
            left = _terms_left(node, layers, held)
            if len(left) < 2:
                became[node.name] = became.get(left[0], left[0])
        elif node.kind in NONLINEAR or node.name in gone or _goes_along(node, gone, padded):
            became[node.name] = became.get(node.sources[0], node.sources[0])
    exit = became.get(nodes[-1].name, nodes[-1].name)
    return Survivors(_needed(nodes, exit, became), exit, became)


def skeleton(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Take from a segment what decides neither on which pixels nor on which channels it depends.

    What survives of a skeleton has the windows and the channels of what survives of the segment.
    """
    bare = NONLINEAR | {Kind.NORM, Kind.IDENTITY}
    pads = {node.name for node in nodes if node.kind is Kind.PAD}
    became: dict[str, str] = {}
    for node in nodes[:-1]:
        if node.kind in bare and node.sources[0] not in pads:
            became[node.name] = became.get(node.sources[0], node.sources[0])
    return _needed(nodes, nodes[-1].name, became)


def _upstream_layers(nodes: Sequence[Node], entry: str) -> dict[str, int]:
    """For each value, the layers of the segment that it depends on, as a bit mask."""
    layers = {entry: 0}
    for node in nodes:
        own = 1 << node.layer if node.layer else 0
        for source in node.sources:
            own |= layers[source]
        layers[node.name] = own
    return layers


def _terms_left(node: Node, layers: Mapping[str, int], held: int) -> list[str]:
    """The terms of a sum that keep a layer of their own or never had one; at least one of them."""
    first, second = node.sources if len(node.sources) == 2 else node.sources * 2
    if first == second:
        return [first, second]
    own = {first: layers[first] & ~layers[second], second: layers[second] & ~layers[first]}
    left = [term for term in (first, second) if not own[term] or own[term] & held]
    return left or [second]


def _read_only_by(gone: Collection[str], nodes: Sequence[Node]) -> set[str]:
    """The values that nodes which go use, and no others."""
    used = {source for node in nodes if node.name in gone for source in node.sources}
    return used - {source for node in nodes if node.name not in gone for source in node.sources}


def _goes_along(node: Node, gone: Collection[str], padded: Collection[str]) -> bool:
    """Whether it belongs to a layer that goes: its norm, or the padding in front of it."""
    if node.kind is Kind.NORM:
        return node.sources[0] in gone
    return node.kind is Kind.PAD and node.name in padded


def _needed(nodes: Sequence[Node], exit: str, became: Mapping[str, str]) -> tuple[Node, ...]:
    """The nodes that the exit is computed from, reading from what stands in for those that went."""
    needed = {exit}
    left = []
    for node in reversed(nodes):
        if node.name in needed and node.name not in became:
            sources = tuple(became.get(source, source) for source in node.sources)
            needed.update(sources)
            left.append(
                Node(node.name, node.operation, sources, node.channels, node.size, node.layer)
            )
    return tuple(reversed(left))
