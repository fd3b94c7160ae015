from __future__ import annotations

import doctest

import numpy as np
import pytest

from layermerge import milliseconds, solver
from layermerge.errors import InfeasibleError, InputError
from layermerge.solver import baseline_latency_ns, frontier, solve, solve_many
from layermerge.tables import Entries, ImportanceTable, LatencyTable


@pytest.fixture
def tables():
    """Two layers, alone or merged; the two tables list their entries in opposite orders."""
    start, end, kernel = (
        np.array([0, 1, 0]),
        np.array([1, 2, 2]),
        np.array([[3, 3], [3, 1], [5, 3]]),
    )
    kept = ((1,), (2,), (1, 2))

    def entries(order):
        columns = (start[order], end[order], kernel[order], np.ones((3, 2), dtype=int))
        return Entries(*columns, np.zeros(3, dtype=bool))

    latency = LatencyTable(entries([0, 1, 2]), [50, 60, 70], [0, 0, 0])
    importance = ImportanceTable(entries([2, 1, 0]), [1.0, 0.75, 0.5], kept[::-1])
    return latency, importance


def test_the_selection_says_what_was_chosen_and_how(tables):
    selection = solve(*tables, budget_ns=115, bin_ns=5, rounding="up")
    assert (selection.value, selection.latency_ns, selection.budget_ns) == (1.25, 110, 115)
    assert (selection.method, selection.bin_ns, selection.rounding) == ("binned", 5, "up")
    assert selection.activations == (1, 2)
    assert selection.convolutions == (1, 2)
    first = selection.entries[0]
    assert (first.row, first.start, first.end, first.kernel_size) == (0, 0, 1, (3, 3))
    assert (first.kept, first.latency_ns, first.importance) == ((1,), 50, 0.5)


def test_a_smaller_budget_merges(tables):
    selection = solve(*tables, budget_ns=100)
    assert selection.activations == (2,)
    assert selection.entries[0].kernel_size == (5, 3)
    assert selection.convolutions == (1, 2)


def test_a_budget_in_milliseconds_is_the_same_budget(tables):
    assert solve(*tables, budget_ms=0.000115).budget_ns == 115


def test_bins_are_a_ten_thousandth_of_the_budget_by_default(tables):
    assert solve(*tables, budget_ns=1_000_000, method="binned").bin_ns == 100
    assert solve(*tables, budget_ns=115, method="binned").bin_ns == 1


def test_an_infeasible_budget_has_the_least_latency(tables):
    with pytest.raises(InfeasibleError) as caught:
        solve(*tables, budget_ns=69)
    assert caught.value.least_latency_ns == 70


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either budget_ns or budget_ms"),
        ({"budget_ns": 1, "budget_ms": 1.0}, "give either budget_ns or budget_ms"),
        ({"budget_ns": 1.5}, "budget_ns must be an integer, got 1.5"),
        ({"budget_ns": -1}, "budget_ns must be from 0 to"),
        ({"budget_ns": 2**63}, "budget_ns must be from 0 to"),
        ({"budget_ms": float("nan")}, "budget_ms must be a number of milliseconds, got 'nan'"),
        ({"budget_ms": -1.0}, "budget_ms must be >= 0 milliseconds"),
        ({"budget_ns": 100, "bin_ns": 0}, "bin_ns must be from 1 to"),
        (
            {"budget_ns": 100, "method": "best"},
            "method must be one of 'exact', 'binned', got 'best'",
        ),
        ({"budget_ns": 100, "rounding": "down"}, "rounding must be one of 'up', 'floor'"),
        (
            {"budget_ns": 100, "method": "binned", "memory_limit_bytes": 0},
            "or raise memory_limit_bytes",
        ),
        ({"budget_ns": 100, "method": "exact", "bin_ns": 1}, "options of method 'binned'"),
        ({"budget_ns": 100, "method": "exact", "rounding": "up"}, "options of method 'binned'"),
        ({"budget_ns": 100, "method": "binned", "gap": 0.1}, "gap is an option of method 'exact'"),
        ({"budget_ns": 100, "gap": -0.1}, "gap must be >= 0"),
        ({"budget_ns": 100, "gap": "1%"}, "gap must be >= 0, got '1%'"),
        ({"speedup": 0.0}, "speedup must be a number > 0, got 0.0"),
        ({"budget_ns": 100, "start": [0]}, "start and end are for arrays"),
    ],
)
def test_bad_options_are_refused(tables, options, message):
    with pytest.raises(InputError, match=message):
        solve(*tables, **options)


def test_the_exact_method_is_the_default_and_proves_its_value(tables):
    selection = solve(*tables, budget_ns=115)
    assert (selection.method, selection.bin_ns, selection.rounding) == ("exact", None, None)
    assert (selection.value, selection.upper_bound, selection.optimal) == (1.25, 1.25, True)
    assert selection.gap == 0
    assert selection.statistics.arcs_removed + selection.statistics.arcs_left == 3
    assert selection.statistics.ties_resolved


