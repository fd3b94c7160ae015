"""From a million candidates and their measurements to the solver's arcs, in the core and in Python.

The ratio of the times counts; every way must find the same latencies.
"""

from __future__ import annotations

import numpy as np
import pytest

from layermerge import _core
from layermerge.tables import look_up_latency

NUM_CANDIDATES, NUM_SIGNATURES, WIDTH = 1_000_000, 20_000, 12
LAST = 2_000


@pytest.fixture(scope="module")
def candidates():
    """Segments, signature rows, values; and the measurements with their signatures."""
    generator = np.random.default_rng(0)
    signatures = np.unique(
        generator.integers(0, 512, (NUM_SIGNATURES, WIDTH), dtype=np.int64), axis=0
    )
    latency_ns = generator.integers(10_000, 10_000_000, len(signatures), dtype=np.int64)
    chosen = generator.integers(0, len(signatures), NUM_CANDIDATES)
    start = generator.integers(0, LAST, NUM_CANDIDATES, dtype=np.int32)
    start[:LAST] = np.arange(LAST)
    end = np.minimum(start + generator.integers(1, 20, NUM_CANDIDATES), LAST).astype(np.int32)
    end[:LAST] = start[:LAST] + 1
    value = generator.random(NUM_CANDIDATES)
    return signatures, latency_ns, start, end, signatures[chosen], value, latency_ns[chosen]


def in_core(signatures, latency_ns, start, end, rows, value):
    return _core.Problem(start, end, look_up_latency(rows, signatures, latency_ns), value)


def in_python(signatures, latency_ns, start, end, rows, value):
    latency_of = dict(zip(map(tuple, signatures.tolist()), latency_ns.tolist(), strict=True))
    found = np.array([latency_of[tuple(row)] for row in rows.tolist()], dtype=np.int64)
    return _core.Problem(start, end, found, value)


def in_pandas(signatures, latency_ns, start, end, rows, value):
    import pandas as pd

    columns = [f"signature_{place}" for place in range(WIDTH)]
    measured = pd.DataFrame(signatures, columns=columns).assign(latency_ns=latency_ns)
    merged = pd.DataFrame(rows, columns=columns).merge(measured, on=columns, how="left")
    return _core.Problem(start, end, merged["latency_ns"].to_numpy(np.int64), value)


@pytest.mark.parametrize("way", [in_core, in_python, in_pandas], ids=lambda way: way.__name__)
def test_a_million_candidates_become_arcs(benchmark, candidates, way):
    if way is in_pandas:
        pytest.importorskip("pandas")
    *given, expected_ns = candidates
    problem = benchmark.pedantic(way, given, rounds=3, warmup_rounds=1)
    assert problem.arc_count == NUM_CANDIDATES
    assert np.array_equal(look_up_latency(given[4], *given[:2]), expected_ns)
