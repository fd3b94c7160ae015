from __future__ import annotations

import doctest

import numpy as np
import pytest

from layermerge import milliseconds, solver
from layermerge.errors import InfeasibleError, InputError
from layermerge.solver import solve
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
    assert solve(*tables, budget_ns=1_000_000).bin_ns == 100
    assert solve(*tables, budget_ns=115).bin_ns == 1


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
        ({"budget_ns": 100, "method": "best"}, "method must be one of 'binned', got 'best'"),
        ({"budget_ns": 100, "rounding": "down"}, "rounding must be one of 'up', 'floor'"),
        ({"budget_ns": 100, "memory_limit_bytes": 0}, "above memory_limit_bytes"),
    ],
)
def test_bad_options_are_refused(tables, options, message):
    with pytest.raises(InputError, match=message):
        solve(*tables, **options)


@pytest.mark.parametrize("module", [solver, milliseconds])
def test_examples_are_true(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
