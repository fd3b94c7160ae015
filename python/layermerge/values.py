"""What is known of the values of a captured graph: shape, layout, and the operation behind each."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import fx

from layermerge.dataflow import Kind, Operation
from layermerge.windows import Size

_OPERATION, _SOURCES, _SIDE, _LAYOUT = "operation", "sources", "side", "channels_last"
"""Keys of ``node.meta``. Sources are remembered by their place among the arguments, so that they
stay right when a node is replaced by another."""


def annotate(
    node: fx.Node,
    found: Operation,
    sources: Sequence[fx.Node] | None = None,
    side: fx.Node | None = None,
) -> None:
    """Record what a node computes, and from which values as far as merging is concerned."""
    node.meta[_OPERATION] = found
    if sources is not None:
        node.meta[_SOURCES] = _places(node, sources)
    if side is not None:
        node.meta[_SIDE] = _places(node, [side])[0]


def set_channels_last(node: fx.Node, is_last: bool) -> None:
    """Record that the channels are the last dimension of a node's value, or that they are not."""
    node.meta[_LAYOUT] = is_last


def operation(node: fx.Node) -> Operation:
    """What a node of a captured graph means for merging."""
    found = node.meta.get(_OPERATION)
    return found if isinstance(found, Operation) else Operation(Kind.BARRIER, node.op)


def sources_of(node: fx.Node) -> list[fx.Node]:
    """The values that a node is computed from, as far as they matter to a segment."""
    if _SOURCES not in node.meta:
        return node.all_input_nodes
    inputs = _inputs(node)
    return [inputs[place] for place in node.meta[_SOURCES]]


def side_of(node: fx.Node) -> fx.Node | None:
    """The side input that a node adds."""
    return _inputs(node)[node.meta[_SIDE]] if _SIDE in node.meta else None


def _places(node: fx.Node, sources: Sequence[fx.Node]) -> list[int]:
    """The place of each source among the arguments; a repeated one has several."""
    free = dict(enumerate(_inputs(node)))
    places = []
    for source in sources:
        place = next(place for place, value in free.items() if value is source)
        del free[place]
        places.append(place)
    return places


def _inputs(node: fx.Node) -> list[fx.Node]:
    """The arguments that are nodes, in order, repetitions included."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of an image on the example; None for a value of another kind."""
    shape: tuple[int, ...] | None = node.meta.get("shape")
    return shape if shape is not None and len(shape) == 4 else None


def is_channels_last(node: fx.Node) -> bool:
    """Whether the channels are the last dimension: as its sources have it, unless recorded."""
    while _LAYOUT not in node.meta:
        images = [source for source in node.all_input_nodes if shape_of(source)]
        if not images:
            return False
        node = images[0]
    return bool(node.meta[_LAYOUT])


def channels_of(node: fx.Node) -> int:
    """Number of channels of an image."""
    shape = node.meta["shape"]
    return int(shape[3] if is_channels_last(node) else shape[1])


def size_of(node: fx.Node) -> Size:
    """Height and width of an image."""
    _, *sizes = node.meta["shape"]
    return (sizes[0], sizes[1]) if is_channels_last(node) else (sizes[1], sizes[2])


def lasting(text: str) -> str:
    """What `repr` says, without the addresses that are others in each process.

    Examples
    --------
    >>> lasting("Act(f=<function gelu at 0x7f29843aaf10>)")
    'Act(f=<function gelu>)'
    """
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)
