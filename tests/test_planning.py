from __future__ import annotations

import math
import random
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InfeasibleError, InputError
from layermerge.importance.scores import ImportanceScores
from layermerge.latency.environment import Environment
from layermerge.latency.profile import LatencyProfile
from layermerge.planning import Budget, chosen_candidates, make_plan, predict_ns, tabulate
from layermerge.store import Measurement
from layermerge.tracing import trace
from networks import images, zoo

ENVIRONMENT = Environment("none", "1", "cpu", "", "fp32", "channels_first", 1, 1, "clock")


def space_of(name):
    return enumerate_candidates(trace(zoo(name), images(2, 3, 16, 16)))


SPACES = {name: space_of(name) for name in ("plain", "basic", "inverted")}
SPACE = SPACES["inverted"]


def measurement(latency_ns):
    return Measurement(latency_ns, 0.1, 9, 0.0)


def profile_of(space, seed=0, *, fixed_ns=(), original_ns=None):
    """Latencies from 20 to 500 ns, as if they had been measured."""
    draw = random.Random(seed)
    convolutions = {s: measurement(draw.randint(20, 500)) for s in space.signatures}
    barriers = {f"fixed_{place}": measurement(ns) for place, ns in enumerate(fixed_ns)}
    end_to_end = None if original_ns is None else measurement(original_ns)
    return LatencyProfile(space, ENVIRONMENT, convolutions, barriers, end_to_end)


def scores_of(space, seed=0, *, failing=0.0, skipped=frozenset()):
    """Scores around 0.8 for what is not original; some fail."""
    draw = random.Random(seed)
    keys = [c.key for c in space.candidates if not c.is_original and c.key not in skipped]
    failures = {key: "diverged" for key in keys if draw.random() < failing}
    raw = {key: draw.uniform(0.4, 0.85) for key in keys if key not in failures}
    return ImportanceScores(0.8, raw, failures, skipped)


def test_scores_of_another_network_are_refused():
    profile, scores = profile_of(SPACE), scores_of(SPACE)
    own = SPACE.network.fingerprint
    assert make_plan(profile, scores, 10**6) == make_plan(
        profile, replace(scores, network=own), 10**6
    )
    other = replace(scores, network=SPACES["plain"].network.fingerprint)
    for use in (partial(make_plan, budget_ns=10**6), tabulate):
        with pytest.raises(InputError, match=f"are of network .* is of network {own}"):
            use(profile, other)


def test_scores_of_a_smaller_space_are_refused():
    profile, scores = profile_of(SPACE), scores_of(SPACE)
    missing = next(iter(scores.raw))
    fewer = {key: value for key, value in scores.raw.items() if key != missing}
    with pytest.raises(InputError, match=f"{missing} was neither scored nor skipped: the scores"):
        make_plan(profile, replace(scores, raw=fewer), 10**6)


def all_plans(space, position=0):
    """Every sequence of consecutive candidates from a position to the last."""
    if position == space.network.num_layers:
        yield ()
    for candidate in space.candidates:
        if candidate.start == position:
            for rest in all_plans(space, candidate.end):
                yield (candidate, *rest)


PLANS = {name: list(all_plans(space)) for name, space in SPACES.items()}


def best_plan(name, profile, scores, budget_ns):
    """Largest importance, latency and choice of the best plan, by looking at all of them."""
    found = []
    for plan in PLANS[name]:
        latency_ns = sum(profile.convolutions[c.signature].median_ns for c in plan)
        fixed_ns = sum(m.median_ns for m in profile.barriers.values())
        predicted_ns = (latency_ns + fixed_ns) * profile.calibration
        if predicted_ns <= budget_ns and all(c.is_original or c.key in scores.raw for c in plan):
            deltas = (0 if c.is_original else scores.raw[c.key] - scores.base for c in plan)
            found.append((math.fsum(map(math.exp, deltas)), -latency_ns, plan))
    return max(found, key=lambda entry: entry[:2], default=None)


