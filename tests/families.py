"""Random problems of different difficulty, for tests and benchmarks."""

from __future__ import annotations

import numpy as np

from oracles import Arcs

FAMILIES = ("easy", "noisy", "ties", "correlated")


def family(name: str, last: int, *, window: int, options: int, seed: int = 0) -> Arcs:
    """Make all arcs of up to `window` layers, with parallel `options`, on positions 0..last.

    "easy" has latencies and importances as networks have; "noisy" has nothing in common between
    them; "ties" has few distinct ones; in "correlated", value = latency + a constant (the hard
    knapsack).
    """
    random = np.random.default_rng(seed)
    head = np.repeat(np.arange(1, last + 1, dtype=np.int32), window)
    tail = head - np.tile(np.arange(1, window + 1, dtype=np.int32), last)
    head, tail = (np.repeat(end[tail >= 0], options) for end in (head, tail))
    arcs, layers = len(head), head - tail
    boundary = random.uniform(0.5, 1.5, last + 1).cumsum()
    work = boundary[head] - boundary[tail]
    if name == "easy":
        kernel = np.tile(np.arange(options), arcs // options)
        latency_ms = work**0.8 * (1 + 0.35 * kernel) * random.uniform(0.9, 1.1, arcs)
        loss = 0.08 * (layers - 1) * random.uniform(0.5, 1.5, arcs)
        loss += 0.12 * (options - 1 - kernel) / options * random.uniform(0.3, 1.7, arcs)
        value = np.exp(-loss)
    elif name == "noisy":
        latency_ms = random.uniform(0.1, 1, arcs) * work
        value = random.normal(size=arcs)
    elif name == "ties":
        latency_ms = random.integers(0, 9, arcs).astype(float)
        value = random.integers(-1, 8, arcs) / 8
    else:
        latency_ms = np.floor(random.uniform(0.1, 1, arcs) * work * 1e6) / 1e6
        value = latency_ms + 0.1
    return Arcs(tail, head, (latency_ms * 1e6).round().astype(np.int64), value)


def extreme_latencies_ns(arcs: Arcs) -> tuple[int, int]:
    """Return the latencies of the fastest and of the slowest path."""
    last = int(arcs.head.max())
    least, most = [0] + [2**62] * last, [0] * (last + 1)
    for a in np.argsort(arcs.head, kind="stable").tolist():
        i, j, ns = int(arcs.tail[a]), int(arcs.head[a]), int(arcs.latency_ns[a])
        least[j], most[j] = min(least[j], least[i] + ns), max(most[j], most[i] + ns)
    return least[last], most[last]
