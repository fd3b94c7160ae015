"""From measurements to a plan: a whole-network budget, tables for the solver, the plan it chose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np

from layermerge.arguments import check_argument
from layermerge.candidates import Candidate
from layermerge.errors import InfeasibleError, InputError, shown
from layermerge.importance.scores import ImportanceScores, Objective
from layermerge.latency.profile import LatencyProfile
from layermerge.milliseconds import MAX_NS, budget_from_ms, format_ms
from layermerge.plan import Plan, planned_segment
from layermerge.selection import Selection
from layermerge.solver import solve
from layermerge.tables import Entries, ImportanceTable, LatencyTable


@dataclass(frozen=True)
class Budget:
    """A latency budget of the whole network: absolute, or relative to the original network.

    Exactly one attribute is given.

    Attributes
    ----------
    latency_ms : float, optional
    fraction : float, optional
        Of the original latency, such as 0.6.
    speedup : float, optional
        Original latency over budget, such as 1.5.

    Examples
    --------
    >>> Budget(speedup=1.6).resolve(original_ns=8_000_000)
    5000000
    """

    latency_ms: float | None = None
    fraction: float | None = None
    speedup: float | None = None

    def __post_init__(self) -> None:
        given = {
            name: value
            for name in ("latency_ms", "fraction", "speedup")
            if (value := getattr(self, name)) is not None
        }
        if len(given) != 1:
            raise InputError(
                f"give one of latency_ms, fraction and speedup as the budget; got {given or 'none'}"
            )
        ((name, value),) = given.items()
        is_number = isinstance(value, (Real, Decimal)) and not isinstance(value, bool)
        if not (is_number and 0 < value < math.inf):
            raise InputError(f"{name} must be a number greater than 0, got {value!r}")
        if name == "latency_ms" and value > MAX_NS / 1e6:
            raise InputError(f"latency_ms must be below {MAX_NS / 1e6:.2g}, got {float(value):.2g}")
        if name == "fraction" and value > 1:
            raise InputError(
                f"fraction must be a part of the original latency, such as 0.6, got {value!r}"
            )
        if name == "speedup" and value < 1:
            raise InputError(
                "speedup must be the original latency over the new one, such as 1.5; "
                f"{value!r} is a slow-down"
            )

    @property
    def is_relative(self) -> bool:
        """Whether it depends on the latency of the original network."""
        return self.latency_ms is None

    def resolve(self, original_ns: int) -> int:
        """The budget in nanoseconds."""
        original_ns = _whole_ns("original_ns", original_ns)
        if self.latency_ms is not None:
            return budget_from_ms(self.latency_ms)
        if self.fraction is not None:
            return math.floor(original_ns * self.fraction)
        assert self.speedup is not None
        return math.floor(original_ns / self.speedup)

    def __str__(self) -> str:
        if self.latency_ms is not None:
            return f"{float(self.latency_ms):g} ms"
        if self.fraction is not None:
            return f"{float(self.fraction):.0%} of the original latency"
        assert self.speedup is not None
        return f"a speed-up of {float(self.speedup):g}"


def tabulate(
    profile: LatencyProfile, scores: ImportanceScores, objective: Objective = "exp_delta"
) -> tuple[LatencyTable, ImportanceTable, tuple[Candidate, ...]]:
    """Put the candidates that may be chosen into the tables that the solver takes.

    Returns
    -------
    latency : LatencyTable
    importance : ImportanceTable
    candidates : tuple of Candidate
        The candidate of each row.

    Raises
    ------
    InputError
        If the two are of different networks or candidate spaces.
    """
    scores.check_network(profile.space.network.fingerprint)
    candidates = tuple(
        candidate
        for candidate in profile.space.candidates
        if scores.is_available(candidate) and profile.is_feasible(candidate)
    )
    latency = tabulate_latency(profile, candidates)
    kept = tuple(candidate.kept for candidate in candidates)
    values = np.array([scores.of(candidate, objective) for candidate in candidates], np.float64)
    importance = ImportanceTable(latency.entries, values, kept)
    return latency, importance, candidates


def tabulate_latency(profile: LatencyProfile, candidates: Sequence[Candidate]) -> LatencyTable:
    """Put the latencies of candidates into a table, row by row."""
    entries = Entries(
        np.array([candidate.start for candidate in candidates], np.int32),
        np.array([candidate.end for candidate in candidates], np.int32),
        np.array([candidate.kernel_size for candidate in candidates], np.int32).reshape(-1, 2),
        np.array([candidate.signature.stride for candidate in candidates], np.int32).reshape(-1, 2),
        np.array([candidate.signature.is_depthwise for candidate in candidates], np.bool_),
    )
    measurements = [*map(profile.measurement_of, candidates)]
    return LatencyTable(
        entries,
        np.array(list(map(profile.of, candidates)), np.int64),
        np.array([round(m.median_ns * m.spread) for m in measurements], np.int64),
    )


def make_plan(
    profile: LatencyProfile,
    scores: ImportanceScores,
    budget_ns: int,
    *,
    objective: Objective = "exp_delta",
) -> Plan:
    """Choose the plan of largest importance whose predicted latency meets a budget.

    Parameters
    ----------
    profile : LatencyProfile
    scores : ImportanceScores
        Of the same network and candidate space.
    budget_ns : int
        For the whole network, fixed parts included.
    objective : str or callable
        See `ImportanceScores.of`.

    Returns
    -------
    Plan

    Raises
    ------
    InfeasibleError
        If no plan is so fast; has the least whole-network latency.
    """
    check_argument("profile", profile, LatencyProfile)
    check_argument("scores", scores, ImportanceScores)
    latency, importance, candidates = tabulate(profile, scores, objective)
    try:
        selection = solve(latency, importance, budget_ns=available_ns(profile, budget_ns))
    except InfeasibleError as error:
        raise explained(error, profile, budget_ns) from None
    chosen = [candidates[row] for row in selection.rows]
    certificate = with_left_out(_certificate(selection), scores)
    return combine(profile, scores, chosen, budget_ns, objective, certificate)


def check_reachable(profile: LatencyProfile, budget: Budget) -> None:
    """Refuse a budget below the fastest plan before any fine-tune is spent on it."""
    equal = ImportanceScores(0.0, {c.key: 0.0 for c in profile.space.candidates}, {}, frozenset())
    make_plan(profile, equal, budget.resolve(predict_original_ns(profile)))


def explained(error: InfeasibleError, profile: LatencyProfile, budget_ns: int) -> InfeasibleError:
    """The solver's error, in terms of the whole network."""
    least_ns = predict_ns(profile, error.least_latency_ns)
    return InfeasibleError(
        f"no plan meets the budget of {format_ms(budget_ns)} ms: the fastest is predicted to "
        f"take {format_ms(least_ns)} ms, of which "
        f"{format_ms(predict_ns(profile, 0))} ms are fixed parts. Allow more latency, or widen "
        "the search space (max_kernel, frozen, breaks)",
        least_ns,
    )


