"""Independent ways to compute what the core computes: slow, and plain to see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Arcs:
    """Arcs as arrays."""

    tail: np.ndarray
    head: np.ndarray
    latency_ns: np.ndarray
    value: np.ndarray

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
        (-float(sum(arcs.value[list(path)].tolist())), int(bins[list(path)].sum()), len(path), path)
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


def best_kept(
    growth_h: list[int],
    growth_w: list[int],
    norms: list[float],
    irreducible: list[bool],
    depthwise: list[bool],
) -> dict[tuple[int, int, bool], tuple[float, tuple[int, ...]]]:
    """Best kept layers of each kernel size, over all subsets."""
    layers = range(len(norms))
    best: dict[tuple[int, int, bool], tuple[float, int, list[int], tuple[int, ...]]] = {}
    for mask in range(1, 1 << len(norms)):
        kept = tuple(layer for layer in layers if mask >> layer & 1)
        if any(irreducible[layer] and layer not in kept for layer in layers):
            continue
        key = (
            1 + sum(growth_h[layer] for layer in kept),
            1 + sum(growth_w[layer] for layer in kept),
            all(depthwise[layer] for layer in kept),
        )
        rank = (sum(norms[layer] for layer in kept), len(kept), [-layer for layer in kept], kept)
        if key not in best or rank[:3] > best[key][:3]:
            best[key] = rank
    return {key: (rank[0], rank[3]) for key, rank in best.items()}
