"""The measuring protocol: many units, timed in turn until the median of each is known.

Units are timed cold, as the layers of a network run: in laps of one call each, among others that
take about as long, in the network's order. A convolution in a loop of its own finds its weights in
the cache and looks up to twice as fast; one behind a much larger one finds even its code evicted.
Each lap lies between two runs of a sentinel (see `layermerge.latency.sentinel`): a lap that was
disturbed is timed again. A unit that raises is given up with its reason, and the others go on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from types import MappingProxyType

from layermerge.checks import MOST
from layermerge.errors import InputError
from layermerge.latency.rotation import Call, Clock, Rotation, Unit
from layermerge.latency.sentinel import Sentinel
from layermerge.store import Measurement

__all__ = ["Call", "Clock", "Outcome", "Precision", "Unit", "measure_units"]

MAX_WARM_UPS = 5
STEADY = 0.95
"""Part of the time before that a warm-up round must take for one more to be worth it."""
CREDIBLE_SLACK_SECONDS = 1.0
CREDIBLE_FACTOR = 10.0
"""A turn cannot take longer than so many times its timings, and this slack: the clock jumped."""


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
        for name in ("target_rsd", "max_seconds"):
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool):
                raise InputError(f"{name} must be a number, got {value!r}")
        if not 0 < self.target_rsd < 1:
            raise InputError(f"target_rsd must be between 0 and 1, got {self.target_rsd}")
        if not self.max_seconds > 0:
            raise InputError(f"max_seconds must be greater than 0, got {self.max_seconds}")
        if MOST < self.max_seconds < math.inf:
            raise InputError(f"max_seconds must be at most {MOST:g}, or infinite")

    def part_done(self, summary: Measurement) -> float:
        """Estimated part of the repeats that are done: the half-width shrinks like 1/√repeats."""
        return min(1.0, (self.target_rsd / summary.spread) ** 2) if summary.spread else 1.0


@dataclass(frozen=True)
class Outcome:
    """What came of measuring.

    Attributes
    ----------
    measurements : dict of str to Measurement
        In the order of the units.
    failures : dict of str to str
        Units that raised, and why.
    disturbed : float
        Part of the laps that were timed again because the machine was disturbed.
    drift : float
        How many times slower the sentinel ran in the end than at its baseline.
    """

    measurements: dict[str, Measurement]
    failures: dict[str, str] = field(default_factory=dict)
    disturbed: float = 0.0
    drift: float = 1.0


def measure_units(
    units: Mapping[str, Unit],
    *,
    reference: Call,
    clock: Clock,
    precision: Precision,
    known: Mapping[str, Measurement] | None = None,
    sentinel: Sentinel | None = None,
    empty: Call | None = None,
    give_up: Callable[[Mapping[str, int]], Collection[str]] = lambda estimates_ns: (),
    begun: Mapping[str, Sequence[int]] = MappingProxyType({}),
    keep: Callable[[dict[str, Measurement]], None] = lambda final: None,
    keep_begun: Callable[[Mapping[str, Sequence[int]]], None] = lambda timings: None,
    show: Callable[[float], None] = lambda completed: None,
    now: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Measure the latency of units, interleaved.

    Parameters
    ----------
    units : mapping of str to Unit
        What to time, by name.
    reference : callable
        The sentinel's kernel.
    clock : callable
        Times one lap.
    precision : Precision
    known : mapping, optional
        Results of earlier runs. These units are not measured again; they only run along where
        the others would be too few to keep the caches cold.
    sentinel : Sentinel, optional
        One that knows the pace of an earlier run.
    empty : callable, optional
        A call that does nothing, timed behind each unit: the median of these timings is taken off
        those of parts.
    give_up : callable, optional
        Receives an estimate for each unit, its fastest run so far in nanoseconds, and names the
        units that are too slow to matter: they keep the few timings that they have.
    begun : mapping of str to sequence of int, optional
        Timings of an earlier run that did not end, to go on from.
    keep : callable, optional
        Receives results as soon as they are final.
    keep_begun : callable, optional
        Receives, time and again, the timings of the units whose results are not.
    show : callable, optional
        Receives the number of units that are done, fractions included.
    now : callable, optional
        Seconds on a monotonic clock; its jumps are seen and left out.

    Returns
    -------
    Outcome

    Raises
    ------
    MeasurementError
        If the sentinel itself cannot run any more: the device is gone.
    """
    all_known = dict(known or {})
    results = {name: all_known[name] for name in units if name in all_known}
    pending = [name for name in units if name not in results]
    rotation = Rotation(units, pending, reference, clock, sentinel or Sentinel(), empty, begun)
    watch = _Stopwatch(precision.max_seconds, now)

    def set_aside() -> None:
        known_ns = {name: m.median_ns for name, m in (all_known | results).items()}
        rotation.set_aside(give_up(known_ns | rotation.fastest()))

    _warm_up(rotation, set_aside)
    while rotation.timings:
        watch.lap(rotation.timed_ns)
        rotation.turn(is_lenient=watch.is_late)
        if not watch.is_late and not rotation.is_time_to_look():
            continue
        set_aside()
        summaries = rotation.summaries()
        final = {
            name: summary
            for name, summary in summaries.items()
            if watch.is_late or summary.spread <= precision.target_rsd or name in rotation.aside
        }
        if final:
            rotation.drop(final)
            results |= final
            keep(final)
        keep_begun(rotation.timings)
        done = len(results) + len(rotation.failures) - len(final)
        show(done + sum(map(precision.part_done, summaries.values())))
    return Outcome(
        {name: results[name] for name in units if name in results},
        rotation.failures,
        rotation.disturbed_laps / max(1, rotation.laps),
        rotation.sentinel.drift,
    )


def _warm_up(rotation: Rotation, set_aside: Callable[[], None]) -> None:
    """Run all units until they are no faster than the time before."""
    before: dict[str, int] = {}
    for _ in range(MAX_WARM_UPS if rotation.timings else 0):
        taken = rotation.warm_up()
        if before:
            set_aside()
        shared = before.keys() & taken.keys()
        is_faster = sum(taken[n] for n in shared) < STEADY * sum(before[n] for n in shared)
        if before and not is_faster:
            break
        before = taken
    if rotation.timings:
        rotation.sentinel.set_baseline()


class _Stopwatch:
    """Tells when the time is up, by a clock that may jump."""

    def __init__(self, seconds: float, now: Callable[[], float]) -> None:
        self._left, self._now, self._last, self._last_ns = seconds, now, now(), 0

    def lap(self, timed_ns: int) -> None:
        """Count the time since the last call, as far as the timings since then make it credible."""
        at = self._now()
        credible = CREDIBLE_FACTOR * (timed_ns - self._last_ns) / 1e9 + CREDIBLE_SLACK_SECONDS
        self._left -= min(max(0.0, at - self._last), credible)
        self._last, self._last_ns = at, timed_ns

    @property
    def is_late(self) -> bool:
        return self._left <= 0
