"""The exact solver against HiGHS, CP-SAT and a numpy programme on the same problems.

pytest benchmarks/test_solver.py -s --benchmark-disable
writes benchmarks/results/solver.csv; LAYERMERGE_PEER_SECONDS (default 20) limits each peer.
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

RESULTS = Path(__file__).parent / "results" / "solver.csv"
PEER_SECONDS = float(os.environ.get("LAYERMERGE_PEER_SECONDS", "20"))
PEER_MODULES = {"highs": "highspy", "cp_sat": "ortools", "numpy_dp": "numpy"}
MOST_PEER_ARCS = 45_000  # beyond, a peer runs into its limit
SIZES = [(32, 8, 4), (100, 16, 3), (300, 16, 9), (1000, 16, 9), (1000, 32, 36), (10_000, 32, 12)]
CASES = [(name, *size) for name in ("easy", "noisy", "ties") for size in SIZES] + [
    ("correlated", 32, 8, 4),
    ("correlated", 100, 16, 3),
    ("correlated", 300, 16, 3),
]


def streaming_seconds(arcs):
    """Time to read the arcs once: latencies and values, summed at the speed of memory."""

    def read():
        began = perf_counter()
        total = np.add.reduce(arcs.latency_ns) + np.add.reduce(arcs.value)
        assert np.isfinite(total)
        return perf_counter() - began

    return median(read() for _ in range(9))


def peer(name, arcs, budget_ns, tmp_path):
    if not find_spec(PEER_MODULES[name]):
        return None
    np.savez(tmp_path / "problem.npz", **vars(arcs))
    script = str(Path(__file__).with_name("peers.py"))
    command = [sys.executable, script, name, str(tmp_path / "problem.npz"), str(budget_ns)]
    done = subprocess.run([*command, str(PEER_SECONDS)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def record():
    """Write the rows so far, after each: a run that is stopped keeps what it has."""
    rows: list[dict[str, object]] = []

    def add(row):
        rows.append(row)
        with RESULTS.open("w", newline="") as file:
            writer = csv.DictWriter(file, list({key: 0 for each in rows for key in each}))
            writer.writeheader()
            writer.writerows(rows)

    return add


@pytest.mark.parametrize(("name", "last", "window", "options"), CASES)
def test_exact_against_peers(name, last, window, options, tmp_path, record):
    arcs = family(name, last, window=window, options=options)
    least, most = extreme_latencies_ns(arcs)
    budget_ns = least + (most - least) // 8
    problem = _core.Problem(*arcs.columns())
    repeats = 15 if len(arcs.tail) < 10**6 and name != "correlated" else 3
    found = _core.solve_exact(problem, [budget_ns] * repeats)
    best = found[-1]
    seconds = median(each.seconds for each in found)
    assert best.optimal
    assert arcs.latency_ns[best.arcs].sum() == best.latency_ns <= budget_ns
    floor = streaming_seconds(arcs)
    row = {
        "family": name,
        "positions": last,
        "entries": len(arcs.tail),
        "exact_seconds": seconds,
        "streaming_seconds": floor,
        "passes": seconds / floor,
        "arcs_left": best.arcs_left,
        "labels": best.labels,
        "ties_resolved": best.ties_resolved,
    }
    for other in PEER_MODULES if len(arcs.tail) <= MOST_PEER_ARCS else ():
        result = peer(other, arcs, budget_ns, tmp_path)
        if result is None:
            continue
        row |= {f"{other}_seconds": result["seconds"], f"{other}_proven": result["proven"]}
        # Within the peers' tolerances; none may find more than what is proven the most.
        assert result["value"] <= best.value + 1e-5 * max(1, abs(best.value))
        if result["proven"]:
            assert result["value"] == pytest.approx(best.value, rel=1e-5, abs=1e-5)
    record(row)
    print("\n" + ", ".join(f"{key} {value}" for key, value in row.items()))