def test_the_spaces_are_large_enough_to_choose_from():
    assert all(len(plans) > 20 for plans in PLANS.values())


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("seed", range(12))
def test_the_plan_is_the_best_of_all_within_the_budget(name, seed):
    fixed_ns, original_ns = ((), None) if seed % 3 == 0 else ((70, 30), 900 + 100 * seed)
    profile = profile_of(SPACES[name], seed, fixed_ns=fixed_ns, original_ns=original_ns)
    scores = scores_of(SPACES[name], seed, failing=0.3 if seed % 2 else 0.0)
    for fraction in (0.3, 0.5, 0.7, 0.9, 1.2):
        budget_ns = int(profile.original_ns * profile.calibration * fraction)
        best = best_plan(name, profile, scores, budget_ns)
        if best is None:
            with pytest.raises(InfeasibleError):
                make_plan(profile, scores, budget_ns)
            continue
        plan = make_plan(profile, scores, budget_ns)
        assert plan.importance == pytest.approx(best[0], rel=1e-12)
        assert chosen_candidates(profile, plan) == best[2]


@given(
    seed=st.integers(0, 1000),
    original_ns=st.integers(1, 10**9),
    budget_ns=st.integers(1, 10**9),
    fixed_ns=st.integers(0, 10**6),
)
def test_what_is_predicted_for_a_plan_never_exceeds_the_budget(
    seed, original_ns, budget_ns, fixed_ns
):
    profile = profile_of(SPACE, seed, fixed_ns=(fixed_ns,), original_ns=original_ns)
    scores = scores_of(SPACE, seed)
    fastest_ns = predict_ns(profile, min(sum(map(profile.of, p)) for p in PLANS["inverted"]))
    if fastest_ns > budget_ns:
        with pytest.raises(InfeasibleError):
            make_plan(profile, scores, budget_ns)
    else:
        assert make_plan(profile, scores, budget_ns).latency_ns <= budget_ns


def test_the_prediction_adds_fixed_parts_and_is_calibrated():
    profile = profile_of(SPACE, fixed_ns=(100, 23), original_ns=10_000)
    chosen = [profile.of(candidate) for candidate in SPACE.original]
    factor = 10_000 / (sum(chosen) + 123)
    assert predict_ns(profile, sum(chosen)) == 10_000
    assert predict_ns(profile, 500) == math.ceil((500 + 123) * factor)
    assert predict_ns(replace(profile, end_to_end=None), 500) == 623


def test_the_plan_says_what_it_promises():
    profile = profile_of(SPACE, fixed_ns=(50,), original_ns=2000)
    budget_ns = 1400
    plan = make_plan(profile, scores_of(SPACE), budget_ns)
    chosen = chosen_candidates(profile, plan)
    assert plan.budget_ns == budget_ns
    assert plan.latency_ns == predict_ns(profile, sum(map(profile.of, chosen)))
    assert [segment.latency_ns for segment in plan.segments] == list(map(profile.of, chosen))
    assert plan.importance == pytest.approx(math.fsum(s.importance for s in plan.segments))
    assert plan.network_fingerprint == SPACE.network.fingerprint
    assert plan.provenance["calibration"] == float(profile.calibration)


def test_without_pressure_the_plan_is_the_original_if_nothing_is_better():
    scores = scores_of(SPACE)
    worse = replace(scores, raw={key: min(value, 0.5) for key, value in scores.raw.items()})
    plan = make_plan(profile_of(SPACE), worse, 10**6)
    assert all(segment.is_original for segment in plan.segments)


