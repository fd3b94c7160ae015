"""Tables or arrays as an instance of the core's problem, and its solutions as selections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layermerge import _core
from layermerge.errors import InfeasibleError, InputError
from layermerge.selection import SelectedEntry, Selection, Statistics
from layermerge.tables import (
    Entries,
    ImportanceTable,
    LatencyTable,
    frozen_array,
    matching_rows,
)

LEAST_LARGEST = 1e-250
"""Least absolute value of the largest importance: the core works with multiples of 2^-61 of it."""


@dataclass(frozen=True)
class Instance:
    """Matched tables, and the core's problem of them; `kept` is None where it is not known."""

    latency: LatencyTable
    importance: NDArray[np.float64]
    kept: Sequence[tuple[int, ...]] | None
    kept_row: NDArray[np.intp]
    problem: _core.Problem
    seconds: float

    def entry(self, row: int) -> SelectedEntry:
        """Describe the entry of a row of the latency table."""
        entries = self.latency.entries
        height, width = entries.kernel_size[row].tolist()
        return SelectedEntry(
            row=row,
            start=int(entries.start[row]),
            end=int(entries.end[row]),
            kernel_size=(height, width),
            is_depthwise=bool(entries.is_depthwise[row]),
            kept=() if self.kept is None else self.kept[self.kept_row[row]],
            latency_ns=int(self.latency.latency_ns[row]),
            importance=float(self.importance[row]),
        )

    def baseline_latency_ns(self) -> int:
        """Add up the slowest entry of each layer that keeps it on its own."""
        entries = self.latency.entries
        slowest: dict[int, int] = {}
        for row in np.flatnonzero(entries.end - entries.start == 1).tolist():
            layer = int(entries.end[row])
            if self.kept is None or self.kept[self.kept_row[row]] == (layer,):
                ns = int(self.latency.latency_ns[row])
                slowest[layer] = max(ns, slowest.get(layer, 0))
        for layer in range(1, self.problem.last_position + 1):
            if layer not in slowest:
                raise InputError(
                    f"the tables have no entry that keeps layer {layer} on its own, so the "
                    "latency of the network as it is, and a speedup over it, cannot be computed: "
                    "give the budget in milliseconds"
                )
        return sum(slowest.values())


def instance_of(
    latency: LatencyTable | ArrayLike,
    importance: ImportanceTable | ArrayLike,
    start: ArrayLike | None,
    end: ArrayLike | None,
) -> Instance:
    """Match two tables, or take two arrays with the positions of their rows."""
    if isinstance(latency, LatencyTable) and isinstance(importance, ImportanceTable):
        if start is not None or end is not None:
            raise InputError("start and end are for arrays: tables have their own")
        kept_row = matching_rows(latency, importance)
        values = importance.importance[kept_row]
        kept: Sequence[tuple[int, ...]] | None = importance.kept
    elif isinstance(latency, LatencyTable) or isinstance(importance, ImportanceTable):
        raise InputError("latency and importance must be two tables or two arrays, got one of each")
    elif isinstance(latency, (str, Path)) or isinstance(importance, (str, Path)):
        raise InputError(
            "latency and importance must be tables or arrays, got a path: read the files with "
            "read_latency and read_importance"
        )
    elif start is None or end is None:
        raise InputError("start and end must be given with arrays of latency and importance")
    else:
        latency, values = _from_arrays(latency, importance, start, end)
        kept, kept_row = None, np.zeros(0, dtype=np.intp)
    began = perf_counter()
    _check_magnitude(values)
    entries = latency.entries
    try:
        problem = _core.Problem(entries.start, entries.end, latency.latency_ns, values)
    except InputError as error:
        raise InputError(_in_terms_of_tables(str(error))) from None
    return Instance(latency, values, kept, kept_row, problem, perf_counter() - began)


