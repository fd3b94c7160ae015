"""The bench: a backend on a device, what it is to measure, and the study that keeps the results."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from layermerge.errors import InputError, LayerMergeError
from layermerge.latency.backend import environment_of, make_backend
from layermerge.latency.options import LatencyOptions
from layermerge.latency.placement import placement_of
from layermerge.latency.programs import as_graph, positional
from layermerge.latency.protocol import Outcome, measure_units
from layermerge.latency.rotation import COMPANY, Call, Unit, reason_of
from layermerge.latency.sentinel import Sentinel
from layermerge.latency.unfinished import Unfinished
from layermerge.progress import progress_bar
from layermerge.store import Measurement, Study

Builder = Callable[[], Unit]

SENTINEL = '{"sentinel": "matrix product"}'
SENTINEL_RUNS = 30


class Bench:
    """Measures units by one backend in one environment.

    It reads the number of threads: make it and use it within `placement.inference`.

    Parameters
    ----------
    options : LatencyOptions
    example : tensor
        On the device that is measured by default.
    batch : int
        Inputs per call.
    study : Study
    """

    def __init__(self, options: LatencyOptions, example: Tensor, batch: int, study: Study) -> None:
        self.options = options
        self.study = study
        self.placement = placement_of(options, example)
        self.backend = make_backend(options, self.placement)
        self.environment = environment_of(self.backend, options, self.placement, batch)

    def operation(
        self, make: Callable[[], nn.Module], inputs: Callable[[], tuple[Any, ...]]
    ) -> Unit:
        """A unit of one operation of a network, repeated as often as the backend asks."""
        with torch.device(self.placement.device):
            first = self.placement.move(make().eval())
            values = inputs()
            copies = self._copies(first, values)
            others = [self.placement.move(make().eval()) for _ in range(copies - 1)]
        program = as_graph([first, *others], len(values)) if others else first
        call, read = self.backend.prepare_part(program, values)
        return Unit(call, copies, _writer(read))

    def _copies(self, program: nn.Module, values: tuple[Any, ...]) -> int:
        """How many of a unit make a program: fewer than the backend asks for if it takes long."""
        if math.isinf(self.backend.repeated_below_ns):
            return self.backend.copies
        _, taken_ns = self.backend.timer.time([partial(program, *values)] * 2)
        return 1 if taken_ns > self.backend.repeated_below_ns else self.backend.copies

    def network(self, module: nn.Module, inputs: Mapping[str, Any]) -> Unit:
        """A unit of a whole network."""
        program, values = positional(self.placement.copy(module), inputs)
        return Unit(self.backend.prepare(program, self.placement.values(values)), is_part=False)

    def measure(
        self,
        builders: Mapping[str, Builder],
        give_up: Callable[[Mapping[str, int]], Collection[str]] = lambda estimates_ns: (),
        *,
        keeps: bool = True,
    ) -> tuple[Outcome, int]:
        """Measure what the study does not hold; return everything, and how much it held.

        Parameters
        ----------
        builders : mapping of str to callable
            Make the units, by their subjects in the study.
        give_up : callable, optional
            See `measure_units`.
        keeps : bool
            Whether the study is asked, and keeps the results.
        """
        known = self._known(builders) if keeps else {}
        if len(known) == len(builders):
            return Outcome(known), len(known)
        # Two processes on one device would measure each other.
        waiting = "waiting for another process, which measures latency for the same study"
        with self.study.claims.held(f"latency {self.environment.fingerprint}", waiting):
            return self._measure(builders, give_up, keeps=keeps)

    def _measure(
        self,
        builders: Mapping[str, Builder],
        give_up: Callable[[Mapping[str, int]], Collection[str]],
        *,
        keeps: bool,
    ) -> tuple[Outcome, int]:
        known = self._known(builders) if keeps else {}
        pending = [subject for subject in builders if subject not in known]
        if not pending:  # another process has measured it since
            return Outcome(known), len(known)
        unfinished = Unfinished(self.study, self.environment.fingerprint)
        title = f"Measuring latency ({self.options.backend})"
        with progress_bar(title, len(builders), enabled=self.options.progress) as show:
            units, failures = _built(builders, [*pending, *_company(known)])
            outcome = measure_units(
                units,
                reference=self.backend.timer.reference(),
                clock=self.backend.timer.time,
                precision=self.options.precision,
                known=known,
                sentinel=self._sentinel(),
                empty=self._empty(),
                give_up=give_up,
                begun=unfinished.of(pending) if keeps else {},
                keep=self._keep if keeps else lambda final: None,
                keep_begun=unfinished.keep if keeps else lambda timings: None,
                show=lambda done: show(done + len(builders) - len(units)),
            )
        if keeps:
            unfinished.forget()
        results = known | outcome.measurements | (self._held(outcome.measurements) if keeps else {})
        ordered = {subject: results[subject] for subject in builders if subject in results}
        failures |= outcome.failures
        return replace(outcome, measurements=ordered, failures=failures), len(known)

    def _known(self, subjects: Iterable[str]) -> dict[str, Measurement]:
        """What the study holds of them, and need not be measured again."""
        held = self._held(subjects)
        return {s: m for s, m in held.items() if not self.options.refine or self._is_precise(m)}

    def _held(self, subjects: Iterable[str]) -> dict[str, Measurement]:
        held = self.study.measurements(self.environment.fingerprint)
        found = {subject: held[subject] for subject in subjects if subject in held}
        if nothing := [subject for subject, m in found.items() if not m.median_ns]:
            raise InputError(
                f"study {self.study.path} is damaged: {nothing[0]} takes 0 ns; delete it and start "
                "again"
            )
        return found

    def _is_precise(self, measurement: Measurement) -> bool:
        return measurement.spread <= self.options.target_rsd

    def _empty(self) -> Call | None:
        """A program that does nothing. On a GPU there is none: its queue hides what calls cost."""
        if self.placement.device.type != "cpu":
            return None
        return self.backend.prepare(_Nothing().eval(), (torch.zeros(1),))

    def _keep(self, final: dict[str, Measurement]) -> None:
        """Keep results, but none in place of a more precise one."""
        held = self._held(final) if self.options.refine else {}
        better = {
            s: m
            for s, m in final.items()
            if s not in held or self._is_precise(m) or m.spread < held[s].spread
        }
        self.study.add_measurements(self.environment.fingerprint, better)

    def _sentinel(self) -> Sentinel:
        """A sentinel whose baseline is that of the first run of the study in this environment."""
        reference = self.backend.timer.reference()
        timings = self.backend.timer.time([reference] * SENTINEL_RUNS)[SENTINEL_RUNS // 3 :]
        pace_ns = max(1, round(statistics.median(timings)))
        first = self.study.first_measurement(
            self.environment.fingerprint, SENTINEL, Measurement(pace_ns, 0.0, SENTINEL_RUNS, 0.0)
        )
        return Sentinel(first.median_ns)


class _Nothing(nn.Module):
    """The identity."""

    def forward(self, value: Tensor) -> Tensor:
        return value


def _writer(values: tuple[Any, ...]) -> Call | None:
    """Write the first input anew, which brings it into the caches, and leaves it as it is."""
    tensors = [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
    if not tensors or tensors[0].is_meta:
        return None
    return partial(tensors[0].mul_, 1.0)


def _built(
    builders: Mapping[str, Builder], subjects: Collection[str]
) -> tuple[dict[str, Unit], dict[str, str]]:
    """Build units; those that cannot be built, with the reason."""
    units, failures = {}, {}
    for subject in subjects:
        try:
            units[subject] = builders[subject]()
        except LayerMergeError:
            raise
        except Exception as error:
            failures[subject] = reason_of(error)
    return units, failures


def _company(known: Collection[str]) -> list[str]:
    """Some of what is known already, to keep the caches cold beside what is not."""
    return random.Random(0).sample(sorted(known), min(COMPANY, len(known)))
