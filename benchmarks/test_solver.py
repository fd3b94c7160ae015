"""The exact, frontier and binned solvers beside HiGHS, CP-SAT and two plain programmes.

pytest benchmarks/test_solver.py -s

Every solver gets the same problem; peers run in processes of their own, one thread each, and all
must agree. Rows are added to LAYERMERGE_SOLVER_CSV (default benchmarks/results/solver.csv) as they
are measured, and a problem whose row is there is skipped: a run that is stopped goes on where it
was. LAYERMERGE_PEER_SECONDS (default 20) limits HiGHS and CP-SAT.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import pytest

from families import extreme_latencies_ns, family
from layermerge import _core
from layermerge.table_files import read_importance, read_latency
from layermerge.tables import matching_rows
from oracles import Arcs
from peers import BINS

HERE = Path(__file__).parent
REFERENCE = HERE.parent / "tests" / "data" / "reference"
RESULTS = Path(os.environ.get("LAYERMERGE_SOLVER_CSV", HERE / "results" / "solver.csv"))
PEER_SECONDS = float(os.environ.get("LAYERMERGE_PEER_SECONDS", "20"))
PACKAGES = {"highs": "highspy", "cp_sat": "ortools", "numpy_dp": "numpy", "python_dp": "numpy"}
# Beyond, a peer takes minutes, or stops at its limit whatever the problem.
MOST_ENTRIES = {"highs": 150_000, "cp_sat": 150_000, "numpy_dp": 150_000, "python_dp": 5_000}
MOST_FRONTIER_ENTRIES = 10_000  # for all of its points; a hundred points beyond

CASE = ("family", "positions", "window", "options")
PAPER = ("resnet34.s1", "mobilenetv2.s1")
SIZES = [
    (32, 8, 4),
    (32, 32, 6),
    (100, 16, 3),
    (300, 16, 9),
    (1000, 16, 9),
    (1000, 32, 36),
    (3000, 8, 4),
    (10_000, 32, 10),
]
CORRELATED_SIZES = [(32, 8, 4), (100, 16, 3), (300, 16, 3)]
CASES = (
    [(name, 0, 0, 0) for name in PAPER]
    + [(name, *size) for name in ("easy", "noisy", "ties") for size in SIZES]
    + [("easy", 10_000, 32, 12)]
    + [("correlated", *size) for size in CORRELATED_SIZES]
)


def paper_arcs(name):
    latency = read_latency(REFERENCE / f"{name}.time.csv")
    importance = read_importance(REFERENCE / f"{name}.importance.csv")
    value = importance.importance[matching_rows(latency, importance)]
    return Arcs(latency.entries.start, latency.entries.end, latency.latency_ns, value)


def seconds_of(function, *arguments, **options):
    began = perf_counter()
    result = function(*arguments, **options)
    return perf_counter() - began, result


def streaming_seconds(arcs):
    """Time to read the arcs once: latencies and values, summed at the speed of memory.

    Without the time that the two calls take on next to nothing.
    """

    def reading(latency_ns, value):
        for _ in range(repeats):
            np.add.reduce(latency_ns)
            np.add.reduce(value)

    def each_seconds(entries):
        columns = arcs.latency_ns[:entries], arcs.value[:entries]
        return median(seconds_of(reading, *columns)[0] for _ in range(15)) / repeats

    repeats = max(1, 200_000 // len(arcs.tail))
    return each_seconds(len(arcs.tail)) - each_seconds(1)


def peer(name, arcs, budget_ns, folder):
    """What a peer finds, in a process of its own; None if it is too large for it or missing."""
    if len(arcs.tail) > MOST_ENTRIES[name] or not find_spec(PACKAGES[name]):
        return None
    np.savez(folder / "problem.npz", **vars(arcs))
    arguments = [name, str(folder / "problem.npz"), str(budget_ns), str(PEER_SECONDS)]
    done = subprocess.run(
        [sys.executable, str(HERE / "peers.py"), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])  # HiGHS introduces itself first


class Rows:
    """Rows measured so far, by earlier runs too."""

    def __init__(self, path):
        self.path = path
        self.rows = list(csv.DictReader(path.open())) if path.exists() else []
        self.done = {tuple(row[name] for name in CASE) for row in self.rows}

    def add(self, row):
        self.rows.append(row)
        names = list({name: 0 for each in self.rows for name in each})
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)


@pytest.fixture(scope="module")
def rows():
    return Rows(RESULTS)


def exact_row(benchmark, problem, budget_ns):
    took = []

    def solve():
        (found,) = _core.solve_exact(problem, [budget_ns])
        took.append(found.seconds)
        return found

    arcs = problem.arc_count
    rounds = 200 if arcs < 10_000 else 20 if arcs < 200_000 else 7
    first_seconds, best = seconds_of(solve)
    if first_seconds < 1:
        best = benchmark.pedantic(solve, rounds=rounds)
    return best, {
        "exact_seconds": median(took),
        "exact_optimal": best.optimal,
        "exact_gap": (best.upper_bound - best.value) / max(abs(best.value), 1e-12),
        "arcs_left": best.arcs_left,
        "labels": best.labels,
        "ties_resolved": best.ties_resolved,
    }


def frontier_row(name, problem, budget_ns, best):
    """The whole frontier of small problems, else a hundred points of it."""
    whole = problem.arc_count <= MOST_FRONTIER_ENTRIES and name != "correlated"
    points = None if whole else 100
    if not best.optimal or name == "correlated":
        return {}
    took, (latency_ns, value, error) = seconds_of(_core.frontier, problem, max_points=points)
    below = value[np.searchsorted(latency_ns, budget_ns, side="right") - 1]
    assert below == pytest.approx(best.value, rel=1e-9) or (
        not whole and best.value - error - 1e-9 <= below <= best.value + 1e-9
    )
    return {"frontier_seconds": took, "frontier_points": len(value), "frontier_error": error}


def binned_row(problem, budget_ns, best):
    row = {}
    for bins in (BINS["python_dp"], BINS["numpy_dp"]):
        width_ns = max(1, budget_ns // bins)
        took, (_, value, latency_ns) = seconds_of(
            _core.solve_binned, problem, budget_ns, bin_ns=width_ns
        )
        repeats = [
            seconds_of(_core.solve_binned, problem, budget_ns, bin_ns=width_ns)[0]
            for _ in range(min(9, int(1 / took)))
        ]
        assert latency_ns <= budget_ns
        assert value <= best.upper_bound + 1e-9 * abs(best.value)
        row |= {f"binned_{bins}_seconds": median([took, *repeats]), f"binned_{bins}_value": value}
    return row


def check_agreement(name, result, best, row):
    """Proven optima agree to the peers' tolerances; programmes over the same bins to rounding."""
    if name in BINS:
        expected = row[f"binned_{BINS[name]}_value"]
        assert result["value"] == pytest.approx(expected, rel=1e-12)
        return
    tolerance = 2e-5 * max(1, abs(best.value))
    assert result["value"] <= best.upper_bound + tolerance
    if result["proven"]:
        assert result["value"] >= best.value - tolerance


