from __future__ import annotations

import sys
import sysconfig
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from families import FAMILIES, extreme_latencies_ns, family
from interrupting import assert_stops_at_once, no_sigint
from layermerge import _core
from layermerge.errors import InfeasibleError, InputError
from oracles import Arcs, arcs_of, best_path, binned_values, random_arcs
from test_binned import problems


def solved(arcs, budget_ns, **options):
    (found,) = _core.solve_exact(_core.Problem(*arcs.columns()), [budget_ns], **options)
    return found


def check_path(arcs, found, budget_ns):
    """Recompute what the solver says of its path."""
    path = found.arcs
    assert [0, *arcs.head[path]] == [*arcs.tail[path], arcs.head.max()]
    assert found.latency_ns == arcs.latency_ns[path].sum() <= budget_ns
    assert found.value == arcs.value_of(path)
    assert found.value <= found.upper_bound


@given(problems(), st.integers(0, 60))
def test_the_path_is_the_best_of_all_paths_ties_included(arcs, budget_ns):
    expected = best_path(arcs, budget_ns, 1, "up")
    if expected is None:
        with pytest.raises(InfeasibleError):
            solved(arcs, budget_ns)
        return
    found = solved(arcs, budget_ns)
    check_path(arcs, found, budget_ns)
    assert (found.optimal, found.ties_resolved) == (True, True)
    assert found.upper_bound == found.value
    assert tuple(found.arcs.tolist()) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_a_thousand_small_problems_of_each_family_equal_brute_force(name):
    random = np.random.default_rng(5)
    for seed in range(1000):
        last, window, options = random.integers(1, 7), random.integers(1, 4), random.integers(1, 3)
        arcs = family(name, int(last), window=int(window), options=int(options), seed=seed)
        least, most = extreme_latencies_ns(arcs)
        budget_ns = int(random.integers(least, most + 1))
        found = solved(arcs, budget_ns)
        check_path(arcs, found, budget_ns)
        expected = list(best_path(arcs, budget_ns, 1, "up"))
        assert found.optimal
        assert found.value == pytest.approx(arcs.value_of(expected), rel=1e-12)
        if name != "correlated":  # where sums of doubles differ for equal values
            assert found.arcs.tolist() == expected


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_medium_problems_equal_a_mixed_integer_programme(name, share):
    optimize = pytest.importorskip("scipy.optimize")
    sparse = pytest.importorskip("scipy.sparse")
    arcs = family(name, 25, window=5, options=3, seed=1)
    least, most = extreme_latencies_ns(arcs)
    budget_ns = int(least + share * (most - least))
    count, last = len(arcs.tail), int(arcs.head.max())
    each = np.arange(count)
    flow = sparse.coo_array((np.ones(count), (arcs.head, each)), (last + 1, count))
    flow = flow - sparse.coo_array((np.ones(count), (arcs.tail, each)), (last + 1, count))
    ends = np.zeros(last + 1)
    ends[0], ends[last] = -1, 1
    programme = optimize.milp(
        -arcs.value,
        integrality=np.ones(count),
        bounds=optimize.Bounds(0, 1),
        constraints=[
            optimize.LinearConstraint(flow, ends, ends),
            optimize.LinearConstraint(arcs.latency_ns / 1e6, ub=budget_ns / 1e6),
        ],
        options={"mip_rel_gap": 0},
    )
    found = solved(arcs, budget_ns)
    check_path(arcs, found, budget_ns)
    assert found.optimal
    # The programme's tolerances are about a millionth.
    assert found.value == pytest.approx(-programme.fun, abs=2e-5)


def test_large_problems_equal_the_recurrence_over_single_units():
    for seed in range(10):
        arcs = random_arcs(seed, 120, window=8, max_ns=100)
        problem = _core.Problem(*arcs.columns())
        for budget_ns in (900, 2000, 4000):
            path, value, _ = _core.solve_binned(problem, budget_ns, bin_ns=1)
            found = solved(arcs, budget_ns)
            assert found.ties_resolved
            assert found.value == pytest.approx(value, rel=1e-12)
            assert found.arcs.tolist() == path.tolist()


