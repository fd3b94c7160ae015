"""Units that take turns, their timings, and what became of those that failed (no torch)."""

from __future__ import annotations

import random
import statistics
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from layermerge.errors import MeasurementError
from layermerge.latency.sentinel import Sentinel
from layermerge.latency.summary import summarise
from layermerge.store import Measurement

Call = Callable[[], object]
Clock = Callable[[Sequence[Call]], Sequence[int]]
"""Runs calls one after the other and returns the nanoseconds that each took."""

LAP = 16
COMPANY = 32
"""Least number of units that rotate, so that the last ones are not timed in a hot loop."""
MIN_REPEATS = 6  # the fewest whose range encloses the median with 95 % confidence
SENTINEL_RUNS = 10
MANY_CALLS = 1000
LOOK_GROWTH = 1.1


@dataclass(frozen=True)
class Unit:
    """What is timed: a call, which does the same thing so many times over.

    `before` runs first, untimed: it writes the input, as the layer before does in a network. Where
    the call `is_part` of what will run, calling it costs what the whole does not.
    """

    call: Call
    copies: int = 1
    before: Call | None = None
    is_part: bool = True


class Rotation:
    """The units that are still measured, their timings, and the sentinel between them.

    Those that have `begun` in an earlier run go on from its timings.

    Attributes
    ----------
    pace_ns : dict of str to int
        The fastest run of each unit, those that only run along too.
    timings : dict of str to list of int
        Undisturbed timings of the units that are still measured: of one copy, in nanoseconds at
        the sentinel's first pace.
    all_timings : dict of str to list of int
        All their timings but the first, in which much is set up.
    aside : set of str
        Units too slow to matter.
    failures : dict of str to str
        Units that raised, and why.
    timed_ns : int
        Sum of all timings.
    laps, disturbed_laps : int
    """

    def __init__(
        self,
        units: Mapping[str, Unit],
        pending: Collection[str],
        reference: Call,
        clock: Clock,
        sentinel: Sentinel,
        empty: Call | None = None,
        begun: Mapping[str, Sequence[int]] = MappingProxyType({}),
    ) -> None:
        self.units = units
        self.reference = reference
        self.empty = empty
        self.empty_ns: deque[int] = deque(maxlen=MANY_CALLS)
        self.clock = clock
        self.sentinel = sentinel
        self.timings = {name: [*begun.get(name, ())] for name in pending}
        self.all_timings = {name: [*begun.get(name, ())] for name in pending}
        self.aside: set[str] = set()
        self.failures: dict[str, str] = {}
        self.timed_ns = self.laps = self.disturbed_laps = 0
        self.place = {name: place for place, name in enumerate(units)}
        self.pace_ns: dict[str, int] = {}
        self.turns = self.next_look = 0
        self.is_warm = False
        self.order = random.Random(0)

    def warm_up(self) -> dict[str, int]:
        """Run the sentinel, and each pending unit once; return the time that each took."""
        self.sentinel.settle(self._time([self.reference] * SENTINEL_RUNS))
        names = [name for name in self.timings if name not in self.aside]
        taken = {name: timing for name, timing, _ in self._run(self._arranged(names))}
        self.pace_ns |= taken
        if self.is_warm:
            for name, timing in taken.items():
                self.all_timings[name].append(timing)
        self.is_warm = True
        return taken

    def turn(self, *, is_lenient: bool) -> None:
        """Time every pending unit once, in laps; a disturbed lap counts only if `is_lenient`."""
        self.turns += 1
        names = [name for name in self.timings if name not in self.aside]
        names += self._company()
        for name, timing, is_disturbed in self._run(self._arranged(names)):
            self.pace_ns[name] = min(timing, self.pace_ns.get(name, timing))
            if name in self.timings:
                self.all_timings[name].append(timing)
                if is_lenient or not is_disturbed:
                    self.timings[name].append(timing)

    def is_time_to_look(self) -> bool:
        """Whether results are to be looked at: after ever more turns, for looking takes as long."""
        if self.turns < self.next_look:
            return False
        self.next_look = max(self.turns + 1, int(self.turns * LOOK_GROWTH))
        return True

    def fastest(self) -> dict[str, int]:
        """The fastest run of each pending unit that has run."""
        return {name: min(runs) for name in self.timings if (runs := self.all_timings[name])}

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
            if len(timings) >= MIN_REPEATS or (timings and name in self.aside)
        }

    def drop(self, names: Iterable[str]) -> None:
        """Measure these units no more."""
        for name in names:
            del self.timings[name]

    def _arranged(self, names: Iterable[str]) -> list[str]:
        """The order of a turn: laps of units that take about as long, each in the network's order.

        The layers around a layer of a network are of about its size and shape. Behind a unit ten
        times as large it would find the caches emptied, of code too, as it never does there.
        """
        by_pace = sorted(names, key=lambda name: self.pace_ns.get(name, 0))
        laps = [by_pace[start : start + LAP] for start in range(0, len(by_pace), LAP)]
        short = [laps.pop()] if laps and len(laps[-1]) < LAP else []
        self.order.shuffle(laps)
        return [name for lap in laps + short for name in sorted(lap, key=self.place.__getitem__)]

    def _run(self, names: Sequence[str]) -> Iterator[tuple[str, int, bool]]:
        """Time units in laps; yield each with its timing and whether its lap was disturbed."""
        for start in range(0, len(names), LAP):
            lap = names[start : start + LAP]
            try:
                yield from self._run_lap(lap)
            except _RunError:
                for name in lap:
                    yield from self._run_alone(name)

    def _run_lap(self, lap: Sequence[str]) -> list[tuple[str, int, bool]]:
        units = [self.units[name] for name in lap]
        # Behind the sentinel the first unit would find the caches as none of the others does: the
        # last one goes before it, too, uncounted.
        lead = units[-1:] if len(units) > 1 else []
        steps = [step for unit in lead + units for step in self._steps(unit)]
        # The sentinel's first run of two only fetches its data: its second does not depend on
        # what ran before.
        watch = [self.reference, self.reference]
        _, before, *taken, _, after = self._time([*watch, *(call for call, _ in steps), *watch])
        timings = [t for t, (_, unit) in zip(taken, steps, strict=True) if unit][len(lead) :]
        self.empty_ns += [
            t for t, (call, _) in zip(taken, steps, strict=True) if call is self.empty and t >= 0
        ]
        overhead_ns = statistics.median(self.empty_ns) if self.empty_ns else 0
        is_disturbed = self.sentinel.is_disturbed_by((before, after))
        self.laps += 1
        self.disturbed_laps += is_disturbed
        return [
            (name, self._net(unit, timing, overhead_ns), is_disturbed)
            for name, unit, timing in zip(lap, units, timings, strict=True)
            if timing >= 0  # a clock that jumps back tells nothing
        ]

    def _steps(self, unit: Unit) -> list[tuple[Call, Unit | None]]:
        """The calls for a unit, and with which of them it is timed."""
        steps = [(unit.before, None), (unit.call, unit), (self.empty, None)]
        return [(call, timed) for call, timed in steps if call]

    def _net(self, unit: Unit, timing: int, overhead_ns: float) -> int:
        """What one copy takes at the sentinel's first pace, without what any call takes."""
        net = timing - overhead_ns if unit.is_part else timing
        return max(1, round(net / self.sentinel.drift / unit.copies))

    def _run_alone(self, name: str) -> list[tuple[str, int, bool]]:
        """Time one unit of a lap that failed; if it is the one that fails, give it up."""
        try:
            return self._run_lap([name])
        except _RunError as error:
            self._check_device()
            self.failures[name] = str(error)
            self.timings.pop(name, None)
            return []

    def _check_device(self) -> None:
        try:
            self._time([self.reference])
        except _RunError as error:
            raise MeasurementError(
                f"the device runs nothing any more, not even the reference kernel: {error}. What "
                "was measured is kept in the study, if there is one: start again"
            ) from error

    def _time(self, calls: Sequence[Call]) -> Sequence[int]:
        try:
            timings = self.clock(calls)
        except Exception as error:
            raise _RunError(reason_of(error)) from error
        self.timed_ns += sum(timing for timing in timings if timing > 0)
        return timings

    def _company(self) -> list[str]:
        others = [
            name
            for name in self.units
            if not (name in self.timings or name in self.aside or name in self.failures)
        ]
        missing = COMPANY - len(self.timings)
        return self.order.sample(others, max(0, min(missing, len(others))))


class _RunError(Exception):
    """A call of a lap raised."""


def reason_of(error: BaseException) -> str:
    r"""An error in one line.

    Examples
    --------
    >>> reason_of(RuntimeError("out of memory\nsee the manual"))
    'RuntimeError: out of memory'
    >>> reason_of(RuntimeError("the compiler said:\nno such register\nbye"))
    'RuntimeError: the compiler said: no such register'
    """
    first, *others = str(error).strip().splitlines() or [""]
    if first.endswith(":") and others:
        first = f"{first} {others[0]}"
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
