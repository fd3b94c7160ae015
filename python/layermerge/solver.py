"""Tables to the best selection of entries under a latency budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layermerge import _core
from layermerge.errors import InfeasibleError, InputError
from layermerge.instance import (
    Instance,
    instance_of,
    solve_binned,
    solve_exact,
    solve_exact_each,
)
from layermerge.milliseconds import MAX_NS, budget_from_ms
from layermerge.selection import (
    MEMORY_LIMIT_BYTES,
    METHODS,
    ROUNDINGS,
    SelectedEntry,
    Selection,
    Statistics,
)
from layermerge.tables import ImportanceTable, LatencyTable

__all__ = [
    "Frontier",
    "SelectedEntry",
    "Selection",
    "Statistics",
    "baseline_latency_ns",
    "frontier",
    "solve",
    "solve_many",
]

DEFAULT_BINS = 10_000
"""Bins that a budget is divided into unless `bin_ns` is given."""


def solve(
    latency: LatencyTable | ArrayLike,
    importance: ImportanceTable | ArrayLike,
    *,
    start: ArrayLike | None = None,
    end: ArrayLike | None = None,
    budget_ns: int | None = None,
    budget_ms: float | None = None,
    speedup: float | None = None,
    method: str | None = None,
    gap: float = 0.0,
    bin_ns: int | None = None,
    rounding: str | None = None,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
) -> Selection:
    """Select consecutive entries that cover all positions, of largest importance in the budget.

    Parameters
    ----------
    latency, importance : LatencyTable, ImportanceTable, or integer and float arrays [n]
        With the same entries, in any order. As arrays: nanoseconds and values, row by row.
    start, end : int arrays [n], optional
        With arrays: the positions between which each entry leads.
    budget_ns, budget_ms, speedup : int, float, float
        The budget, in one of the three ways. Milliseconds are rounded down to whole nanoseconds; a
        speedup divides `baseline_latency_ns`, rounded down.
    method : {"exact", "binned"}, optional
        "exact" proves its selection optimal. "binned" is the paper's dynamic programme over latency
        bins (arXiv 2406.12837, section 3.3). "exact" unless an option of "binned" is given.
    gap : float
        For "exact": stop once the upper bound is within this share of the value.
    bin_ns : int, optional
        For "binned": width of a bin; by default a ten-thousandth of the budget.
    rounding : {"up", "floor"}, optional
        For "binned": how latencies become bins. "up", the default, keeps the budget; "floor", the
        authors' way, may exceed it.
    memory_limit_bytes : int
        "binned" refuses a problem whose tables would be larger; "exact" ends with the best
        selection it has, and the bound.

    Returns
    -------
    Selection
        Ties go to less latency ("binned": fewer bins of it), then fewer entries, then the smallest
        rows.

    Raises
    ------
    InputError
        The tables or the options are not as expected.
    InfeasibleError
        No selection meets the budget; has the least achievable latency.

    Examples
    --------
    Two layers, each on its own or merged to a 5x5 convolution:

    >>> from layermerge.tables import Entries, ImportanceTable, LatencyTable
    >>> entries = Entries(
    ...     start=[0, 1, 0], end=[1, 2, 2], kernel_size=[(3, 3), (3, 3), (5, 5)],
    ...     stride=[(1, 1)] * 3, is_depthwise=[False] * 3,
    ... )
    >>> latency = LatencyTable(entries, latency_ns=[5, 6, 7], stdev_ns=[0, 0, 0])
    >>> importance = ImportanceTable(entries, [0.9, 0.8, 1.1], kept=((1,), (2,), (1, 2)))
    >>> solve(latency, importance, budget_ns=10).activations
    (2,)

    The same from arrays:

    >>> found = solve([5, 6, 7], [0.9, 0.8, 1.1], start=[0, 1, 0], end=[1, 2, 2], budget_ns=10)
    >>> found.rows, found.value, found.upper_bound, found.optimal
    ((2,), 1.1, 1.1, True)
    """
    instance = instance_of(latency, importance, start, end)
    budget = _budget(instance, budget_ns, budget_ms, speedup)
    memory_limit = _integer("memory_limit_bytes", memory_limit_bytes, 0)
    if _chosen_method(method, gap, bin_ns, rounding) == "exact":
        return solve_exact(instance, [budget], _share("gap", gap), memory_limit)[0]
    _check_choice("rounding", rounding := rounding or "up", ROUNDINGS)
    width_ns = max(1, budget // DEFAULT_BINS) if bin_ns is None else _integer("bin_ns", bin_ns, 1)
    return solve_binned(instance, budget, width_ns, rounding, memory_limit)


def solve_many(
    latency: LatencyTable | ArrayLike,
    importance: ImportanceTable | ArrayLike,
    budgets_ns: Sequence[int],
    *,
    start: ArrayLike | None = None,
    end: ArrayLike | None = None,
    gap: float = 0.0,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
) -> list[Selection | InfeasibleError]:
    """Solve exactly for each of many budgets; tables are matched and memory is taken once.

    Parameters are those of `solve`.

    Returns
    -------
    list of Selection or InfeasibleError
        In the order of the budgets. A budget that no selection meets does not end the others: it
        has the error that `solve` would raise, which has the least achievable latency.

    Raises
    ------
    InputError
        The tables or the options are not as expected.

    Examples
    --------
    >>> arrays = {"start": [0, 1, 0], "end": [1, 2, 2]}
    >>> [found.rows for found in solve_many([5, 6, 7], [0.9, 0.8, 1.1], [7, 11], **arrays)]
    [(2,), (0, 1)]
    >>> (outcome,) = solve_many([5, 6, 7], [0.9, 0.8, 1.1], [6], **arrays)
    >>> isinstance(outcome, Selection), outcome.least_latency_ns
    (False, 7)
    """
    instance = instance_of(latency, importance, start, end)
    if not isinstance(budgets_ns, Iterable):
        raise InputError(f"budgets_ns must be a sequence of integers, got {budgets_ns!r}")
    budgets = [_integer(f"budgets_ns[{k}]", each, 0) for k, each in enumerate(budgets_ns)]
    memory_limit = _integer("memory_limit_bytes", memory_limit_bytes, 0)
    return solve_exact_each(instance, budgets, _share("gap", gap), memory_limit)


def frontier(
    latency: LatencyTable | ArrayLike,
    importance: ImportanceTable | ArrayLike,
    *,
    start: ArrayLike | None = None,
    end: ArrayLike | None = None,
    max_points: int | None = None,
    epsilon: float = 0.0,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
) -> Frontier:
    """Find all selections that no other dominates: what every budget can buy.

    Parameters
    ----------
    latency, importance, start, end
        As for `solve`.
    max_points : int, optional
        Find at most as many, where the value changes most.
    epsilon : float
        Stop when no budget can have a value larger by more than this than its point's.
    memory_limit_bytes : int
        All points at once need labels in memory: more are refused.

    Returns
    -------
    Frontier
        With all points (error 0), unless `max_points` or `epsilon` is given.

    Examples
    --------
    >>> found = frontier([5, 6, 7], [0.9, 0.8, 1.1], start=[0, 1, 0], end=[1, 2, 2])
    >>> found.latency_ns.tolist(), found.value.round(9).tolist()
    ([7, 11], [1.1, 1.7])
    >>> found.selection(1).activations
    (1, 2)
    """
    instance = instance_of(latency, importance, start, end)
    points = None if max_points is None else _integer("max_points", max_points, 2)
    memory_limit = _integer("memory_limit_bytes", memory_limit_bytes, 0)
    latency_ns, value, error = _core.frontier(
        instance.problem,
        max_points=points,
        epsilon=_share("epsilon", epsilon),
        memory_limit_bytes=memory_limit,
    )
    return Frontier(latency_ns, value, error, instance)


def baseline_latency_ns(
    latency: LatencyTable | ArrayLike,
    importance: ImportanceTable | ArrayLike,
    *,
    start: ArrayLike | None = None,
    end: ArrayLike | None = None,
) -> int:
    """Latency of the network as it is: every layer on its own, and kept.

    Where the tables do not say which layers are kept, a layer's slowest entry stands for it.

    Examples
    --------
    >>> baseline_latency_ns([5, 6, 7], [0.9, 0.8, 1.1], start=[0, 1, 0], end=[1, 2, 2])
    11
    """
    return instance_of(latency, importance, start, end).baseline_latency_ns()


@dataclass(frozen=True)
class Frontier:
    """Latencies and values that no selection dominates, both rising.

    Attributes
    ----------
    latency_ns : int64 array [n]
    value : float64 array [n]
    error : float
        With any budget, the best selection is worth at most this more than the best point within.
    """

    latency_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    error: float
    _instance: Instance

    def __len__(self) -> int:
        return len(self.latency_ns)

    def selection(self, point: int) -> Selection:
        """Recover the selection of a point: the exact solution with its latency as the budget.

        Raises
        ------
        InputError
            If `point` is no index of a point; as in a sequence, −1 is the last.
        """
        if not isinstance(point, (int, np.integer)) or not -len(self) <= point < len(self):
            raise InputError(f"point must be the index of one of {len(self)} points, got {point!r}")
        return self._solve([int(self.latency_ns[point])])[0]

    def selections(self) -> list[Selection]:
        """Recover those of all points."""
        return self._solve(self.latency_ns.tolist())

    def _solve(self, budgets_ns: list[int]) -> list[Selection]:
        return solve_exact(self._instance, budgets_ns, 0.0, MEMORY_LIMIT_BYTES)


def _chosen_method(method: str | None, gap: float, bin_ns: int | None, rounding: str | None) -> str:
    has_binned_options = bin_ns is not None or rounding is not None
    chosen = ("binned" if has_binned_options else "exact") if method is None else method
    _check_choice("method", chosen, METHODS)
    if chosen == "exact" and has_binned_options:
        raise InputError(
            "bin_ns and rounding are options of method 'binned': the exact method counts single "
            "nanoseconds. Leave them out, or choose method 'binned'"
        )
    if chosen == "binned" and _share("gap", gap) != 0:
        raise InputError(f"gap is an option of method 'exact', got {gap} for method 'binned'")
    return chosen


def _budget(
    instance: Instance, budget_ns: int | None, budget_ms: float | None, speedup: float | None
) -> int:
    given = {"budget_ns": budget_ns, "budget_ms": budget_ms, "speedup": speedup}
    if sum(value is not None for value in given.values()) != 1:
        got = ", ".join(f"{name}={value}" for name, value in given.items())
        raise InputError(f"give either budget_ns or budget_ms or speedup, got {got}")
    if budget_ns is not None:
        return _integer("budget_ns", budget_ns, 0)
    if speedup is not None:
        if not (isinstance(speedup, Real) and 0 < speedup < float("inf")):
            raise InputError(f"speedup must be a number > 0, got {speedup!r}")
        baseline = Fraction(instance.baseline_latency_ns())
        return min(int(baseline / Fraction(float(speedup))), MAX_NS)
    try:
        return budget_from_ms(budget_ms or 0.0)
    except InputError as error:
        raise InputError(f"budget_ms {error}") from None


def _integer(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f"{name} must be an integer, got {value!r}")
    if not least <= value <= MAX_NS:
        raise InputError(f"{name} must be from {least} to 2^63 - 1, got {value}")
    return int(value)


def _share(name: str, value: float) -> float:
    if isinstance(value, bool) or not (isinstance(value, Real) and value >= 0):
        raise InputError(f"{name} must be >= 0, got {value!r}")
    return float(value)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
