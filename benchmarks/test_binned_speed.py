"""The binned solver on ResNet-34's table at 0.01 ms bins, against plain Python in the same run.

pytest benchmarks/test_binned_speed.py --benchmark-only -s
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from layermerge import _core
from layermerge.table_files import read_importance, read_latency
from layermerge.tables import matching_rows

REFERENCE = Path(__file__).parents[1] / "tests" / "data" / "reference"
BUDGETS_NS = (376_773_000, 293_046_000, 209_318_000, 146_523_000)
BIN_NS = 10_000

Arc = tuple[int, int, float, int]


def plain_python_dp(arcs_into: list[list[Arc]], budget: int) -> tuple[float, list[int]]:
    """Solve M[j, t] = max over arcs (i, j) of M[i, t - T] + I; return the value and the arcs.

    Cell by cell, with the arc that attains each; arcs are (i, T in bins, I, id).
    """
    best = [[0.0] * (budget + 1)]
    chosen: list[list[Arc | None]] = [[None] * (budget + 1)]
    for arcs in arcs_into[1:]:
        row = [float("-inf")] * (budget + 1)
        through: list[Arc | None] = [None] * (budget + 1)
        for t in range(budget + 1):
            for arc in arcs:
                tail, width, value, _ = arc
                if width <= t and best[tail][t - width] + value > row[t]:
                    row[t] = best[tail][t - width] + value
                    through[t] = arc
        best.append(row)
        chosen.append(through)
    position, t, path = len(best) - 1, budget, []
    while position > 0:
        arc = chosen[position][t]
        assert arc is not None
        position, t = arc[0], t - arc[1]
        path.append(arc[3])
    return best[-1][budget], path[::-1]


@pytest.fixture(scope="module")
def columns() -> tuple[np.ndarray, ...]:
    latency = read_latency(REFERENCE / "resnet34.s1.time.csv")
    importance = read_importance(REFERENCE / "resnet34.s1.importance.csv")
    values = importance.importance[matching_rows(latency, importance)]
    return latency.entries.start, latency.entries.end, latency.latency_ns, values


def grouped_by_head(columns: tuple[np.ndarray, ...]) -> list[list[Arc]]:
    arcs_into: list[list[Arc]] = [[] for _ in range(int(columns[1].max()) + 1)]
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for arc, (tail, head, latency_ns, value) in enumerate(rows):
        arcs_into[head].append((tail, latency_ns // BIN_NS, value, arc))
    return arcs_into


@pytest.mark.parametrize("budget_ns", BUDGETS_NS)
def test_binned_against_plain_python(benchmark, columns, budget_ns):
    arcs_into = grouped_by_head(columns)
    began = perf_counter()
    value, path = plain_python_dp(arcs_into, budget_ns // BIN_NS)
    python_seconds = perf_counter() - began

    def solve():
        return _core.solve_binned(
            _core.Problem(*columns), budget_ns, bin_ns=BIN_NS, rounding="floor"
        )

    found, found_value, latency_ns = benchmark(solve)
    assert found_value == value
    assert sum(columns[3][found].tolist()) == value
    assert latency_ns == columns[2][found].sum()
    if found.tolist() != path:  # a tie in value: ours takes fewer bins
        assert (columns[2][found] // BIN_NS).sum() < (columns[2][path] // BIN_NS).sum()

    core_seconds = benchmark.stats.stats.median
    benchmark.extra_info["python_seconds"] = python_seconds
    benchmark.extra_info["ratio"] = python_seconds / core_seconds
    print(
        f"\nbudget {budget_ns / 1e6} ms, {budget_ns // BIN_NS} bins: plain Python "
        f"{python_seconds:.3f} s, core {core_seconds * 1e6:.0f} us (median), "
        f"ratio {python_seconds / core_seconds:.0f}"
    )