@pytest.mark.timeout(0)
@pytest.mark.parametrize(("name", "last", "window", "options"), CASES)
def test_solvers_side_by_side(name, last, window, options, tmp_path, rows, benchmark):
    if (name, str(last), str(window), str(options)) in rows.done:
        pytest.skip(f"measured before: see {RESULTS}")
    arcs = family(name, last, window=window, options=options) if last else paper_arcs(name)
    least, most = extreme_latencies_ns(arcs)
    budget_ns = least + (most - least) // (8 if last else 2)
    build_seconds, problem = seconds_of(_core.Problem, *arcs.columns())
    best, exact = exact_row(benchmark, problem, budget_ns)
    assert arcs.latency_ns[best.arcs].sum() == best.latency_ns <= budget_ns
    assert arcs.value[best.arcs].sum() == pytest.approx(best.value, rel=1e-12)
    streaming = streaming_seconds(arcs)
    row = {
        "family": name,
        "positions": last,
        "window": window,
        "options": options,
        "entries": len(arcs.tail),
        "streaming_seconds": streaming,
        "build_seconds": build_seconds,
        **exact,
        "passes": exact["exact_seconds"] / streaming,
        **frontier_row(name, problem, budget_ns, best),
        **binned_row(problem, budget_ns, best),
    }
    for other in PACKAGES:
        result = peer(other, arcs, budget_ns, tmp_path)
        if result is not None:
            check_agreement(other, result, best, row)
            row |= {f"{other}_seconds": result["seconds"], f"{other}_proven": result["proven"]}
    rows.add(row)
    print("\n" + ", ".join(f"{key} {value}" for key, value in row.items()))
