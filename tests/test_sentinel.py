from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layermerge.latency.sentinel import MAX_SLOWDOWN, WINDOW, Sentinel


def settled(pace_ns=100):
    sentinel = Sentinel()
    sentinel.settle([pace_ns] * 10)
    sentinel.set_baseline()
    return sentinel


def test_a_steady_machine_has_no_drift():
    sentinel = settled()
    assert not any(sentinel.is_disturbed_by((100, 101)) for _ in range(50))
    assert sentinel.drift == pytest.approx(1.0, abs=0.01)


def test_a_slow_run_before_or_after_says_that_the_lap_was_disturbed():
    sentinel = settled()
    assert sentinel.is_disturbed_by((100, round(100 * MAX_SLOWDOWN) + 1))
    assert sentinel.is_disturbed_by((200, 100))
    assert not sentinel.is_disturbed_by((100, 100))


def test_disturbed_laps_do_not_count_as_drift():
    sentinel = settled()
    for _ in range(4):
        sentinel.is_disturbed_by((1000, 1000))
    assert sentinel.drift == 1.0


@given(st.floats(0.5, 1.2), st.integers(0, 2**32))
def test_a_pace_that_changes_for_good_is_the_drift(change, seed):
    sentinel, noise = settled(10_000), random.Random(seed)
    for _ in range(WINDOW):
        runs = tuple(round(10_000 * change * noise.uniform(0.99, 1.01)) for _ in range(2))
        sentinel.is_disturbed_by(runs)
    assert sentinel.drift == pytest.approx(change, rel=0.02)


def test_an_earlier_baseline_is_kept():
    sentinel = Sentinel(baseline_ns=50)
    sentinel.settle([100] * 10)
    sentinel.set_baseline()
    assert (sentinel.baseline_ns, sentinel.drift) == (50, 2.0)
