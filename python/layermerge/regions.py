"""Find the mergeable segments of a captured graph: single-entry single-exit affine regions."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator
from dataclasses import dataclass

from torch import fx, nn

from layermerge.graph import Kind, operation
from layermerge.network import Padding, Size

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
        reachable = search.absorb(entry, start, len(search.layers))
        for end in range(start + 1, len(search.layers) + 1):
            if search.layers[end - 1] not in reachable:
                break
            nodes = search.region_nodes(entry, start, end)
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
    """Look-ups over one captured graph that the search for regions needs again and again."""

    def __init__(self, captured: fx.GraphModule) -> None:
        self.layers = layer_nodes(captured)
        self.index = {node: place for place, node in enumerate(self.layers, start=1)}
        self.order = {node: place for place, node in enumerate(captured.graph.nodes)}
        self.growing = {
            node for node in self.layers if max(convolution(captured, node).kernel_size) > 1
        }

    def absorb(self, entry: fx.Node, start: int, end: int) -> dict[fx.Node, None]:
        """Collect, in topological order, what follows from `entry` alone.

        That is: through affine or removable operations and the layers start+1..end.
        """
        absorbed: dict[fx.Node, None] = {}
        frontier = [(self.order[user], user) for user in entry.users]
        heapq.heapify(frontier)
        while frontier:
            _, node = heapq.heappop(frontier)
            if node in absorbed or not self._is_absorbable(node, start, end):
                continue
            if all(source is entry or source in absorbed for source in node.all_input_nodes):
                absorbed[node] = None
                for user in node.users:
                    heapq.heappush(frontier, (self.order[user], user))
        return absorbed

    def region_nodes(self, entry: fx.Node, start: int, end: int) -> tuple[fx.Node, ...]:
        """Return the largest closed region that `absorb` allows, or nothing."""
        absorbed = self.absorb(entry, start, end)
        last = self.order[self.layers[end - 1]]
        for exit in reversed(absorbed):
            if self.order[exit] < last:
                break
            inside = _ancestors(exit, absorbed)
            nodes = tuple(node for node in absorbed if node in inside)
            if self._is_complete(nodes, end - start) and self._is_closed(nodes, inside):
                return nodes
        return ()

    def _is_absorbable(self, node: fx.Node, start: int, end: int) -> bool:
        kind = operation(node).kind
        return kind in _ABSORBABLE and (kind is not Kind.LAYER or start < self.index[node] <= end)

    def _is_complete(self, nodes: tuple[fx.Node, ...], num_layers: int) -> bool:
        return sum(node in self.index for node in nodes) == num_layers and not (
            self._has_parallel_growth(nodes)
        )

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

    def _has_parallel_growth(self, nodes: tuple[fx.Node, ...]) -> bool:
        """Whether an addition joins two branches that both enlarge the kernel.

        The merged kernel is then a union of extents, not the sum that enumeration counts on.
        """
        upstream: dict[fx.Node, frozenset[fx.Node]] = {}
        for node in nodes:
            branches = [upstream.get(source, frozenset()) for source in node.all_input_nodes]
            common = frozenset.intersection(*branches)
            if sum(bool(branch - common) for branch in branches) > 1:
                return True
            upstream[node] = frozenset.union(*branches, {node} & self.growing)
        return False


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
