"""The sentinel: a kernel of constant cost, run again and again, that tells how the machine is.

A sentinel that is slow around a lap says that a neighbour disturbed it; one that grows slower for
good says that the clock drifts. Timings of disturbed laps are dropped; all others are scaled to
the pace at which the sentinel ran at first, so that early and late ones compare.
"""

from __future__ import annotations

import statistics
from bisect import insort
from collections import deque
from collections.abc import Iterable

MAX_SLOWDOWN = 1.25
"""Slowdown against the sentinel's lower quartile from which a lap counts as disturbed."""
WINDOW = 16
"""Number of the last undisturbed runs whose median is the present pace."""


class Sentinel:
    """The sentinel's runs, and what they say.

    Parameters
    ----------
    baseline_ns : int, optional
        The pace to which timings are scaled, when an earlier run has set it.
    """

    def __init__(self, baseline_ns: int | None = None) -> None:
        self.baseline_ns = baseline_ns
        self._all_ns: list[int] = []
        self._recent_ns: deque[int] = deque(maxlen=WINDOW)

    def settle(self, timings_ns: Iterable[int]) -> None:
        """Record runs of a warm-up, in place of those before it."""
        self._all_ns = sorted(timings_ns)
        self._recent_ns = deque(self._all_ns, maxlen=WINDOW)

    def set_baseline(self) -> None:
        """Take the present pace for the baseline, unless there is one."""
        if self.baseline_ns is None:
            self.baseline_ns = max(1, round(statistics.median(self._recent_ns)))

    def is_disturbed_by(self, timings_ns: tuple[int, ...]) -> bool:
        """Record the runs around a lap; whether it was disturbed."""
        for timing in timings_ns:
            insort(self._all_ns, timing)
        if max(timings_ns) > MAX_SLOWDOWN * self._all_ns[len(self._all_ns) // 4]:
            return True
        self._recent_ns.extend(timings_ns)
        return False

    @property
    def drift(self) -> float:
        """The present pace over the baseline: 1.1 on a machine that became 10 % slower."""
        if self.baseline_ns is None or not self._recent_ns:
            return 1.0
        return max(1.0, statistics.median(self._recent_ns)) / self.baseline_ns