def _check_magnitude(values: NDArray[np.float64]) -> None:
    """Refuse importances so small that sums of them lose digits to underflow."""
    largest = float(np.max(np.abs(values), initial=0.0))
    if 0 < largest < LEAST_LARGEST:
        raise InputError(
            f"importance has no value above {largest:g} in absolute value, too little to add up "
            f"exactly: multiply all of them so that the largest is {LEAST_LARGEST:g} or more"
        )


def _in_terms_of_tables(message: str) -> str:
    """Speak of entries as the tables do, where the core speaks of arcs."""
    names = {"tail[": "start[", "head[": "end[", "value[": "importance[", " arc": " entry"}
    for core_name, name in names.items():
        message = message.replace(core_name, name)
    return message


def _from_arrays(
    latency_ns: ArrayLike, importance: ArrayLike, start: ArrayLike, end: ArrayLike
) -> tuple[LatencyTable, NDArray[np.float64]]:
    starts, ends = _column("start", start), _column("end", end)
    rows = len(starts)
    ones = np.ones((rows, 2), dtype=np.int32)
    entries = Entries(starts, ends, 0 * ones, ones, np.zeros(rows, dtype=np.bool_))
    spread = np.zeros(rows, dtype=np.int64)
    times = _column("latency", latency_ns)
    times = frozen_array("latency, in nanoseconds,", times, np.int64, (rows,))
    table = LatencyTable(entries, times, spread)
    values = _column("importance", importance)
    return table, frozen_array("importance", values, np.float64, (rows,))


def _column(name: str, values: ArrayLike) -> NDArray[Any]:
    try:
        column = np.asarray(values)
    except ValueError:
        column = None
    if column is None or column.ndim != 1:
        shape = "rows of different lengths" if column is None else f"shape {column.shape}"
        raise InputError(f"{name} must be a list or an array of one number per entry, got {shape}")
    return column


def solve_exact(
    instance: Instance, budgets_ns: list[int], gap: float, memory_limit_bytes: int
) -> list[Selection]:
    """Solve for each budget by the exact method."""
    solutions = _core.solve_exact(
        instance.problem, budgets_ns, gap=gap, memory_limit_bytes=memory_limit_bytes
    )
    arcs = instance.problem.arc_count
    return [
        Selection(
            tuple(map(instance.entry, found.arcs.tolist())),
            found.value,
            found.latency_ns,
            budget_ns,
            "exact",
            found.seconds,
            found.upper_bound,
            found.optimal,
            statistics=Statistics(
                arcs - found.arcs_left, found.arcs_left, found.labels, found.ties_resolved
            ),
        )
        for budget_ns, found in zip(budgets_ns, solutions, strict=True)
    ]


def solve_exact_each(
    instance: Instance, budgets_ns: list[int], gap: float, memory_limit_bytes: int
) -> list[Selection | InfeasibleError]:
    """Solve for each budget by the exact method; the error in place of what cannot be solved."""
    outcomes: list[Selection | InfeasibleError] = []
    least_ns = instance.problem.least_latency_ns
    feasible = [budget_ns for budget_ns in budgets_ns if budget_ns >= least_ns]
    found = iter(solve_exact(instance, feasible, gap, memory_limit_bytes))
    for budget_ns in budgets_ns:
        try:
            outcomes += (
                [next(found)]
                if budget_ns >= least_ns
                else solve_exact(instance, [budget_ns], gap, 0)
            )
        except InfeasibleError as error:
            outcomes.append(error)
    return outcomes


def solve_binned(
    instance: Instance, budget: int, bin_ns: int, rounding: str, memory_limit_bytes: int
) -> Selection:
    """Solve by the paper's dynamic programme."""
    began = perf_counter()
    rows, value, latency_ns = _core.solve_binned(
        instance.problem,
        budget,
        bin_ns=bin_ns,
        rounding=rounding,
        memory_limit_bytes=memory_limit_bytes,
    )
    seconds = instance.seconds + perf_counter() - began
    entries = tuple(map(instance.entry, rows.tolist()))
    return Selection(
        entries,
        value,
        latency_ns,
        budget,
        "binned",
        seconds,
        bin_ns=bin_ns,
        rounding=rounding,
    )
