from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layermerge.errors import InputError
from layermerge.milliseconds import budget_from_ms, format_ms, ns_from_ms


@given(st.integers(0, 2**63 - 1))
def test_nanoseconds_survive_being_written(ns):
    assert ns_from_ms(format_ms(ns)) == ns


@pytest.mark.parametrize(
    ("milliseconds", "ns"),
    [
        ("0.29", 290_000),
        (0.29, 290_000),
        (Decimal("376.773"), 376_773_000),
        ("1.5e-3", 1500),
        ("0.0000005", 0),
        ("0.0000015", 2),
        ("1e-999999999", 0),
        (3, 3_000_000),
    ],
)
def test_milliseconds_become_the_nearest_nanoseconds(milliseconds, ns):
    assert ns_from_ms(milliseconds) == ns


def test_a_budget_is_rounded_down():
    assert budget_from_ms("0.0000019") == 1


@pytest.mark.parametrize(
    ("milliseconds", "message"),
    [
        ("nan", "must be a number of milliseconds, got 'nan'"),
        (float("inf"), "must be a number of milliseconds, got 'inf'"),
        ("0,5", "got '0,5': write decimals with a point"),
        ("9" * 5000, r"got 9{77}\.\.\.$"),
        ("1_0", "must be a number"),
        ("", "must be a number"),
        ("-0.5", "must be >= 0 milliseconds, got -0.5"),
        ("1e999999999", "must be below"),
        ("9223372036854.775808", "must be below"),
    ],
)
def test_what_is_no_duration_is_refused(milliseconds, message):
    with pytest.raises(InputError, match=message):
        ns_from_ms(milliseconds)
