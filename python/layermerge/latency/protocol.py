"""The measuring protocol: many units, timed in turn until the median of each is known.

Units are timed cold, in laps of one call each in random order, as the layers of a network run: a
convolution in a loop of its own finds its weights in the cache and looks up to twice as fast.
Each lap lies between two calls of a reference kernel; a lap in which the reference is slow was
disturbed from outside, and is dropped.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from bisect import insort
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from layermerge.errors import InputError
from layermerge.store import Measurement

Call = Callable[[], object]
Clock = Callable[[Sequence[Call]], Sequence[int]]
"""Runs calls one after the other and returns the nanoseconds that each took."""

LAP = 16
COMPANY = 32
"""Least number of units that rotate, so that the last ones are not timed in a hot loop."""
MIN_REPEATS = 6  # the fewest whose range encloses the median with 95 % confidence
WARM_UP = 1
LOOK_GROWTH = 1.1
MAX_SLOWDOWN = 1.25
"""Slowdown of the reference, against its lower quartile, from which a lap counts as disturbed."""


@dataclass(frozen=True)
class Precision:
    """When to stop: at a confidence half-width relative to the median, or after a time.

    Attributes
    ----------
    target_rsd : float
        Relative half-width of the 95 % confidence interval of the median.
    max_seconds : float
        Time for all units together; each gets at least six timings, whatever they take.
    """

    target_rsd: float = 0.02
    max_seconds: float = 120.0

    def __post_init__(self) -> None:
        if not 0 < self.target_rsd < 1:
            raise InputError(f"target_rsd must be between 0 and 1, got {self.target_rsd}")
        if not self.max_seconds > 0:
            raise InputError(f"max_seconds must be greater than 0, got {self.max_seconds}")

    def part_done(self, summary: Measurement) -> float:
        """Estimated part of the repeats that are done: the half-width shrinks like 1/√repeats."""
        return min(1.0, (self.target_rsd / summary.spread) ** 2) if summary.spread else 1.0


def measure_units(
    units: Mapping[str, Call],
    *,
    reference: Call,
    clock: Clock,
    precision: Precision,
    known: Mapping[str, Measurement] | None = None,
    give_up: Callable[[Mapping[str, int]], Collection[str]] = lambda estimates_ns: (),
    keep: Callable[[dict[str, Measurement]], None] = lambda final: None,
    show: Callable[[float], None] = lambda completed: None,
    now: Callable[[], float] = time.monotonic,
) -> dict[str, Measurement]:
    """Measure the latency of units, interleaved.

    Parameters
    ----------
    units : mapping of str to callable
        What to time, by name. The first call of each is warm-up.
    reference : callable
        A kernel of constant cost that tells a disturbed lap from a quiet one.
    clock : callable
        Times one lap.
    precision : Precision
    known : mapping, optional
        Results of earlier runs. These units are not measured again; they only run along where
        the others would be too few to keep the caches cold.
    give_up : callable, optional
        Receives an estimate for each unit, its fastest run so far in nanoseconds, and names the
        units that are too slow to matter: they keep the few timings that they have.
    keep : callable, optional
        Receives results as soon as they are final.
    show : callable, optional
        Receives the number of units that are done, fractions included.
    now : callable, optional
        Seconds on a monotonic clock.

    Returns
    -------
    dict of str to Measurement
        In the order of `units`.
    """
    deadline = now() + precision.max_seconds
    results = {name: known[name] for name in units if name in known} if known else {}
    rotation = _Rotation(units, reference, clock, [name for name in units if name not in results])
    while rotation.timings:
        is_late = now() >= deadline
        rotation.turn(is_lenient=is_late)
        if not is_late and not rotation.is_time_to_look():
            continue
        rotation.set_aside(
            give_up({name: m.median_ns for name, m in results.items()} | rotation.fastest())
        )
        summaries = rotation.summaries()
        final = {
            name: summary
            for name, summary in summaries.items()
            if is_late or summary.spread <= precision.target_rsd or name in rotation.aside
        }
        if final:
            rotation.drop(final)
            results |= final
            keep(final)
        show(len(results) + sum(map(precision.part_done, summaries.values())) - len(final))
    return {name: results[name] for name in units}


class _Rotation:
    """The units that are still measured, their timings, and those of the reference.

    Attributes
    ----------
    timings : dict of str to list of int
        Undisturbed timings of the units that are still measured.
    all_timings : dict of str to list of int
        All their timings, warm-up included.
    aside : set of str
        Units too slow to matter.
    """

    def __init__(
        self, units: Mapping[str, Call], reference: Call, clock: Clock, pending: Sequence[str]
    ) -> None:
        self.units = units
        self.reference = reference
        self.clock = clock
        self.timings: dict[str, list[int]] = {name: [] for name in pending}
        self.all_timings: dict[str, list[int]] = {name: [] for name in pending}
        self.aside: set[str] = set()
        self.reference_ns: list[int] = []
        self.turns = self.next_look = 0
        self.order = random.Random(0)
        self._warm_up()

    def turn(self, *, is_lenient: bool) -> None:
        """Time every pending unit once, in laps; a disturbed lap counts only if `is_lenient`."""
        self.turns += 1
        names = [*self.timings, *self._company()]
        self.order.shuffle(names)
        for start in range(0, len(names), LAP):
            lap = names[start : start + LAP]
            calls = [self.reference, *(self.units[name] for name in lap), self.reference]
            before, *timings, after = self.clock(calls)
            insort(self.reference_ns, before)
            insort(self.reference_ns, after)
            counts = is_lenient or not self._is_disturbed(max(before, after))
            for name, timing in zip(lap, timings, strict=True):
                if name in self.timings:
                    self._add(name, timing, counts=counts)

    def is_time_to_look(self) -> bool:
        """Whether results are to be looked at: after ever more turns, for looking takes as long."""
        if self.turns < self.next_look:
            return False
        self.next_look = max(self.turns + 1, int(self.turns * LOOK_GROWTH))
        return True

    def fastest(self) -> dict[str, int]:
        """The fastest run of each pending unit."""
        return {name: min(self.all_timings[name]) for name in self.timings}

    def set_aside(self, names: Collection[str]) -> None:
        """Settle for the timings that these units have, disturbed ones too."""
        self.aside = set(names)
        for name in self.aside & self.timings.keys():
            self.timings[name] = self.all_timings[name]

    def summaries(self) -> dict[str, Measurement]:
        """Summarise the units that have enough timings."""
        return {
            name: summarise(timings)
            for name, timings in self.timings.items()
            if len(timings) >= MIN_REPEATS or name in self.aside
        }

    def drop(self, names: Iterable[str]) -> None:
        """Measure these units no more."""
        for name in names:
            del self.timings[name]

    def _warm_up(self) -> None:
        if not self.timings:
            return
        for _ in range(WARM_UP):
            _, *timings = self.clock([self.reference, *(self.units[name] for name in self.timings)])
            for name, timing in zip(self.timings, timings, strict=True):
                self._add(name, timing, counts=False)

    def _add(self, name: str, timing: int, *, counts: bool) -> None:
        self.all_timings[name].append(timing)
        if counts:
            self.timings[name].append(timing)

    def _company(self) -> list[str]:
        others = [n for n in self.units if n not in self.timings and n not in self.aside]
        missing = COMPANY - len(self.timings)
        return self.order.sample(others, max(0, min(missing, len(others))))

    def _is_disturbed(self, reference_ns: int) -> bool:
        quartile = self.reference_ns[len(self.reference_ns) // 4]
        return reference_ns > MAX_SLOWDOWN * quartile


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
