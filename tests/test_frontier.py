from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from families import FAMILIES, extreme_latencies_ns, family
from interrupting import assert_stops_at_once, no_sigint
from layermerge import _core
from layermerge.errors import InputError
from oracles import Arcs, all_paths, binned_values, random_arcs
from test_binned import problems


def problem_of(arcs):
    return _core.Problem(*arcs.columns())


def non_dominated(arcs):
    """Latency and value of the paths that no other dominates, of all paths."""
    points = sorted(
        (int(arcs.latency_ns[list(path)].sum()), -arcs.value_of(list(path)))
        for path in all_paths(arcs)
    )
    kept: list[tuple[int, float]] = []
    for latency_ns, loss in points:
        if not kept or -loss > kept[-1][1]:
            kept.append((latency_ns, -loss))
    return kept


@given(problems())
def test_the_points_are_those_of_all_paths(arcs):
    latency_ns, value, error = _core.frontier(problem_of(arcs))
    assert list(zip(latency_ns.tolist(), value.tolist(), strict=True)) == non_dominated(arcs)
    assert error == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_at_every_budget_it_is_what_a_solve_finds(name):
    arcs = family(name, 12, window=4, options=2)
    problem = problem_of(arcs)
    latency_ns, value, _ = _core.frontier(problem)
    least, most = extreme_latencies_ns(arcs)
    random = np.random.default_rng(0)
    budgets = [least, most, *random.integers(least, most, 100).tolist()]
    budgets += [*latency_ns[:50].tolist(), *(latency_ns[1:50] - 1).tolist()]
    for budget_ns, found in zip(budgets, _core.solve_exact(problem, budgets), strict=True):
        point = np.searchsorted(latency_ns, budget_ns, side="right") - 1
        assert found.value == pytest.approx(value[point], rel=1e-12)
        assert found.latency_ns == latency_ns[point] or name == "correlated"


@pytest.mark.parametrize("scale", [1, 2**40])
def test_merges_of_many_labels_equal_the_recurrence_over_single_units(scale):
    tail, head, latency_ns, value = random_arcs(2, 60, window=8, parallel=6, max_ns=500).columns()
    arcs = Arcs(tail, head, latency_ns, latency_ns / 64 + value)
    most = extreme_latencies_ns(arcs)[1]
    wide = Arcs(tail, head, latency_ns * scale, arcs.value)
    latency_ns, value, _ = _core.frontier(problem_of(wide))
    expected = np.maximum.accumulate(binned_values(arcs, most, 1, "up"))
    points = np.searchsorted(latency_ns, np.arange(most + 1) * scale, side="right") - 1
    assert (points[np.isinf(expected)] == -1).all()
    reached = points >= 0
    assert value[points[reached]] == pytest.approx(expected[reached], rel=1e-12, abs=1e-12)
    assert len(value) > 1500


@pytest.mark.parametrize("options", [{"epsilon": 0.05}, {"max_points": 12}])
def test_an_approximation_keeps_its_error(options):
    problem = problem_of(family("easy", 20, window=5, options=3))
    latency_ns, value, _ = _core.frontier(problem)
    some_ns, some_value, error = _core.frontier(problem, **options)
    below = some_value[np.searchsorted(some_ns, latency_ns, side="right") - 1]
    assert (value - below).max() <= error + 1e-12
    assert error <= options.get("epsilon", np.inf)
    assert len(some_ns) <= options.get("max_points", len(latency_ns) - 1)
    assert np.isin(some_ns, latency_ns).all()


def test_more_labels_than_memory_are_refused():
    with pytest.raises(InputError, match="give epsilon > 0 or max_points"):
        _core.frontier(problem_of(family("easy", 40, window=5, options=3)), memory_limit_bytes=999)


@no_sigint
def test_ctrl_c_stops_a_huge_merge_at_once():
    # Each layer doubles the labels, up to tens of millions.
    assert_stops_at_once(
        """
        tail = np.repeat(np.arange(30, dtype=np.int32), 2)
        latency_ns = np.stack([np.zeros(30, dtype=np.int64), 1 << np.arange(30)]).T.ravel()
        problem = _core.Problem(tail, tail + 1, latency_ns, latency_ns * 1.0)
        """,
        "_core.frontier(problem, memory_limit_bytes=2**62)",
    )