def available_ns(profile: LatencyProfile, budget_ns: int) -> int:
    """What a whole-network budget leaves for the sum of the candidate latencies, at least 0."""
    budget_ns = _whole_ns("budget_ns", budget_ns)
    # calibration * (fixed + Σ T) <= budget
    return max(0, math.floor(budget_ns / profile.calibration) - profile.fixed_ns)


def checked_budgets(budgets_ns: Iterable[int]) -> tuple[int, ...]:
    """Several whole-network budgets, at least one."""
    if not isinstance(budgets_ns, Iterable):
        raise InputError(
            f"budgets_ns must be a list of whole numbers of nanoseconds, got {budgets_ns!r}"
        )
    budgets = tuple(_whole_ns(f"budgets_ns[{k}]", each) for k, each in enumerate(budgets_ns))
    if not budgets:
        raise InputError("budgets_ns is empty: give at least one budget, in nanoseconds")
    return budgets


def _whole_ns(name: str, value: Any) -> int:
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or not 0 <= int(value) <= MAX_NS:
        raise InputError(
            f"{name} must be a whole number of nanoseconds, from 0 to 2^63 - 1; got "
            f"{shown(repr(value))}"
        )
    return int(value)


def predict_ns(profile: LatencyProfile, convolutions_ns: int) -> int:
    """Whole-network latency for a sum of candidate latencies: fixed parts, calibration."""
    return math.ceil((convolutions_ns + profile.fixed_ns) * profile.calibration)


def predict_original_ns(profile: LatencyProfile) -> int:
    """Whole-network latency of the original network: as measured, if it was."""
    return predict_ns(profile, profile.original_ns - profile.fixed_ns)


def chosen_candidates(profile: LatencyProfile, plan: Plan) -> tuple[Candidate, ...]:
    """The candidates that a plan consists of."""
    by_place = {(c.start, c.end, c.kept): c for c in profile.space.candidates}
    return tuple(by_place[s.start, s.end, s.kept] for s in plan.segments)


def combine(
    profile: LatencyProfile,
    scores: ImportanceScores,
    chosen: Sequence[Candidate],
    budget_ns: int,
    objective: Objective,
    certificate: str,
) -> Plan:
    """The plan that candidates make, with what it promises."""
    values = [scores.of(each, objective) for each in chosen]
    latencies = [*map(profile.of, chosen)]
    network = profile.space.network
    return Plan(
        network.fingerprint,
        network.num_layers,
        network.inputs,
        tuple(map(planned_segment, chosen, latencies, values)),
        budget_ns,
        predict_ns(profile, sum(latencies)),
        sum(values),
        certificate,
        {"environment": str(profile.environment), "calibration": float(profile.calibration)},
        network.remove,
    )


def with_left_out(certificate: str, scores: ImportanceScores) -> str:
    """What is proven, and of which candidates it says nothing."""
    if not scores.skipped:
        return certificate
    count = len(scores.skipped)
    return f"{certificate} ({count} that are no faster than the layers they replace are left out)"


def _certificate(selection: Selection) -> str:
    if selection.optimal:
        return "proven: no plan within the budget has a larger total importance"
    return f"at most {selection.gap:.2%} below the largest total importance within the budget"
