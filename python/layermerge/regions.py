"""Find the mergeable segments of a captured graph: single-entry single-exit affine regions."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_

from torch import fx, nn

from layermerge.network import Padding, Size
from layermerge.operations import Kind, operation

_ABSORBABLE = frozenset({Kind.LAYER, Kind.NORM, Kind.ACTIVATION, Kind.SUM, Kind.IDENTITY})


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


def convolution(captured: fx.GraphModule, node: fx.Node) -> nn.Conv2d:
    """The convolution module that a layer node calls."""
    module = captured.get_submodule(str(node.target))
    assert isinstance(module, nn.Conv2d)
    return module


def batch_norm(captured: fx.GraphModule, node: fx.Node) -> nn.BatchNorm2d:
    """The batch norm module that a norm node calls."""
    module = captured.get_submodule(str(node.target))
    assert isinstance(module, nn.BatchNorm2d)
    return module


def conv_padding(conv: nn.Conv2d) -> Padding:
    """The (left, right, top, bottom) padding of a convolution, ``"same"`` and ``"valid"`` too."""
    if conv.padding == "valid":
        return (0, 0, 0, 0)
    if conv.padding == "same":
        total_h, total_w = (
            d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)
        )
        return (total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2)
    height, width = int(conv.padding[0]), int(conv.padding[1])
    return (width, width, height, height)


def pair(values: tuple[int, ...]) -> Size:
    """A (height, width) pair out of a convolution's settings."""
    return (values[0], values[1])


def find_regions(captured: fx.GraphModule) -> Iterator[Region]:
    """Find every region that holds consecutive layers and is affine once activations are gone.

    Yields
    ------
    Region
        In the order of (start, end). Of the regions with the same layers, the largest that
        removes no activation after its last layer.
    """
    search = _Search(captured)
    for start, first in enumerate(search.layers):
        entry = first.all_input_nodes[0]
        reachable = search.absorb(entry, start)
        for end in range(start + 1, len(search.layers) + 1):
            if search.layers[end - 1] not in reachable:
                break
            nodes = search.region_nodes(reachable, start, end)
            if nodes:
                yield Region(start, end, entry, nodes)


def region_between(entry: fx.Node, exit: fx.Node) -> tuple[fx.Node, ...]:
    """The nodes on paths from `entry` (left out) to `exit` (included), in topological order."""
    descends = {entry}
    between = []
    node = entry
    while node is not exit:
        node = node.next
        if any(source in descends for source in node.all_input_nodes):
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
        self.growing = sum(
            1 << place
            for node, place in self.index.items()
            if max(convolution(captured, node).kernel_size) > 1
        )

    def absorb(self, entry: fx.Node, start: int) -> dict[fx.Node, int]:
        """Collect, in topological order, what follows from `entry` alone, by affine operations.

        Returns
        -------
        dict
            For each node, the layers between it and `entry`, all of them after position `start`.
        """
        absorbed: dict[fx.Node, int] = {}
        frontier = [(self.order[user], user) for user in entry.users]
        heapq.heapify(frontier)
        while frontier:
            _, node = heapq.heappop(frontier)
            sources = node.all_input_nodes
            if node in absorbed or not all(s is entry or s in absorbed for s in sources):
                continue
            branches = [absorbed.get(source, 0) for source in sources]
            if self._is_absorbable(node, start) and not self._grow_in_parallel(branches):
                own = 1 << self.index[node] if node in self.index else 0
                absorbed[node] = reduce(or_, branches, own)
                for user in node.users:
                    heapq.heappush(frontier, (self.order[user], user))
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
                if self._is_closed(nodes, inside):
                    return nodes
        return ()

    def _is_absorbable(self, node: fx.Node, start: int) -> bool:
        kind = operation(node).kind
        return kind in _ABSORBABLE and (kind is not Kind.LAYER or self.index[node] > start)

    def _grow_in_parallel(self, branches: list[int]) -> bool:
        """Whether an addition joins two branches that both enlarge the kernel.

        The merged kernel is then a union of extents, not the sum that enumeration counts on.
        """
        common = reduce(and_, branches)
        return sum(bool(branch & ~common & self.growing) for branch in branches) > 1

    def _is_closed(self, nodes: tuple[fx.Node, ...], inside: set[fx.Node]) -> bool:
        """Whether only the exit is used outside, and each activation has a layer downstream."""
        leads_to_layer: set[fx.Node] = set()
        for node in reversed(nodes):
            if node is not nodes[-1] and not all(user in inside for user in node.users):
                return False
            users = [user for user in node.users if user in inside]
            if any(user in self.index or user in leads_to_layer for user in users):
                leads_to_layer.add(node)
            elif operation(node).kind is Kind.ACTIVATION:
                return False
        return True


def _ancestors(node: fx.Node, within: Container[fx.Node]) -> set[fx.Node]:
    """The node itself and what it is computed from, as far as that lies `within`."""
    found = {node}
    stack = [node]
    while stack:
        for source in stack.pop().all_input_nodes:
            if source in within and source not in found:
                found.add(source)
                stack.append(source)
    return found
