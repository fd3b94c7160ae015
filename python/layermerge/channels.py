"""Which input channels each output channel of a segment depends on, and so in how many groups.

Free of torch. A dependence is kept as an interval of input channels, which is exact for grouped
convolutions, slices, sums and concatenations of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layermerge.dataflow import Kind, Node

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Support:
    """For each output channel, the first input channel and the one after the last."""

    first: Ints
    after: Ints

    @classmethod
    def identity(cls, channels: int) -> Support:
        """Each channel depends on itself."""
        own = np.arange(channels)
        return cls(own, own + 1)

    def groups(self, in_channels: int) -> int:
        """The largest number of groups in which a convolution can compute it."""
        out_channels = len(self.first)
        common = math.gcd(in_channels, out_channels)
        divisors = (g for g in range(common, 0, -1) if common % g == 0)
        return next(groups for groups in divisors if self._fits(in_channels, groups))

    def _fits(self, in_channels: int, groups: int) -> bool:
        group = np.arange(len(self.first)) * groups // len(self.first)
        width = in_channels // groups
        return bool(
            np.all(self.first >= group * width) and np.all(self.after <= (group + 1) * width)
        )


def follow_channels(nodes: Iterable[Node], entry: str, channels: int) -> dict[str, Support]:
    """What each value of a segment depends on."""
    seen = {entry: Support.identity(channels)}
    for node in nodes:
        seen[node.name] = _support(node, [seen[source] for source in node.sources])
    return seen


def _support(node: Node, sources: Sequence[Support]) -> Support:
    if node.kind is Kind.LAYER:
        return _convolved(sources[0], node.channels, node.operation.groups)
    if node.kind is Kind.CONCAT:
        first = np.concatenate([source.first for source in sources])
        return Support(first, np.concatenate([source.after for source in sources]))
    if node.kind is Kind.SLICE:
        wanted = slice(*node.operation.channels)
        return Support(sources[0].first[wanted], sources[0].after[wanted])
    if len(sources) == 1:
        return sources[0]
    first, after = sources[0].first, sources[0].after
    for other in sources[1:]:
        first, after = np.minimum(first, other.first), np.maximum(after, other.after)
    return Support(first, after)


def _convolved(source: Support, out_channels: int, groups: int) -> Support:
    first = source.first.reshape(groups, -1).min(axis=1)
    after = source.after.reshape(groups, -1).max(axis=1)
    repeats = out_channels // groups
    return Support(np.repeat(first, repeats), np.repeat(after, repeats))