def test_a_memory_limit_ends_in_a_selection_with_a_gap(tables):
    selection = solve(*tables, budget_ns=100, memory_limit_bytes=0)
    assert selection.activations == (2,)
    assert selection.upper_bound >= selection.value
    assert selection.gap == (selection.upper_bound - selection.value) / selection.value


def test_options_of_binned_choose_it(tables):
    assert solve(*tables, budget_ns=115, rounding="floor").method == "binned"
    binned = solve(*tables, budget_ns=115, bin_ns=5)
    assert (binned.method, binned.upper_bound, binned.optimal) == ("binned", None, False)


def test_a_speedup_is_over_every_layer_on_its_own(tables):
    assert baseline_latency_ns(*tables) == 110
    assert solve(*tables, speedup=1.5).budget_ns == 73
    assert solve(*tables, speedup=1.0).latency_ns == 110


def test_a_speedup_needs_every_layer_on_its_own():
    with pytest.raises(InputError, match="no entry that keeps layer 1 on its own"):
        solve([5], [1.0], start=[0], end=[2], speedup=2.0)


def test_arrays_give_the_rows_of_the_best_selection(tables):
    found = solve([50, 60, 70], [0.5, 0.75, 1.0], start=[0, 1, 0], end=[1, 2, 2], budget_ns=115)
    assert (found.rows, found.value) == ((0, 1), solve(*tables, budget_ns=115).value)
    assert found.convolutions == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([5], [1.0]), "start and end must be given"),
        (([5.5], [1.0], [0], [1]), "latency, in nanoseconds, must be an array of int64"),
        (("t.csv", "i.csv"), "got a path: read the files with read_latency and read_importance"),
        (([5], [1.0, 2.0], [0], [1]), r"importance must have the shape \(1,\)"),
        (([5], [float("nan")], [0], [1]), r"importance\[0\] must be finite"),
        (([5], [1.0], [0], [0]), r"end\[0\] must be > start\[0\] = 0, got 0"),
        ((5, [1.0], [0], [1]), r"latency must be a list or an array of one number per entry"),
        (([5], [[1.0], [2, 3]], [0], [1]), r"importance must be .* got rows of different lengths"),
        (([5], [1.0], 0, 1), r"start must be a list or an array .* got shape \(\)"),
        (([], [], [], []), "there must be at least one entry, got none"),
        (([2**63], [1.0], [0], [1]), "latency, in nanoseconds, has values that do not fit"),
    ],
)
def test_bad_arrays_are_refused(arguments, message):
    names = ("latency", "importance", "start", "end")
    with pytest.raises(InputError, match=message):
        solve(**dict(zip(names, arguments, strict=False)), budget_ns=9)


def test_a_table_and_an_array_do_not_mix(tables):
    with pytest.raises(InputError, match="two tables or two arrays"):
        solve(tables[0], [1.0], start=[0], end=[1], budget_ns=9)


def test_many_budgets_give_what_each_gives_alone(tables):
    for budget_ns, found in zip((70, 109, 110), solve_many(*tables, [70, 109, 110]), strict=True):
        alone = solve(*tables, budget_ns=budget_ns)
        assert (found.rows, found.value, found.budget_ns) == (alone.rows, alone.value, budget_ns)
    outcomes = solve_many(*tables, [69, 109, 0])
    assert [isinstance(each, InfeasibleError) for each in outcomes] == [True, False, True]
    assert "the budget of 0.000069 ms: the least" in str(outcomes[0])
    assert outcomes[2].least_latency_ns == 70
    assert outcomes[1].rows == solve(*tables, budget_ns=109).rows
    with pytest.raises(InputError, match=r"budgets_ns\[1\] must be from 0"):
        solve_many(*tables, [70, -1])
    with pytest.raises(InputError, match="budgets_ns must be a sequence of integers, got 70"):
        solve_many(*tables, 70)


def test_the_frontier_has_a_selection_for_every_point(tables):
    found = frontier(*tables)
    assert (found.latency_ns.tolist(), found.value.tolist()) == ([70, 110], [1.0, 1.25])
    assert found.error == 0
    for point in range(len(found)):
        selection = found.selection(point)
        assert selection.latency_ns == found.latency_ns[point]
        assert selection.value == found.value[point]
        assert found.selections()[point].rows == selection.rows


@pytest.mark.parametrize("module", [solver, milliseconds])
def test_examples_are_true(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


def test_importances_too_small_to_add_up_are_refused():
    positions = {"start": [0, 1, 0], "end": [1, 2, 2]}
    assert solve([5, 6, 7], [9e-250, 8e-250, 1e-249], budget_ns=10, **positions).rows == (2,)
    with pytest.raises(InputError, match=r"importance has no value above 1e-299 .*multiply"):
        solve([5, 6, 7], [9e-300, 8e-300, 1e-299], budget_ns=10, **positions)
    assert solve([5, 6, 7], [0.0, 0.0, 0.0], budget_ns=10, **positions).rows == (2,)
