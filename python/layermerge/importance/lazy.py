"""Lazy estimation: find the best plan while evaluating few entries (no torch).

Each round solves with upper bounds in place of unknown scores. Its value bounds what any plan can
have. Once a plan of known entries has that value, it is optimal for the full table, if the bounds
hold. Until then, unknown entries are evaluated: first those of the plan that looks best by
prediction, then those of the optimistic plan. Where an optimistic plan has the same value and is
faster, its entries are evaluated too: of equal plans the fastest is wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from layermerge.errors import InfeasibleError
from layermerge.importance.bounds import Bounds
from layermerge.solver import solve

TOLERANCE = 1e-9
"""Relative to the value: what the exact solver proves."""

Evaluate = Callable[[Sequence[int]], Mapping[int, float]]
"""Δ of at least one of the rows, which come in the order in which they are wanted.

Minus infinity for one that failed. It may know others as well."""


@dataclass(frozen=True)
class Choices:
    """The entries that may be chosen.

    Attributes
    ----------
    start, end : int array [n]
    latency_ns : int64 array [n]
    bounds : Bounds
        Of the same entries.
    """

    start: NDArray[np.integer]
    end: NDArray[np.integer]
    latency_ns: NDArray[np.int64]
    bounds: Bounds

    def __len__(self) -> int:
        return len(self.start)

    def latency_of(self, rows: Sequence[int]) -> int:
        """Of the entries of a plan together."""
        return int(self.latency_ns[list(rows)].sum())


@dataclass(frozen=True)
class Round:
    """Where the search stands after solving with what is known.

    Attributes
    ----------
    number : int
        Counted from 1.
    evaluated, total : int
        Entries with a score or a failure, and all that may need one.
    wanted : int
        Unknown entries of the plans that are looked at now, those evaluated in this round included.
    value, bound : tuple of float
        For each budget, the value of the best known plan (minus infinity if there is none), and
        what no plan exceeds if the bounds hold.
    rows : tuple of tuple of int
        For each budget, the best known plan; empty if there is none.
    surprises : int
        Evaluated entries that gained more than `Margins.gain`.
    gain : float
        The bound on gains now.
    """

    number: int
    evaluated: int
    total: int
    wanted: int
    value: tuple[float, ...]
    bound: tuple[float, ...]
    rows: tuple[tuple[int, ...], ...]
    surprises: int = 0
    gain: float = 0.0

    @property
    def is_last(self) -> bool:
        """Whether every budget's plan is proven, given the bounds, and none as good is faster."""
        return self.wanted == 0

    @property
    def certificate(self) -> str:
        """What is proven, in words."""
        if self.evaluated == self.total:
            return f"optimal: all {self.total} entries evaluated"
        text = (
            "optimal for the full table if no unknown entry exceeds its bound; "
            f"{self.evaluated} of {self.total} entries evaluated"
        )
        if not self.surprises:
            return text
        return (
            f"{text}, {self.surprises} of which gained more than the bound first assumed, so that "
            f"it was raised to {self.gain:.3g}: train the original network longer, or raise the "
            "gain margin"
        )


class ImportanceOf(Protocol):
    """An objective: importance of each change Δ, non-decreasing."""

    def __call__(self, delta: NDArray[np.float64], /) -> NDArray[np.float64]:
        """Importance of each Δ."""


