"""Say which candidate pays for which operation, so that a plan's latency counts each once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import fx

from layermerge.configuration import described
from layermerge.dataflow import Kind, Operation
from layermerge.gates import parts_of
from layermerge.network import Barrier
from layermerge.regions import Region
from layermerge.values import lasting, operation, sources_of

_FREE = frozenset({Kind.IDENTITY, Kind.SLICE})


class Accounts:
    """What follows each region, and which operations lie behind its layers.

    A convolution is timed with the addition and the activation right behind it. Any other
    operation that segments may contain is a removable barrier: it belongs to a layer that lies in
    all the segments which contain it, and a plan pays for it with the segment of that layer, if
    it does not contain it.
    """

    def __init__(self, captured: fx.GraphModule, regions: Sequence[Region]) -> None:
        self.captured = captured
        self.regions = regions
        self.position = _positions(captured)
        self.followers = [self._followers(region) for region in regions]
        self._covers = [_cover(region, self.followers[r]) for r, region in enumerate(regions)]
        self._payers = {node: self._payer(node) for node in captured.graph.nodes}

    def tail(self, place: int) -> tuple[str, ...]:
        """The removable barriers that a plan with this region pays for."""
        region, cover = self.regions[place], self._covers[place]
        return tuple(
            node.name
            for node, layer in self._payers.items()
            if layer and region.start < layer <= region.end and node not in cover
        )

    def barriers(self) -> Iterator[Barrier]:
        """Every operation whose cost is in no candidate's convolution, in execution order."""
        covered = set().union(*self._covers)
        paid = {name for place in range(len(self.regions)) for name in self.tail(place)}
        for node in self.captured.graph.nodes:
            found = node.meta.get("operation")
            if (
                not found
                or found.kind in _FREE
                or (node in covered and self._payers[node] and node.name not in paid)
            ):
                continue
            is_removable = node.name in paid
            reason = "" if is_removable else found.reason or _why_outside(found)
            yield Barrier(
                node.name,
                found.name,
                self.position[node],
                reason,
                is_removable,
                found.unlock,
                self._settings(node),
            )

    def _settings(self, node: fx.Node) -> str:
        """What decides how long an operation takes, besides its kind."""
        called = (
            described(self.captured.get_submodule(str(node.target)))
            if node.op == "call_module"
            else f"{node.args} {node.kwargs}"
        )
        return lasting(f"{called} -> {node.meta.get('shape')}")

    def _followers(self, region: Region) -> list[fx.Node]:
        """What runs right after the exit and waits for nothing else: an addition, an activation.

        Of the branches that an addition joins, it is counted with the one that comes last.
        """
        total = self._next(region.exit, Kind.SUM, region.end)
        activation = self._next(total or region.exit, Kind.ACTIVATION, region.end)
        return [node for node in (total, activation) if node]

    def _next(self, node: fx.Node, kind: Kind, position: int) -> fx.Node | None:
        users = [user for user in node.users if operation(user).kind is not Kind.PART]
        if len(users) != 1:
            return None
        (user,) = users
        if operation(user).kind is Kind.IDENTITY:
            return self._next(user, kind, position)
        return user if operation(user).kind is kind and self.position[user] == position else None

    def _payer(self, node: fx.Node) -> int:
        """A layer that is in every segment which contains the operation; 0 if there is none."""
        if operation(node).kind in _FREE:
            return 0
        around = [
            region
            for region, cover in zip(self.regions, self._covers, strict=True)
            if node in cover
        ]
        if not around:
            return 0
        first = max(region.start for region in around) + 1
        last = min(region.end for region in around)
        return last if first <= last else 0


def _cover(region: Region, followers: Sequence[fx.Node]) -> set[fx.Node]:
    nodes = {*region.nodes, *followers}
    return nodes.union(*(parts_of(node) for node in nodes))


def _positions(captured: fx.GraphModule) -> dict[fx.Node, int]:
    """For each node, the last layer that it depends on (0 for none)."""
    position: dict[fx.Node, int] = {}
    layers = 0
    for node in captured.graph.nodes:
        own = 0
        if operation(node).kind is Kind.LAYER:
            layers += 1
            own = layers
        position[node] = max([own, *(position[source] for source in node.all_input_nodes)])
    return position


def _why_outside(found: Operation) -> str:
    return f"{found.name} belongs to no layer"


class Bypasses:
    """Which values a sum further on combines with others that do not depend on them.

    If nothing but the identity led to such a value, the sum would count its origin twice.
    """

    def __init__(self, captured: fx.GraphModule) -> None:
        order = {node: place for place, node in enumerate(captured.graph.nodes)}
        self._bit = {node: 1 << place for node, place in order.items()}
        self._upstream: dict[fx.Node, int] = {}
        for node in captured.graph.nodes:
            bits = self._bit[node]
            for source in node.all_input_nodes:
                bits |= self._upstream[source]
            self._upstream[node] = bits
        self._sums = [node for node in captured.graph.nodes if operation(node).kind is Kind.SUM]

    def exist_around(self, region: Region) -> bool:
        """Whether such a sum exists for the exit of a region."""
        bit = self._bit[region.exit]
        inside = set(region.nodes)
        return any(
            len({bool(self._upstream[term] & bit) for term in sources_of(node)}) > 1
            for node in self._sums
            if node not in inside and self._upstream[node] & bit
        )
