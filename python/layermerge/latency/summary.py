"""What is said about a series of timings: median, confidence interval, time spent (no torch)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache

from layermerge.store import Measurement


def summarise(timings: Sequence[int]) -> Measurement:
    """Median of timings and its distribution-free confidence interval, from order statistics.

    The number of timings below the true median is binomial(n, 1/2): the r-th smallest and the
    r-th largest enclose it with probability 1 - 2 P(X < r).

    Examples
    --------
    >>> summarise([98, 99, 100, 101, 150])
    Measurement(median_ns=100, spread=0.26, repeats=5, seconds=5.48e-07)
    """
    ordered = sorted(timings)
    median = statistics.median(ordered)
    rank = _interval_rank(len(ordered))
    half_width = (ordered[-rank] - ordered[rank - 1]) / 2
    spread = half_width / median if median else 0.0
    return Measurement(round(median), spread, len(ordered), sum(ordered) / 1e9)


@lru_cache(maxsize=4096)
def _interval_rank(repeats: int) -> int:
    """Greatest r with 2 P(X < r) <= 0.05 for X ~ binomial(repeats, 1/2); 1 if there is none."""
    if repeats > 1000:  # from here on the normal approximation is off by one rank at most
        return int((repeats - 1.959964 * math.sqrt(repeats)) / 2)
    rank, ways, below = 0, 1, 1
    while 40 * below <= 2**repeats:
        rank += 1
        ways = ways * (repeats - rank + 1) // rank
        below += ways
    return max(rank, 1)
