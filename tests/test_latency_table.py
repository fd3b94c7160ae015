from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layermerge import _core, look_up_latency, solve
from layermerge.errors import InputError

ROWS = st.dictionaries(
    st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 3), st.integers(0, 2**40), min_size=1
)


def rows(*signatures):
    return np.array(signatures, dtype=np.int64)


def latencies(*values):
    return np.array(values, dtype=np.int64)


@given(ROWS, st.randoms(use_true_random=False))
def test_it_looks_up_as_a_dictionary_does(latency_of, random):
    table = _core.LatencyTable(rows(*latency_of), latencies(*latency_of.values()))
    wanted = random.choices(list(latency_of), k=20)
    assert len(table) == len(latency_of)
    assert table.lookup(rows(*wanted)).tolist() == [latency_of[row] for row in wanted]


def test_the_first_missing_signature_and_the_count_are_named():
    table = _core.LatencyTable(rows((1, 2), (3, 4)), latencies(5, 6))
    with pytest.raises(InputError, match=r"signature\[1\] = \(2, 1\) has no latency: 2 of 3"):
        table.lookup(rows((1, 2), (2, 1), (7, 7)))


def test_a_signature_may_come_twice_with_one_latency_only():
    assert len(_core.LatencyTable(rows((1, 2), (1, 2)), latencies(5, 5))) == 1
    with pytest.raises(InputError, match=r"signature\[1\] = \(1, 2\) has latency_ns 6"):
        _core.LatencyTable(rows((1, 2), (1, 2)), latencies(5, 6))


def test_bad_arrays_are_refused_by_name():
    with pytest.raises(InputError, match=r"latency_ns\[0\] must be >= 0, got -5"):
        _core.LatencyTable(rows((1, 2)), latencies(-5))
    with pytest.raises(InputError, match="must be of one length, got 1 and 2"):
        _core.LatencyTable(rows((1, 2)), latencies(5, 6))
    with pytest.raises(InputError, match=r"signature must have 2 dimension\(s\), got 1"):
        _core.LatencyTable(latencies(1, 2), latencies(5))
    with pytest.raises(InputError, match="signature must have 2 columns, got 3"):
        _core.LatencyTable(rows((1, 2)), latencies(5)).lookup(rows((1, 2, 3)))


def test_an_empty_table_misses_everything():
    table = _core.LatencyTable(np.zeros((0, 2), dtype=np.int64), latencies())
    assert table.lookup(np.zeros((0, 2), dtype=np.int64)).tolist() == []
    with pytest.raises(InputError, match="1 of 1 signatures are missing"):
        table.lookup(rows((1, 2)))


@given(ROWS, st.randoms(use_true_random=False))
def test_entries_get_the_latencies_of_their_signatures(latency_of, random):
    wanted = random.choices(list(latency_of), k=20)
    found = look_up_latency(wanted, list(latency_of), list(latency_of.values()))
    assert found.dtype == np.int64
    assert found.tolist() == [latency_of[row] for row in wanted]


def test_what_was_looked_up_can_be_solved():
    latency_ns = look_up_latency([[3, 4], [1, 2], [1, 2]], [[1, 2], [3, 4]], [5, 6])
    found = solve(latency_ns, [1.0, 0.5, 0.25], start=[0, 0, 1], end=[1, 1, 2], budget_ns=10)
    assert found.rows == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1, 2], [3]], [[1, 2]], [5]), "signature must have one row per entry, got rows of diff"),
        (([[1, 2]], [[1.5, 2]], [5]), "measured_signature must be an array of int64, got float64"),
        (([[1, 2]], [[1, 2]], 5), r"latency_ns must have 1 dimension\(s\), got 0"),
        (([[1, 2]], [[1, 3]], [5]), r"signature\[0\] = \(1, 2\) has no latency: 1 of 1"),
        (([["a"]], [[1]], [5]), "signature must be an array of int64, got <U1"),
        ((None, [[1]], [5]), "signature must be an array of int64, got object"),
    ],
)
def test_arguments_that_are_not_as_described_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        look_up_latency(*arguments)