def test_the_objective_can_be_the_sum_of_the_changes():
    profile, scores = profile_of(SPACE), scores_of(SPACE)
    plan = make_plan(profile, scores, profile.original_ns // 2, objective="delta")
    deltas = [scores.delta(candidate) for candidate in chosen_candidates(profile, plan)]
    assert plan.importance == pytest.approx(math.fsum(deltas))


def test_tables_hold_every_candidate_that_may_be_chosen():
    profile = profile_of(SPACE)
    skipped = frozenset(c.key for c in SPACE.candidates[:9] if not c.is_original)
    scores = scores_of(SPACE, failing=0.5, skipped=skipped)
    assert skipped
    assert scores.failures
    latency, importance, candidates = tabulate(profile, scores)
    out = skipped | scores.failures.keys()
    assert candidates == tuple(c for c in SPACE.candidates if c.key not in out)
    assert latency.latency_ns.tolist() == list(map(profile.of, candidates))
    assert latency.stdev_ns.tolist() == [round(profile.of(c) * 0.1) for c in candidates]
    assert importance.kept == tuple(c.kept for c in candidates)
    assert np.array_equal(importance.importance, [scores.of(c) for c in candidates])
    keys = list(latency.entries.keys())
    assert keys == list(importance.entries.keys())
    assert len(set(keys)) == len(candidates)
    assert keys == [(c.start, c.end, *c.kernel_size, c.signature.is_depthwise) for c in candidates]


def test_an_infeasible_budget_says_the_least_latency_and_what_to_do():
    profile = profile_of(SPACE, fixed_ns=(4_000_000,), original_ns=6_000_000)
    scores = scores_of(SPACE)
    fastest = min(sum(map(profile.of, plan)) for plan in PLANS["inverted"])
    with pytest.raises(InfeasibleError) as caught:
        make_plan(profile, scores, 4_000_000)
    least_ns = predict_ns(profile, fastest)
    assert caught.value.least_latency_ns == least_ns
    message = str(caught.value)
    assert "no plan meets the budget of 4 ms" in message
    assert f"the fastest is predicted to take {least_ns / 1e6:.6f}" in message
    assert f"{predict_ns(profile, 0) / 1e6:.6f} ms are fixed parts" in message
    assert "Allow more latency" in message
    assert "\n" not in message


def test_the_least_latency_can_be_asked_for():
    profile, scores = profile_of(SPACE, fixed_ns=(10,)), scores_of(SPACE)
    with pytest.raises(InfeasibleError) as caught:
        make_plan(profile, scores, 1)
    plan = make_plan(profile, scores, caught.value.least_latency_ns)
    assert plan.latency_ns == caught.value.least_latency_ns


@pytest.mark.parametrize(
    ("budget", "expected_ns", "text"),
    [
        (Budget(latency_ms=1.5), 1_500_000, "1.5 ms"),
        (Budget(fraction=0.6), 6_000_000, "60% of the original latency"),
        (Budget(speedup=1.5), 6_666_666, "a speed-up of 1.5"),
    ],
)
def test_a_budget_is_resolved_and_named(budget, expected_ns, text):
    assert budget.resolve(10_000_000) == expected_ns
    assert str(budget) == text
    assert budget.is_relative == (budget.latency_ms is None)


def test_one_budget_is_to_be_given():
    with pytest.raises(InputError, match=r"give one of latency_ms, fraction and speedup .* none"):
        Budget()
    with pytest.raises(InputError, match=r"got {'latency_ms': 3, 'speedup': 2}"):
        Budget(latency_ms=3, speedup=2)


@pytest.mark.parametrize("name", ["latency_ms", "fraction", "speedup"])
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_a_budget_that_is_no_positive_number_is_refused(name, value):
    with pytest.raises(InputError, match=f"{name} must be a number greater than 0, got {value}"):
        Budget(**{name: value})


@pytest.mark.parametrize("name", ["latency_ms", "fraction", "speedup"])
def test_a_budget_in_words_is_refused(name):
    with pytest.raises(InputError, match=f"{name} must be a number greater than 0, got '3'"):
        Budget(**{name: "3"})


def test_a_budget_above_the_original_latency_is_refused():
    with pytest.raises(InputError, match=r"fraction must be a part .*, such as 0\.6, got 60"):
        Budget(fraction=60)
    with pytest.raises(InputError, match=r"such as 1\.5; 0\.5 is a slow-down"):
        Budget(speedup=0.5)
    assert Budget(fraction=1).resolve(7) == Budget(speedup=1).resolve(7) == 7


def test_the_original_latency_is_a_whole_number():
    with pytest.raises(InputError, match="original_ns must be a whole number of nanoseconds"):
        Budget(fraction=0.5).resolve(None)


@pytest.mark.parametrize("value", [True, 1e300])
def test_a_budget_that_is_none_is_named(value):
    with pytest.raises(InputError, match="latency_ms must be"):
        Budget(latency_ms=value)


def test_a_budget_may_be_a_fraction():
    assert str(Budget(fraction=Fraction(1, 2))) == "50% of the original latency"
    assert str(Budget(speedup=Fraction(3, 2))) == "a speed-up of 1.5"
    assert Budget(fraction=Fraction(1, 3)).resolve(300) == 100


def test_a_certificate_says_what_was_left_out():
    profile = profile_of(enumerate_candidates(trace(zoo("basic"), images(1, 3, 16, 16))))
    scores = ImportanceScores(0.0, {c.key: 0.0 for c in profile.space.candidates}, {}, frozenset())
    assert "left out" not in make_plan(profile, scores, 10**9).certificate
    replaced = [c for c in profile.space.candidates if not c.is_original]
    skipped = frozenset([replaced[0].key])
    fewer = replace(
        scores, raw={k: v for k, v in scores.raw.items() if k not in skipped}, skipped=skipped
    )
    assert make_plan(profile, fewer, 10**9).certificate.endswith(
        "(1 that are no faster than the layers they replace are left out)"
    )
