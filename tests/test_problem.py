from __future__ import annotations

import time

import numpy as np
import pytest

from layermerge import _core
from layermerge.errors import InputError
from oracles import arcs_of

CHAIN = [(0, 1, 5, 0.5), (1, 2, 7, 0.25), (0, 2, 9, 1.0)]


def problem(rows):
    return _core.Problem(*arcs_of(rows).columns())


def test_a_problem_knows_its_size_and_its_least_latency():
    made = problem(CHAIN)
    assert (made.last_position, made.arc_count, made.least_latency_ns) == (2, 3, 9)


def test_a_position_that_no_path_needs_may_be_unreachable():
    assert problem([(0, 2, 3, 1.0), (1, 2, 1, 1.0)]).least_latency_ns == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((0, 1, -2, 0.0), "latency_ns[3] must be >= 0, got -2"),
        ((-1, 1, 2, 0.0), "tail[3] must be >= 0, got -1"),
        ((2, 2, 2, 0.0), "head[3] must be > tail[3] = 2, got 2"),
        ((0, 1, 2, np.nan), "value[3] must be finite, got nan"),
        ((0, 1, 2, -np.inf), "value[3] must be finite, got -inf"),
        ((0, 2**24 + 1, 2, 0.0), "head[3] must be <= 16777216, got 16777217"),
    ],
)
def test_errors_name_argument_index_and_value(row, message):
    with pytest.raises(InputError) as caught:
        problem([*CHAIN, row])
    assert str(caught.value) == message


def test_no_arcs_are_refused():
    with pytest.raises(InputError, match="at least one arc"):
        _core.Problem(*(column[:0] for column in arcs_of(CHAIN).columns()))


def test_a_gap_names_the_first_position_that_cannot_be_reached():
    with pytest.raises(InputError, match="position 3 is the first that cannot be reached"):
        problem([*CHAIN, (3, 4, 1, 0.0)])


def test_positions_at_which_no_arc_ends_change_nothing_but_names():
    spread = problem([(70 * i, 70 * j, ns, value) for i, j, ns, value in CHAIN])
    assert (spread.last_position, spread.arc_count, spread.least_latency_ns) == (140, 3, 9)
    for budget_ns in (9, 12):
        (found,) = _core.solve_exact(spread, [budget_ns])
        (expected,) = _core.solve_exact(problem(CHAIN), [budget_ns])
        assert found.arcs.tolist() == expected.arcs.tolist()
        binned = _core.solve_binned(spread, budget_ns, bin_ns=1)
        assert binned[0].tolist() == expected.arcs.tolist()
    with pytest.raises(InputError, match="to position 70 take"):
        problem([(0, 70, 2**63 - 1, 0.0)])
    with pytest.raises(InputError) as caught:
        problem([(0, 70, 1, 0.0), (90, 140, 1, 0.0), (140, 200, 1, 0.0)])
    assert "leads from position 0 to position 200: position 90 is the first that" in str(
        caught.value
    )
    assert "position 70 the last that can" in str(caught.value)


def test_millions_of_positions_with_few_arcs_take_no_time():
    began = time.process_time()
    (found,) = _core.solve_exact(problem([(0, 1, 3, 1.0), (1, 2**24, 4, 1.0)]), [7])
    assert found.arcs.tolist() == [0, 1]
    assert time.process_time() - began < 3


def test_latencies_whose_sum_overflows_are_refused():
    half = 2**62
    with pytest.raises(InputError, match=r"latency_ns\[1\] = 4611686018427387904 makes"):
        problem([(0, 1, half, 0.0), (1, 2, half, 0.0)])
    assert problem([(0, 1, half, 0.0), (1, 2, half - 2, 0.0)]).least_latency_ns == 2**63 - 2


def test_values_whose_sum_overflows_are_refused():
    with pytest.raises(InputError, match="sum to infinity"):
        problem([(0, 1, 1, 1e308), (1, 2, 1, 1e308)])


@pytest.mark.parametrize(
    ("index", "bad", "message"),
    [
        (0, np.array([0, 1, 0]), "tail must be an array of int32, got int64"),
        (2, np.array([5.0, 7.0, 9.0]), "latency_ns must be an array of int64, got float64"),
        (3, np.zeros((3, 1)), r"value must have 1 dimension\(s\), got 2"),
        (3, np.zeros(6)[::2], "value must be contiguous"),
        (3, np.zeros(2), "must be of one length, got 3, 3, 3 and 2"),
    ],
)
def test_the_wrong_kind_of_array_is_refused_by_name(index, bad, message):
    columns = list(arcs_of(CHAIN).columns())
    columns[index] = bad
    with pytest.raises(InputError, match=message):
        _core.Problem(*columns)