def test_a_search_with_many_labels_equals_the_recurrence_over_single_units():
    arcs = random_arcs(4, 60, window=6, max_ns=2000)
    arcs = Arcs(arcs.tail, arcs.head, arcs.latency_ns, arcs.latency_ns / 1024 + arcs.value / 1e5)
    least, most = extreme_latencies_ns(arcs)
    for budget_ns in (least + (most - least) // 8, least + (most - least) // 3):
        found = solved(arcs, budget_ns)
        check_path(arcs, found, budget_ns)
        assert found.labels > 100_000
        assert found.optimal
        assert found.value == pytest.approx(binned_values(arcs, budget_ns, 1, "up")[-1], rel=1e-12)


def test_many_budgets_give_what_each_gives_alone():
    arcs = family("easy", 40, window=6, options=3)
    problem = _core.Problem(*arcs.columns())
    least, most = extreme_latencies_ns(arcs)
    budgets = np.linspace(least, most, 25).astype(int).tolist()
    together = _core.solve_exact(problem, budgets)
    for budget_ns, found in zip(budgets, together, strict=True):
        alone = solved(arcs, budget_ns)
        assert found.arcs.tolist() == alone.arcs.tolist()
        assert found.upper_bound == alone.upper_bound
    values = [found.value for found in together]
    assert values == sorted(values)


def test_a_budget_exactly_on_the_latency_of_a_path_is_met():
    arcs = arcs_of([(k, k + 1, 10 * ns, v) for k in range(9) for ns, v in ((1, 0.1), (3, 0.3))])
    for slow in range(10):
        found = solved(arcs, 90 + 20 * slow)
        assert found.latency_ns == 90 + 20 * slow
        assert found.optimal


def test_penalties_far_above_all_other_values_lose_no_digits():
    rows = [(k, k + 1, 5 + k % 3, 1 / (k + 3)) for k in range(30)]
    rows += [(k, k + 2, 4, -1e30 if k % 2 else 0.3) for k in range(29)]
    arcs = arcs_of(rows)
    found = solved(arcs, 140)
    without = Arcs(*(column[np.abs(arcs.value) < 1] for column in arcs.columns()))
    assert found.optimal
    assert found.value == solved(without, 140).value


def test_the_largest_budget_and_latencies_are_defined():
    arcs = arcs_of([(0, 1, 2**62, 1.0), (0, 1, 0, 0.5)])
    assert solved(arcs, 2**63 - 1).arcs.tolist() == [0]
    assert solved(arcs, 2**62).arcs.tolist() == [0]
    assert solved(arcs, 2**62 - 1).arcs.tolist() == [1]
    assert solved(arcs, 0).arcs.tolist() == [1]


def test_a_gap_ends_the_search_with_a_bound_that_holds():
    arcs = family("correlated", 60, window=6, options=3)
    budget_ns = sum(extreme_latencies_ns(arcs)) // 2
    best = solved(arcs, budget_ns)
    rough = solved(arcs, budget_ns, gap=0.02)
    check_path(arcs, rough, budget_ns)
    assert rough.upper_bound - rough.value <= 0.02 * rough.value
    assert rough.value <= best.value <= rough.upper_bound + 1e-9


def test_a_memory_limit_ends_in_a_feasible_path_and_an_honest_gap():
    arcs = family("ties", 60, window=6, options=3)
    budget_ns = sum(extreme_latencies_ns(arcs)) // 3
    best = solved(arcs, budget_ns)
    limited = solved(arcs, budget_ns, memory_limit_bytes=100)
    check_path(arcs, limited, budget_ns)
    assert best.optimal
    assert not limited.ties_resolved
    assert limited.value <= best.value <= limited.upper_bound
    assert limited.optimal == (limited.upper_bound - limited.value < 1e-9)


def test_values_in_steps_prove_a_path_that_no_step_is_above():
    arcs = family("ties", 200, window=6, options=3)
    least, most = extreme_latencies_ns(arcs)
    budget_ns = least + (most - least) // 3
    limited = solved(arcs, budget_ns, memory_limit_bytes=100)
    assert limited.labels < 100
    assert limited.optimal
    assert limited.value == limited.upper_bound == solved(arcs, budget_ns).value
    uneven = Arcs(arcs.tail, arcs.head, arcs.latency_ns, arcs.value * 0.3)
    assert not solved(uneven, budget_ns, memory_limit_bytes=100).optimal


def test_a_search_of_few_labels_at_each_position_is_a_proof_if_it_missed_none():
    arcs = family("easy", 400, window=6, options=3)
    least, most = extreme_latencies_ns(arcs)
    budget_ns = least + (most - least) // 3
    limited, found = (solved(arcs, budget_ns, memory_limit_bytes=b) for b in (100, 2**31))
    assert limited.ties_resolved
    assert limited.arcs.tolist() == found.arcs.tolist()


def test_bad_options_are_refused():
    arcs = random_arcs(0, 3)
    for gap in (-0.1, float("nan")):
        with pytest.raises(InputError, match="gap must be >= 0, got"):
            solved(arcs, 1000, gap=gap)
    with pytest.raises(InputError, match="budget_ns must be >= 0, got -1"):
        solved(arcs, -1)


def test_an_infeasible_budget_has_the_least_latency():
    arcs = random_arcs(5, 30)
    with pytest.raises(InfeasibleError) as caught:
        solved(arcs, 10)
    least = caught.value.least_latency_ns
    assert solved(arcs, least).latency_ns == least
    with pytest.raises(InfeasibleError):
        solved(arcs, least - 1)


def test_solves_in_threads_agree():
    arcs = family("noisy", 300, window=8, options=4)
    problem = _core.Problem(*arcs.columns())
    budgets = np.linspace(*extreme_latencies_ns(arcs), 8).astype(int).tolist()
    alone = [tuple(found.arcs.tolist()) for found in _core.solve_exact(problem, budgets)]
    together: dict[int, list[tuple[int, ...]]] = {}

    def solve(thread):
        found = _core.solve_exact(problem, budgets)
        together[thread] = [tuple(each.arcs.tolist()) for each in found]

    threads = [threading.Thread(target=solve, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[k] for k in range(4)] == [alone] * 4


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded CPython"
)
def test_a_free_threaded_interpreter_stays_so():
    assert not sys._is_gil_enabled()


@no_sigint
def test_ctrl_c_stops_a_solve_at_once():
    assert_stops_at_once(
        """
        head = np.repeat(np.arange(1, 100_001, dtype=np.int32), 30)
        tail = np.maximum(head - random.integers(1, 9, head.size).astype(np.int32), 0)
        tail[::30] = head[::30] - 1
        latency_ns = random.integers(1, 10**6, head.size)
        problem = _core.Problem(tail, head, latency_ns, latency_ns / 1e6 + 0.1)
        """,
        "_core.solve_exact(problem, [int(k * 10**8) for k in range(100, 200)])",
    )
