"""What a segment computes when some of its layers are kept: by definition, subset by subset."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from layermerge.dataflow import Kind, Node
from layermerge.network import Network, Segment
from layermerge.windows import Size


class InvalidError(Exception):
    """A layer that the identity cannot stand in for is missing."""


@dataclass(frozen=True)
class Sight:
    """y[q] depends on x[jump q + low] .. x[jump q + high], per axis, and on some channels."""

    jump: np.ndarray
    low: np.ndarray
    high: np.ndarray
    channels: np.ndarray  # bool (out, in)

    @property
    def kernel_size(self) -> Size:
        height, width = self.high - self.low + 1
        return int(height), int(width)

    @property
    def is_depthwise(self) -> bool:
        out, given = self.channels.shape
        return out == given > 1 and not np.any(self.channels & ~np.eye(out, dtype=bool))

    def through(self, node: Node) -> Sight:
        """What is seen through a window."""
        window = node.operation.window
        left, _, top, _ = window.padding
        taps, dilation = np.array(window.kernel_size), np.array(window.dilation)
        low = self.low - self.jump * [top, left]
        high = self.high + self.jump * (dilation * (taps - 1) - [top, left])
        if node.kind is Kind.PAD:
            high = self.high - self.jump * [top, left]
        return Sight(self.jump * window.stride, low, high, self.channels)


class Sights:
    """Evaluates one segment for one set of kept layers, from its exit backwards."""

    def __init__(self, network: Network, segment: Segment, kept: set[int]) -> None:
        self.nodes = {node.name: node for node in network.nodes_of(segment)}
        self.segment = segment
        self.layers = {layer.index: layer for layer in network.layers_of(segment)}
        self.kept = kept

    def exit(self) -> Sight:
        return self.of(self.segment.exit)

    def of(self, name: str) -> Sight:
        if name == self.segment.entry:
            nowhere = np.zeros(2, dtype=int)
            own = np.eye(self.segment.in_channels, dtype=bool)
            return Sight(nowhere + 1, nowhere, nowhere, own)
        node = self.nodes[name]
        if node.kind is Kind.LAYER:
            return self.of_layer(node)
        if node.kind is Kind.SUM:
            return self.of_sum(node)
        sights = [self.of(source) for source in node.sources]
        if node.kind is Kind.CONCAT:
            return _joined(sights, np.concatenate([sight.channels for sight in sights]))
        (sight,) = sights
        if node.kind is Kind.SLICE:
            rows = slice(*node.operation.channels)
            return Sight(sight.jump, sight.low, sight.high, sight.channels[rows])
        return sight.through(node) if node.kind in (Kind.POOL, Kind.PAD) else sight

    def of_layer(self, node: Node) -> Sight:
        (source,) = node.sources
        if node.layer in self.kept:
            sight = self.of(source).through(node)
            groups = node.operation.groups
            seen = sight.channels.reshape(groups, -1, sight.channels.shape[1]).any(axis=1)
            channels = np.repeat(seen, node.channels // groups, axis=0)
            return Sight(sight.jump, sight.low, sight.high, channels)
        if self.layers[node.layer].is_irreducible:
            raise InvalidError
        while source in self.nodes and self.serves_alone(source):
            (source,) = self.nodes[source].sources
        return self.of(source)

    def serves_alone(self, name: str) -> bool:
        users = [node for node in self.nodes.values() if name in node.sources]
        return self.nodes[name].kind is Kind.PAD and len(users) == 1

    def of_sum(self, node: Node) -> Sight:
        first, second = node.sources[0], node.sources[-1]
        own = {
            first: self.layers_of(first) - self.layers_of(second),
            second: self.layers_of(second) - self.layers_of(first),
        }
        left = [term for term in (first, second) if not own[term] or own[term] & self.kept]
        if not left:
            self.of(first)
            left = [second]
        sights = [self.of(term) for term in left]
        return _joined(sights, np.any([sight.channels for sight in sights], axis=0))

    def layers_of(self, name: str) -> set[int]:
        if name == self.segment.entry:
            return set()
        node = self.nodes[name]
        own = {node.layer} if node.layer else set()
        return own.union(*(self.layers_of(source) for source in node.sources))


def _joined(sights: list[Sight], channels: np.ndarray) -> Sight:
    low = np.min([sight.low for sight in sights], axis=0)
    high = np.max([sight.high for sight in sights], axis=0)
    return Sight(sights[0].jump, low, high, channels)


def best_subsets(
    network: Network, segment: Segment, *, by_layers: bool
) -> dict[tuple[Size, bool], float]:
    """The largest L1 norm for each (kernel size, is depthwise), over all kept subsets.

    What is kept is depthwise if what it computes is, and `by_layers` if each of its layers is, too:
    two grouped layers around a removed dense one may compute something depthwise. Depthwise layers
    whose outputs are concatenated do not.
    """
    layers = network.layers_of(segment)
    best: dict[tuple[Size, bool], float] = {}
    for count in range(1, len(layers) + 1):
        for kept in combinations(layers, count):
            try:
                sight = Sights(network, segment, {layer.index for layer in kept}).exit()
            except InvalidError:
                continue
            alone = all(layer.is_depthwise for layer in kept)
            key = (sight.kernel_size, sight.is_depthwise and (alone or not by_layers))
            best[key] = max(best.get(key, 0.0), sum(layer.weight_l1 for layer in kept))
    return best
