"""How well predictions agree with what was measured: for the original and for random plans."""

from __future__ import annotations

import random
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from layermerge.candidates import Candidate, CandidateSpace
from layermerge.errors import InputError
from layermerge.latency.profile import LatencyProfile, hopeless

DRAWS = 100
"""Random paths that are drawn for each plan that is wanted, at most: some are equal."""
RANDOM_WORK = 2.0
"""Times the FLOPs of what it replaces that a candidate of a random plan may have."""


@dataclass(frozen=True)
class Trial:
    """One network, predicted and measured.

    Attributes
    ----------
    name : str
    layers : int
        Convolutions that run.
    predicted_ns : int
        Sum of the parts, uncalibrated.
    measured_ns : int
        Of the whole network.
    spread : float
        Relative half-width of the confidence interval of what was measured.
    """

    name: str
    layers: int
    predicted_ns: int
    measured_ns: int
    spread: float

    def error(self, calibration: float = 1.0) -> float:
        """Relative error of the prediction."""
        return self.predicted_ns * calibration / self.measured_ns - 1


@dataclass(frozen=True)
class Fidelity:
    """Predictions against measurements.

    Attributes
    ----------
    trials : tuple of Trial
        The original network first.
    calibration : float
        By which the profile's predictions are multiplied: measured over predicted latency of the
        original network, from before the trials.
    """

    trials: tuple[Trial, ...]
    calibration: float

    @cached_property
    def raw_errors(self) -> tuple[float, ...]:
        """Absolute relative error of the sum of parts of each plan."""
        return tuple(abs(trial.error()) for trial in self.trials[1:])

    @cached_property
    def errors(self) -> tuple[float, ...]:
        """Absolute relative error of the calibrated prediction of each plan."""
        return tuple(abs(trial.error(self.calibration)) for trial in self.trials[1:])

    @property
    def rank_correlation(self) -> float:
        """Spearman's: 1 if predictions rank the networks as measurements do."""
        return spearman(
            [trial.predicted_ns for trial in self.trials],
            [trial.measured_ns for trial in self.trials],
        )

    def __str__(self) -> str:
        again = 1 / (1 + self.trials[0].error(self.calibration)) - 1
        return (
            f"error of {len(self.errors)} plans: median {statistics.median(self.errors):.1%}, "
            f"worst {max(self.errors):.1%} (without calibration "
            f"{statistics.median(self.raw_errors):.1%} and {max(self.raw_errors):.1%}); "
            f"rank correlation {self.rank_correlation:.3f}; beside them the original takes "
            f"{again:+.1%} from what it took for the calibration"
        )


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation; equal values share the mean of their ranks.

    Where all values of one are equal, it is 1 if those of the other are, too, and else 0.

    Examples
    --------
    >>> spearman([1, 2, 3], [10, 30, 20])
    0.5
    """
    num_different = len({*first}), len({*second})
    if 1 in num_different:
        return float(num_different == (1, 1))
    return statistics.correlation(_ranks(first), _ranks(second))


def _ranks(values: Sequence[float]) -> list[float]:
    """Mean rank of each value: half of those below and those not above."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value)) / 2 for value in values]


def modest(space: CandidateSpace, work: float = RANDOM_WORK) -> CandidateSpace:
    """The part of a space whose candidates have at most so many times the FLOPs they replace."""
    flops = [0, *(candidate.signature.flops for candidate in space.original)]
    total = list(accumulate(flops))
    return replace(
        space,
        candidates=tuple(
            c
            for c in space.candidates
            if c.is_original or c.signature.flops <= work * (total[c.end] - total[c.start])
        ),
    )


def measured_part(profile: LatencyProfile) -> CandidateSpace:
    """The candidates of a profile that run, and are not far slower than what they replace."""
    space = profile.space
    hopeless_ns = hopeless(space, {s: m.median_ns for s, m in profile.convolutions.items()})
    return replace(
        space,
        candidates=tuple(
            c for c in space.candidates if profile.is_feasible(c) and c.signature not in hopeless_ns
        ),
    )


def random_plans(space: CandidateSpace, count: int, seed: int = 0) -> list[tuple[Candidate, ...]]:
    """Different random paths over the candidates of a space, none of them the original network.

    Where a space has not so many, or nearly all of them, fewer are found.

    Raises
    ------
    InputError
        If `count` is negative, or the space has the original network only.
    """
    if count < 0:
        raise InputError(f"count must be at least 0, got {count}")
    if count and all(candidate.is_original for candidate in space.candidates):
        raise InputError("no layer of this network can be merged: there are no plans to try")
    starting: dict[int, list[Candidate]] = {}
    for candidate in space.candidates:
        starting.setdefault(candidate.start, []).append(candidate)
    generator = random.Random(seed)
    plans: dict[tuple[Candidate, ...], None] = {}
    for _ in range(DRAWS * count):
        path: list[Candidate] = []
        position = 0
        while position < space.network.num_layers:
            path.append(generator.choice(starting[position]))
            position = path[-1].end
        if not all(candidate.is_original for candidate in path):
            plans[tuple(path)] = None
        if len(plans) == count:
            break
    return [*plans]


def restricted(space: CandidateSpace, plans: Iterable[Iterable[Candidate]]) -> CandidateSpace:
    """The part of a space that the original network and some plans consist of."""
    used = {*space.original, *(candidate for plan in plans for candidate in plan)}
    return replace(space, candidates=tuple(c for c in space.candidates if c in used))