def search(
    choices: Choices,
    delta: NDArray[np.float64],
    budgets_ns: Sequence[int],
    evaluate: Evaluate,
    *,
    objective: ImportanceOf = np.exp,
    on_round: Callable[[Round], object] = lambda state: None,
    is_proven: bool = True,
) -> tuple[NDArray[np.float64], Round]:
    """Evaluate entries until the best plan for each budget is known.

    Parameters
    ----------
    choices : Choices
    delta : float64 array [n]
        Change of the score of each entry: NaN where it is not known, 0 for original entries, minus
        infinity for failed ones.
    budgets_ns : sequence of int
        For the sum of the latencies.
    evaluate : callable
        See `Evaluate`. It does best to give as many as can run at once.
    objective : callable
    on_round : callable
        Told the state of every round, the last one included.
    is_proven : bool
        Whether to go on until the bounds are met. If not, the search ends with the plan that looks
        best by prediction, once all its entries are known: with far fewer evaluations.

    Returns
    -------
    delta : float64 array [n]
        With what was evaluated.
    state : Round
        The last round.

    Raises
    ------
    InfeasibleError
        If no plan meets the smallest budget, whatever its entries are worth.

    Examples
    --------
    Two layers that are kept, or merged; the merged ones must be tried, for the budget is tight:

    >>> start, end = np.array([0, 1, 0, 0]), np.array([1, 2, 2, 2])
    >>> bounds = Bounds(start, end, [(1,), (2,), (1, 2), (2,)])
    >>> choices = Choices(start, end, np.array([5, 6, 7, 8]), bounds)
    >>> truth = {2: -0.1, 3: -0.3}
    >>> known = np.array([0.0, 0.0, np.nan, np.nan])
    >>> _, state = search(choices, known, [8], lambda rows: {row: truth[row] for row in rows})
    >>> state.rows, state.certificate[-24:]
    (((2,),), '1 of 2 entries evaluated')
    """
    delta, number = delta.copy(), 1
    to_evaluate = int((choices.bounds.num_removed > 0).sum())
    while True:
        plans = [_look(choices, delta, objective, budget) for budget in budgets_ns]
        if not is_proven:
            plans = [replace(plan, optimistic=()) for plan in plans]
        wanted = _in_order(choices, delta, plans)
        state = Round(
            number,
            to_evaluate - int(np.isnan(delta).sum()),
            to_evaluate,
            len(wanted),
            tuple(plan.value for plan in plans),
            tuple(plan.bound for plan in plans),
            tuple(plan.rows for plan in plans),
            int((delta[choices.bounds.num_removed > 0] > choices.bounds.margins.gain).sum()),
            choices.bounds.gain(delta),
        )
        on_round(state)
        if state.is_last:
            return delta, state
        for row, score in evaluate(wanted).items():
            delta[row] = score
        number += 1


@dataclass(frozen=True)
class _Look:
    """One budget: the best known plan, the bound, and what to evaluate next.

    `likely` are unknown rows of the plan that looks best, `optimistic` those of the plan that gives
    the bound.
    """

    rows: tuple[int, ...]
    value: float
    bound: float
    likely: tuple[int, ...] = ()
    optimistic: tuple[int, ...] = ()


def _look(
    choices: Choices, delta: NDArray[np.float64], objective: ImportanceOf, budget_ns: int
) -> _Look:
    is_unknown = np.isnan(delta)
    optimistic = _solve(
        choices, np.where(is_unknown, choices.bounds.upper(delta), delta), objective, budget_ns
    )
    try:
        known = _solve(choices, np.where(is_unknown, -np.inf, delta), objective, budget_ns)
    except InfeasibleError:
        known = (), -np.inf
    rows, value = known
    best, bound = optimistic
    if value >= bound - TOLERANCE * max(1.0, abs(bound)):
        is_faster = choices.latency_of(best) < choices.latency_of(rows)
        tied = tuple(row for row in best if is_unknown[row]) if is_faster else ()
        return _Look(rows, value, bound, optimistic=tied)
    likely = _solve(
        choices, np.where(is_unknown, choices.bounds.predict(delta), delta), objective, budget_ns
    )
    unknown = [
        tuple(row for row in chosen if is_unknown[row]) for chosen, _ in (likely, optimistic)
    ]
    return _Look(rows, value, bound, *unknown)


def _solve(
    choices: Choices, delta: NDArray[np.float64], objective: ImportanceOf, budget_ns: int
) -> tuple[tuple[int, ...], float]:
    """Rows and value of the best plan among the entries whose Δ is not minus infinity."""
    rows = np.flatnonzero(delta > -np.inf)
    selection = solve(
        choices.latency_ns[rows],
        objective(delta[rows]),
        budget_ns=budget_ns,
        start=choices.start[rows],
        end=choices.end[rows],
    )
    return tuple(rows[list(selection.rows)].tolist()), selection.value


def _in_order(choices: Choices, delta: NDArray[np.float64], plans: Sequence[_Look]) -> list[int]:
    """Each wanted row once: first those of likely plans, then what keeps the bounds up.

    Within either, what most budgets want comes first, then what is likely worst, then what removes
    most: a plan fails with its worst entry, and trying that first saves the others.
    """
    likely = Counter(row for plan in plans for row in plan.likely)
    others = Counter(row for plan in plans for row in plan.optimistic if row not in likely)
    predicted, size = choices.bounds.predict(delta), choices.bounds.num_removed

    def key(row: int) -> tuple[float, ...]:
        return -(likely[row] + others[row]), predicted[row], -size[row], row

    return sorted(likely, key=key) + sorted(others, key=key)
