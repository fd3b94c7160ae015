"""Independent ways to compute what the core computes: slow, and plain to see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np


@dataclass(frozen=True)
class Arcs:
    """Arcs as arrays."""

    tail: np.ndarray
    head: np.ndarray
    latency_ns: np.ndarray
    value: np.ndarray

    def value_of(self, path: list[int]) -> float:
        """Sum from the first arc on, as the core does; from Python 3.12 on `sum` is exacter."""
        return reduce(add, self.value[path].tolist(), 0.0)

    def columns(self) -> tuple[np.ndarray, ...]:
        return self.tail, self.head, self.latency_ns, self.value


def arcs_of(rows: list[tuple[int, int, int, float]]) -> Arcs:
    tail, head, latency_ns, value = zip(*rows, strict=True)
    return Arcs(
        np.array(tail, dtype=np.int32),
        np.array(head, dtype=np.int32),
        np.array(latency_ns, dtype=np.int64),
        np.array(value, dtype=np.float64),
    )


def random_arcs(
    seed: int, last: int, *, window: int = 4, parallel: int = 3, max_ns: int = 1000
) -> Arcs:
    """Arcs of a random problem whose last position can be reached; in random order."""
    random = np.random.default_rng(seed)
    rows = [
        (i, j, int(random.integers(0, max_ns)), float(random.normal()))
        for j in range(1, last + 1)
        for i in range(max(0, j - window), j)
        for _ in range(random.integers(i == j - 1, parallel + 1))
    ]
    order = random.permutation(len(rows))
    return arcs_of([rows[k] for k in order])


def all_paths(arcs: Arcs) -> Iterator[tuple[int, ...]]:
    """Yield every path from 0 to the last position, as arc ids."""
    last = int(arcs.head.max())
    partial: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    while partial:
        position, path = partial.pop()
        if position == last:
            yield path
            continue
        for arc in np.flatnonzero(arcs.tail == position).tolist():
            partial.append((int(arcs.head[arc]), (*path, arc)))


def in_bins(latency_ns: np.ndarray, bin_ns: int, rounding: str) -> np.ndarray:
    return -(-latency_ns // bin_ns) if rounding == "up" else latency_ns // bin_ns


def best_path(arcs: Arcs, budget_ns: int, bin_ns: int, rounding: str) -> tuple[int, ...] | None:
    """Return the best of all paths by the documented order; None if none meets the budget."""
    bins = in_bins(arcs.latency_ns, bin_ns, rounding)
    ranked = [
        (-arcs.value_of(list(path)), int(bins[list(path)].sum()), len(path), path)
        for path in all_paths(arcs)
    ]
    affordable = [entry for entry in ranked if entry[1] <= budget_ns // bin_ns]
    return min(affordable)[3] if affordable else None


def binned_values(arcs: Arcs, budget_ns: int, bin_ns: int, rounding: str) -> np.ndarray:
    """Values of the last position by bin: the recurrence, one numpy row per arc."""
    last = int(arcs.head.max())
    bins = in_bins(arcs.latency_ns, bin_ns, rounding)
    budget = budget_ns // bin_ns
    best = np.full((last + 1, budget + 1), -np.inf)
    best[0] = 0
    for arc in np.argsort(arcs.head, kind="stable").tolist():
        i, j, width = int(arcs.tail[arc]), int(arcs.head[arc]), int(bins[arc])
        if width <= budget:
            candidate = best[i, : budget + 1 - width] + arcs.value[arc]
            np.maximum(best[j, width:], candidate, out=best[j, width:])
    return best[last]


class InfeasibleError(Exception):
    """A layer that cannot be the identity is not kept."""


def leaves_of(tree: tuple) -> list[int]:
    """The layers of an expression (operator, operand, operand), ("layer", index), ..."""
    if tree[0] == "layer":
        return [tree[1]]
    return [
        leaf for operand in tree[1:] if isinstance(operand, tuple) for leaf in leaves_of(operand)
    ]


def growth_of(tree: tuple, kept: set[int], growth: list[int], irreducible: list[bool]) -> int:
    """What an expression adds to a kernel along one axis when the layers `kept` stay."""

    def grown(operand: tuple) -> int:
        return growth_of(operand, kept, growth, irreducible)

    match tree:
        case ("identity",):
            return 0
        case ("window", place):
            return growth[place]
        case ("layer", place):
            if place not in kept and irreducible[place]:
                raise InfeasibleError
            return growth[place] if place in kept else 0
        case ("series", first, second):
            return grown(first) + grown(second)
        case ("join", first, second):
            return max(grown(first), grown(second))
    first, second = tree[1:]
    terms = [t for t in (first, second) if not leaves_of(t) or kept & set(leaves_of(t))]
    if not terms:
        grown(first)  # both are lost, so both must be able to be without their layers
        return grown(second)
    return max(map(grown, terms))


def best_kept(
    tree: tuple,
    growth_h: list[int],
    growth_w: list[int],
    norms: list[float],
    irreducible: list[bool],
    depthwise: list[bool],
) -> dict[tuple[int, int, bool, bool], tuple[float, tuple[int, ...]]]:
    """Best kept layers of each (height, width, any is kept, is depthwise), over all subsets."""
    leaves = sorted(leaves_of(tree))
    best: dict[tuple[int, int, bool, bool], tuple[float, int, list[int], tuple[int, ...]]] = {}
    for mask in range(1 << len(leaves)):
        kept = tuple(layer for place, layer in enumerate(leaves) if mask >> place & 1)
        try:
            height, width = (
                1 + growth_of(tree, set(kept), axis, irreducible) for axis in (growth_h, growth_w)
            )
        except InfeasibleError:
            continue
        is_depthwise = bool(kept) and all(depthwise[layer] for layer in kept)
        key = (height, width, bool(kept), is_depthwise)
        rank = (sum(norms[layer] for layer in kept), len(kept), [-layer for layer in kept], kept)
        if key not in best or rank[:3] > best[key][:3]:
            best[key] = rank
    return {key: (rank[0], rank[3]) for key, rank in best.items()}
