from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layermerge.errors import InputError
from layermerge.importance.bounds import FEWEST_KNOWN, Bounds, Margins, removals

NO_PREDICTION = Margins(prediction=math.inf)


@st.composite
def entries(draw):
    """Entries of a network of a few layers, original ones first, and which Δ is known."""
    num_layers = draw(st.integers(1, 6))
    found = [(layer - 1, layer, (layer,)) for layer in range(1, num_layers + 1)]
    for _ in range(draw(st.integers(1, 12))):
        start = draw(st.integers(0, num_layers - 1))
        end = draw(st.integers(start + 1, num_layers))
        kept = draw(st.sets(st.integers(start + 1, end)))
        found.append((start, end, tuple(sorted(kept))))
    start, end, kept = zip(*found, strict=True)
    values = draw(st.lists(st.floats(-1, 0.2), min_size=len(found), max_size=len(found)))
    known = draw(st.lists(st.booleans(), min_size=len(found), max_size=len(found)))
    delta = np.where(known, values, np.nan)
    delta[:num_layers] = 0
    return np.array(start), np.array(end), kept, delta


def removed(start, end, kept):
    """What an entry removes, as a set of labelled layers and activations."""
    layers = {("layer", layer) for layer in range(start + 1, end + 1)} - {
        ("layer", layer) for layer in kept
    }
    return layers | {("activation", position) for position in range(start + 1, end)}


@given(entries())
def test_removals_are_the_layers_and_inner_activations_that_go(case):
    start, end, kept, _ = case
    rows = removals(start, end, kept)
    for row, entry in zip(rows, zip(start, end, kept, strict=True), strict=True):
        num_layers = len(row) // 2
        found = {("layer", place + 1) for place in np.flatnonzero(row[:num_layers])}
        found |= {("activation", place + 1) for place in np.flatnonzero(row[num_layers:])}
        assert found == removed(*entry)


@given(entries(), st.floats(0, 0.1), st.floats(0, 0.1))
def test_the_bound_is_the_least_that_a_known_part_allows(case, gain, order):
    start, end, kept, delta = case
    margins = Margins(gain, order, math.inf)
    bounds = Bounds(start, end, kept, margins=margins).upper(delta)
    sets = [removed(*entry) for entry in zip(start, end, kept, strict=True)]

    def kept_inside(row, other):
        """What an entry keeps of another's segment."""
        return set(kept[row]) & set(range(start[other] + 1, end[other] + 1))

    gains = [d for d, part in zip(delta, sets, strict=True) if part and d > gain]
    most = 2 * max(gains) if gains else gain
    for row, found in enumerate(bounds):
        parts = [
            delta[other] + order
            for other, part in enumerate(sets)
            if part
            and part <= sets[row]
            and math.isfinite(delta[other])
            and kept_inside(row, other) == set(kept[other])
        ]
        assert found == pytest.approx(min([most, *parts]))


@given(entries())
def test_a_failed_entry_bounds_nothing(case):
    start, end, kept, delta = case
    bounds = Bounds(start, end, kept)
    failed = np.where(np.isnan(delta), -np.inf, delta)
    assert np.array_equal(bounds.upper(failed), bounds.upper(delta))
    assert np.array_equal(bounds.predict(failed), bounds.predict(delta))


@given(entries())
def test_a_prediction_never_exceeds_its_bound(case):
    start, end, kept, delta = case
    bounds = Bounds(start, end, kept)
    assert (bounds.predict(delta) <= bounds.upper(delta)).all()


def additive_table(count, seed=0):
    """A chain in which each removal costs something, and the costs add up."""
    generator = np.random.default_rng(seed)
    num_layers = 10
    cost = generator.uniform(0.01, 0.03, 2 * num_layers)
    start = generator.integers(0, num_layers - 1, count)
    end = start + generator.integers(1, num_layers - start + 1)
    kept = [
        tuple(layer for layer in range(first + 1, last + 1) if generator.random() < 0.6)
        for first, last in zip(start, end, strict=True)
    ]
    end[-1] = num_layers
    return start, end, kept, -(removals(start, end, kept) @ cost)


def test_costs_that_add_up_are_predicted_from_few():
    start, end, kept, truth = additive_table(120)
    bounds = Bounds(start, end, kept, margins=NO_PREDICTION)
    seen = truth.copy()
    seen[40:] = np.nan
    predicted = bounds.predict(seen)[40:]
    assert np.corrcoef(predicted, truth[40:])[0, 1] > 0.98


def test_a_training_free_score_that_ranks_well_improves_the_prediction():
    start, end, kept, truth = additive_table(120)
    truth = truth * np.random.default_rng(1).uniform(0.3, 1.7, len(truth))
    seen = truth.copy()
    seen[20:] = np.nan
    errors = [
        np.abs(Bounds(start, end, kept, guesses, NO_PREDICTION).predict(seen) - truth)[20:].mean()
        for guesses in (None, 5 * truth)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_predictions_tighten_the_bounds_once_enough_is_known():
    start, end, kept, truth = additive_table(60)
    by_order, by_prediction = (
        Bounds(start, end, kept, margins=margins) for margins in (NO_PREDICTION, Margins())
    )
    something = np.flatnonzero(by_order.num_removed)
    for count, tightens in ((FEWEST_KNOWN - 1, False), (FEWEST_KNOWN + 20, True)):
        seen = np.full(len(truth), np.nan)
        seen[something[:count]] = truth[something[:count]]
        difference = by_order.upper(seen) - by_prediction.upper(seen)
        assert (difference >= 0).all()
        assert (difference.sum() > 0.1) == tightens


@pytest.mark.parametrize("name", ["gain", "order", "prediction"])
@pytest.mark.parametrize("value", [-0.1, math.nan, -math.inf, "0.1", None, True])
def test_a_margin_is_a_number_of_at_least_0(name, value):
    with pytest.raises(
        InputError, match=f"margin {name} must be a finite number of at least 0, go"
    ):
        Margins(**{name: value})


def test_all_margins_but_that_of_gains_may_be_infinite():
    Margins(order=math.inf, prediction=math.inf)
    with pytest.raises(InputError, match="margin gain must be a finite number of at least 0, got"):
        Margins(gain=math.inf)


def test_bounds_take_margins_alone():
    with pytest.raises(InputError, match=r"margins must be Margins\(...\), got 0.1"):
        Bounds(np.array([0]), np.array([1]), [(1,)], margins=0.1)
