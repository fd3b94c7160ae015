from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layermerge import _core
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


def test_candidates_become_the_arcs_of_a_problem():
    table = _core.LatencyTable(rows((1, 2), (3, 4)), latencies(5, 6))
    problem = table.arcs(
        np.array([0, 1], dtype=np.int32),
        np.array([1, 2], dtype=np.int32),
        rows((3, 4), (1, 2)),
        np.array([0.5, 0.25]),
    )
    arcs, value, latency_ns = _core.solve_binned(problem, 11, bin_ns=1)
    assert (arcs.tolist(), value, latency_ns) == ([0, 1], 0.75, 11)
