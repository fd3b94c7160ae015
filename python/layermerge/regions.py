"""Find the mergeable segments of a captured graph: single-entry single-exit affine regions."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_

from torch import fx, nn

from layermerge.convolutions import LayerModule
from layermerge.dataflow import NONLINEAR, Kind
from layermerge.gates import parts_of
from layermerge.values import operation, side_of, sources_of
from layermerge.windows import Size

_STOPS = frozenset({Kind.BARRIER, Kind.PART})
_NEEDS_LAYER_BEHIND = NONLINEAR | {Kind.POOL, Kind.PAD}
_MAY_LEAD_IN = frozenset({Kind.NORM, Kind.SLICE, Kind.POOL, Kind.PAD, Kind.SIDE, Kind.IDENTITY})


@dataclass(frozen=True)
class Region:
    """The nodes of a segment in topological order, between `entry` (outside) and `exit` (last)."""

    start: int
    end: int
    entry: fx.Node
    nodes: tuple[fx.Node, ...]

    @property
    def exit(self) -> fx.Node:
        """The node whose value the merged convolution computes."""
        return self.nodes[-1]


def layer_nodes(captured: fx.GraphModule) -> list[fx.Node]:
    """The convolutions that are layers, in execution order: layer l is the l-th."""
    return [node for node in captured.graph.nodes if operation(node).kind is Kind.LAYER]


def layer_module(captured: fx.GraphModule, node: fx.Node) -> LayerModule:
    """The convolution, or the linear layer, that a layer node calls."""
    module = captured.get_submodule(str(node.target))
    assert isinstance(module, (nn.Conv2d, nn.Linear))
    return module


def batch_norm(captured: fx.GraphModule, node: fx.Node) -> nn.BatchNorm2d:
    """The batch norm module that a norm node calls."""
    module = captured.get_submodule(str(node.target))
    assert isinstance(module, nn.BatchNorm2d)
    return module


def layer_input(node: fx.Node) -> fx.Node:
    """The value that enters a layer: before the zero padding, if that serves the layer alone."""
    (source,) = sources_of(node)
    if operation(source).kind is Kind.PAD and len(source.users) == 1:
        return layer_input(source)
    return source


def find_regions(captured: fx.GraphModule) -> Iterator[Region]:
    """Find every region that holds consecutive layers and is affine without what is removable.

    Yields
    ------
    Region
        In the order of (start, end). Of the regions with the same layers, the largest that
        removes nothing after its last layer; a single layer has only its norm with it.
    """
    search = _Search(captured)
    for start, first in enumerate(search.layers):
        found: dict[int, Region] = {}
        for entry in _entries(first):
            reachable = search.absorb(entry, start)
            for end in range(start + 1, len(search.layers) + 1):
                if search.layers[end - 1] not in reachable:
                    break
                nodes = () if end in found else search.region_nodes(reachable, start, end)
                if nodes:
                    found[end] = Region(start, end, entry, nodes)
        yield from (found[end] for end in sorted(found))


def _entries(first: fx.Node) -> Iterator[fx.Node]:
    """The values at which segments may enter whose first layer this is, the nearest one first.

    Besides the layer's own input, those are the values in front of it that other branches, too,
    are computed from: a pooling may lead from the fork into the branch that comes first.
    """
    entry = layer_input(first)
    yield entry
    while operation(entry).kind in _MAY_LEAD_IN:
        entry = sources_of(entry)[0]
        if len(entry.users) > 1:
            yield entry


def region_between(entry: fx.Node, exit: fx.Node) -> tuple[fx.Node, ...]:
    """The nodes on paths from `entry` (left out) to `exit` (included), in topological order."""
    descends = {entry}
    between = []
    node = entry
    while node is not exit:
        node = node.next
        if any(source in descends for source in sources_of(node)):
            descends.add(node)
            between.append(node)
    needed = _ancestors(exit, descends - {entry})
    return tuple(node for node in between if node in needed)


class _Search:
    """Look-ups over one captured graph that the search for regions needs again and again.

    Sets of layers are bit masks: bit l stands for layer l.
    """

    def __init__(self, captured: fx.GraphModule) -> None:
        self.layers = layer_nodes(captured)
        self.index = {node: place for place, node in enumerate(self.layers, start=1)}
        self.order = {node: place for place, node in enumerate(captured.graph.nodes)}

    def absorb(self, entry: fx.Node, start: int) -> dict[fx.Node, int]:
        """Collect, in topological order, what follows from `entry` alone, by affine operations.

        Returns
        -------
        dict
            For each node, the layers between it and `entry`, all of them after position `start`.
        """
        absorbed: dict[fx.Node, int] = {entry: 0}
        jumps: dict[fx.Node, Size] = {entry: (1, 1)}
        descends = {entry}
        frontier = [(self.order[user], user) for user in entry.users]
        heapq.heapify(frontier)
        while frontier:
            _, node = heapq.heappop(frontier)
            if node in descends:
                continue
            descends.add(node)
            sources = sources_of(node)
            is_absorbed = (
                all(source in absorbed for source in sources)
                and self._is_absorbable(node, start, descends)
                and len({jumps[source] for source in sources}) == 1
            )
            if is_absorbed:
                own = 1 << self.index[node] if node in self.index else 0
                absorbed[node] = reduce(or_, (absorbed[source] for source in sources), own)
                stride, jump = operation(node).window.stride, jumps[sources[0]]
                jumps[node] = (jump[0] * stride[0], jump[1] * stride[1])
            for user in node.users:
                heapq.heappush(frontier, (self.order[user], user))
        del absorbed[entry]
        return absorbed

    def region_nodes(
        self, reachable: dict[fx.Node, int], start: int, end: int
    ) -> tuple[fx.Node, ...]:
        """Return the largest closed region with exactly the layers start+1..end, or nothing."""
        wanted = (2 << end) - (2 << start)
        for exit in reversed(reachable):
            if reachable[exit] == wanted:
                inside = _ancestors(exit, reachable)
                nodes = tuple(node for node in reachable if node in inside)
                if self._is_closed(nodes, inside, is_single=end - start == 1):
                    return nodes
        return ()

    def _is_absorbable(self, node: fx.Node, start: int, descends: Container[fx.Node]) -> bool:
        kind = operation(node).kind
        if kind is Kind.SIDE and side_of(node) in descends:
            return False
        return kind not in _STOPS and (kind is not Kind.LAYER or self.index[node] > start)

    def _is_closed(
        self, nodes: tuple[fx.Node, ...], inside: set[fx.Node], *, is_single: bool
    ) -> bool:
        """Whether only the exit is used outside, and what is removed has a layer downstream."""
        own = inside.union(*(parts_of(node) for node in nodes))
        leads_to_layer: set[fx.Node] = set()
        for node in reversed(nodes):
            if node is not nodes[-1] and not all(user in own for user in node.users):
                return False
            users = [user for user in node.users if user in inside]
            if any(user in self.index or user in leads_to_layer for user in users):
                leads_to_layer.add(node)
            elif node not in self.index and not self._may_be_last(node, is_single):
                return False
        return True

    def _may_be_last(self, node: fx.Node, is_single: bool) -> bool:
        kind = operation(node).kind
        if is_single:
            return kind is Kind.NORM and sources_of(node)[0] in self.index
        return kind not in _NEEDS_LAYER_BEHIND


def _ancestors(node: fx.Node, within: Container[fx.Node]) -> set[fx.Node]:
    """The node itself and what it is computed from, as far as that lies `within`."""
    found = {node}
    stack = [node]
    while stack:
        for source in sources_of(stack.pop()):
            if source in within and source not in found:
                found.add(source)
                stack.append(source)
    return found
