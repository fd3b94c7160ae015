from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interrupting import assert_stops_at_once, no_sigint
from layermerge import _core
from layermerge.errors import InfeasibleError, InputError
from oracles import arcs_of, best_path, binned_values, in_bins, random_arcs

# A tenth of a second and more of work in 20 MB.
LARGE = {"last": 200, "window": 100, "parallel": 3, "max_ns": 1000}
LARGE_BUDGET = 20_000


def solved(arcs, budget_ns, **options):
    path, value, latency_ns = _core.solve_binned(
        _core.Problem(*arcs.columns()), budget_ns, **options
    )
    return path.tolist(), value, latency_ns


@st.composite
def problems(draw):
    """Small problems with ties, parallel arcs, zero latencies and positions off every path."""
    last = draw(st.integers(1, 5))
    arc = st.tuples(
        st.integers(0, last - 1),
        st.integers(1, last),
        st.integers(0, 12),
        st.integers(-4, 4).map(lambda quarters: quarters / 4),
    )
    rows = draw(st.lists(arc.filter(lambda row: row[0] < row[1]), max_size=9))
    rows.append((0, last, draw(st.integers(0, 40)), 0.0))
    return arcs_of(rows)


@given(problems(), st.integers(0, 60), st.integers(1, 7), st.sampled_from(["up", "floor"]))
def test_the_path_is_the_best_of_all_paths_ties_included(arcs, budget_ns, bin_ns, rounding):
    expected = best_path(arcs, budget_ns, bin_ns, rounding)
    if expected is None:
        with pytest.raises(InfeasibleError):
            solved(arcs, budget_ns, bin_ns=bin_ns, rounding=rounding)
        return
    path, value, latency_ns = solved(arcs, budget_ns, bin_ns=bin_ns, rounding=rounding)
    assert tuple(path) == expected
    assert value == arcs.value_of(path)
    assert latency_ns == arcs.latency_ns[path].sum()


@pytest.mark.parametrize("rounding", ["up", "floor"])
@pytest.mark.parametrize("bin_ns", [1, 7])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_large_problems_equal_a_numpy_programme(share, bin_ns, rounding):
    arcs = random_arcs(3, 80, window=12)
    budget_ns = int(share * 80 * 500)
    values = binned_values(arcs, budget_ns, bin_ns, rounding)
    path, value, latency_ns = solved(arcs, budget_ns, bin_ns=bin_ns, rounding=rounding)
    bins = in_bins(arcs.latency_ns[path], bin_ns, rounding).sum()
    assert value == values[-1]
    assert bins == np.argmax(values == values[-1])
    assert latency_ns == arcs.latency_ns[path].sum()
    assert [0, *arcs.head[path].tolist()] == [*arcs.tail[path].tolist(), 80]


def test_rounding_up_keeps_the_budget_on_a_thousand_tables():
    random = np.random.default_rng(11)
    feasible = 0
    for seed in range(1000):
        arcs = random_arcs(seed, int(random.integers(1, 12)))
        budget_ns, bin_ns = int(random.integers(0, 4000)), int(random.integers(1, 200))
        try:
            _, _, latency_ns = solved(arcs, budget_ns, bin_ns=bin_ns, rounding="up")
        except InfeasibleError:
            continue
        feasible += 1
        assert latency_ns <= budget_ns
    assert feasible > 300


def test_an_infeasible_budget_has_the_least_latency():
    arcs = random_arcs(5, 30)
    for rounding in ("up", "floor"):
        with pytest.raises(InfeasibleError) as caught:
            solved(arcs, 10, bin_ns=3, rounding=rounding)
        least = caught.value.least_latency_ns
        assert f"the least achievable latency is {least / 1e6:.6f} ms" in str(caught.value)
        assert solved(arcs, least, bin_ns=1, rounding=rounding)[2] == least
        with pytest.raises(InfeasibleError):
            solved(arcs, least - 1, bin_ns=1, rounding=rounding)


def test_the_largest_budget_and_latencies_are_defined():
    arcs = arcs_of([(0, 1, 2**62, 1.0), (0, 1, 0, 0.5)])
    assert solved(arcs, 2**63 - 1, bin_ns=2**50) == ([0], 1.0, 2**62)
    assert solved(arcs, 0, bin_ns=1) == ([1], 0.5, 0)


def test_tables_above_the_memory_limit_are_refused_with_their_size():
    arcs = random_arcs(0, **LARGE)
    message = (
        r"would take [\d.]+ MB, above the memory limit of 1 MB: use bins \d+ times as wide "
        r"\(bin_ns; now 0.000001 ms\), or raise memory_limit_bytes"
    )
    with pytest.raises(InputError, match=message):
        solved(arcs, LARGE_BUDGET, bin_ns=1, memory_limit_bytes=1_000_000)
    with pytest.raises(InputError, match=r"would take [\d.e+]+ MB"):
        solved(arcs_of([(0, 1, 2**62, 1.0), (0, 1, 0, 0.0)]), 2**62, bin_ns=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bin_ns": 0}, "bin_ns must be >= 1, got 0"),
        ({"bin_ns": 1, "rounding": "down"}, "rounding must be 'up' or 'floor', got 'down'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        solved(random_arcs(0, 3), 1000, **options)


def test_a_negative_budget_is_refused():
    with pytest.raises(InputError, match="budget_ns must be >= 0, got -1"):
        solved(random_arcs(0, 3), -1, bin_ns=1)


def test_other_threads_run_during_a_solve():
    problem = _core.Problem(*random_arcs(0, **LARGE).columns())
    done = threading.Event()

    def repeat():
        for _ in range(5):
            _core.solve_binned(problem, LARGE_BUDGET, bin_ns=1)
        done.set()

    thread = threading.Thread(target=repeat)
    thread.start()
    turns = 0
    while not done.is_set():
        time.sleep(0.001)
        turns += 1
    thread.join()
    assert turns > 10, "with the GIL held there would be one turn per solve"


def test_solves_in_threads_agree():
    arcs = random_arcs(0, **LARGE)
    problem = _core.Problem(*arcs.columns())
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(_core.solve_binned(problem, LARGE_BUDGET, bin_ns=5))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert {(tuple(path.tolist()), value) for path, value, _ in found} == {
        (tuple(found[0][0].tolist()), found[0][1])
    }


@no_sigint
def test_ctrl_c_stops_a_solve_at_once():
    assert_stops_at_once(
        """
        head = np.repeat(np.arange(1, 401, dtype=np.int32), 2000)
        tail = (random.random(head.size) * head).astype(np.int32)
        tail[::2000] = head[::2000] - 1
        columns = tail, head, random.integers(0, 1000, head.size), random.random(head.size)
        problem = _core.Problem(*columns)
        """,
        "_core.solve_binned(problem, 100_000, bin_ns=1)",
    )
