"""Bring every way to take some of the channels into one form, ``torch.narrow``."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx

_SPLITS = frozenset({"chunk", "split", "tensor_split"})


def narrow_slices(captured: fx.GraphModule) -> None:
    """Replace ``x[:, a:b]`` and the pieces of ``chunk`` and ``split`` by ``torch.narrow``."""
    for node in list(captured.graph.nodes):
        if node.target is not operator.getitem or len(node.meta.get("shape", ())) != 4:
            continue
        found = _interval(node)
        if found:
            source, axis, start = found
            length = node.meta["shape"][axis]
            with captured.graph.inserting_before(node):
                piece = captured.graph.call_function(torch.narrow, (source, axis, start, length))
            piece.meta.update(node.meta)
            node.replace_all_uses_with(piece)
            captured.graph.erase_node(node)
    for node in reversed(list(captured.graph.nodes)):
        if _name(node) in _SPLITS and not node.users:
            captured.graph.erase_node(node)
    captured.recompile()


def _interval(node: fx.Node) -> tuple[fx.Node, int, int] | None:
    """What is sliced, along which axis, and where the slice begins."""
    source, index = node.args
    assert isinstance(source, fx.Node)
    if _name(source) in _SPLITS and isinstance(index, int):
        return _piece(source, index)
    shape = source.meta.get("shape", ())
    if len(shape) != 4 or not isinstance(index, tuple) or len(index) > 4:
        return None
    if not all(isinstance(part, slice) and part.step in (None, 1) for part in index):
        return None
    bounds = [part.indices(size)[:2] for part, size in zip(index, shape, strict=False)]
    cut = [axis for axis, bound in enumerate(bounds) if bound != (0, shape[axis])]
    if len(cut) != 1 or cut[0] == 0:
        return None
    return source, cut[0], bounds[cut[0]][0]


def _piece(split: fx.Node, index: int) -> tuple[fx.Node, int, int] | None:
    """Where a piece begins: behind the pieces before it, which are all unpacked."""
    source = split.args[0]
    axis = split.kwargs.get("dim", split.args[2] if len(split.args) > 2 else 0)
    shape = source.meta.get("shape", ()) if isinstance(source, fx.Node) else ()
    if not isinstance(source, fx.Node) or not isinstance(axis, int) or len(shape) != 4:
        return None
    axis %= 4
    lengths = list(_lengths(split, shape[axis]))
    if axis == 0 or not lengths or not -len(lengths) <= index < len(lengths):
        return None
    return source, axis, sum(lengths[: index % len(lengths)])


def _lengths(split: fx.Node, total: int) -> Iterator[int]:
    given = split.kwargs.get("chunks", split.kwargs.get("split_size_or_sections"))
    given = split.args[1] if len(split.args) > 1 else given
    if isinstance(given, (tuple, list)):
        if _name(split) == "split":
            yield from (length for length in given if isinstance(length, int))
        return
    if not isinstance(given, int) or _name(split) == "tensor_split":
        return
    size = -(-total // given) if _name(split) == "chunk" else given
    for start in range(0, total, size):
        yield min(size, total - start)


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
