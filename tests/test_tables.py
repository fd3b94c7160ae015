from __future__ import annotations

import numpy as np
import pytest

from layermerge.errors import InputError
from layermerge.tables import Entries, ImportanceTable, LatencyTable, matching_rows


def entries(*keys):
    start, end, kernel, is_depthwise = zip(*keys, strict=True)
    return Entries(
        start, end, [(k, k) for k in kernel], np.ones((len(keys), 2), dtype=int), is_depthwise
    )


def latency_table(*keys):
    return LatencyTable(entries(*keys), np.arange(len(keys)), np.zeros(len(keys), dtype=int))


def importance_table(*keys):
    return ImportanceTable(entries(*keys), np.ones(len(keys)), tuple((1,) for _ in keys))


FIRST, SECOND = (0, 1, 3, False), (0, 1, 3, True)


def test_tables_are_read_only_copies():
    given = np.array([5, 6])
    table = LatencyTable(entries(FIRST, SECOND), given, np.zeros(2, dtype=int))
    given[0] = 9
    assert table.latency_ns.tolist() == [5, 6]
    with pytest.raises(ValueError, match="read-only"):
        table.latency_ns[0] = 1


def test_rows_are_matched_by_entry_whatever_their_order():
    rows = matching_rows(latency_table(FIRST, SECOND), importance_table(SECOND, FIRST))
    assert rows.tolist() == [1, 0]


def test_an_entry_in_one_table_only_is_named():
    message = "segment 0..1 with kernel 3x3 \\(depthwise\\): in {}, but not in {}"
    latency, importance = "the latency table", "the importance table"
    with pytest.raises(InputError, match=message.format(latency, importance)):
        matching_rows(latency_table(FIRST, SECOND), importance_table(FIRST))
    with pytest.raises(InputError, match=message.format(importance, latency)):
        matching_rows(latency_table(FIRST), importance_table(FIRST, SECOND))


def test_an_entry_given_twice_is_named():
    with pytest.raises(InputError, match=r"segment 0..1 with kernel 3x3 is given twice, in rows 0"):
        matching_rows(latency_table(FIRST, FIRST), importance_table(FIRST))


@pytest.mark.parametrize(
    ("latency_ns", "message"),
    [
        ([1.5, 2.5], "latency_ns must be an array of int64, got float64"),
        ([1], r"latency_ns must have the shape \(2,\), got \(1,\)"),
        (np.array([2**63, 1], dtype=np.uint64), "latency_ns has values that do not fit in int64"),
    ],
)
def test_values_that_would_change_are_refused(latency_ns, message):
    with pytest.raises(InputError, match=message):
        LatencyTable(entries(FIRST, SECOND), latency_ns, np.zeros(2, dtype=int))


def test_each_entry_has_its_kept_layers():
    with pytest.raises(InputError, match="kept must have 2 elements, got 1"):
        ImportanceTable(entries(FIRST, SECOND), np.ones(2), ((1,),))
