from __future__ import annotations

from functools import partial

import pytest

from layermerge.budgeting import MAX_ATTEMPTS, MAX_TIGHTENING, Comparison, plan_within_budget
from layermerge.errors import InfeasibleError
from layermerge.planning import Budget, make_plan
from test_planning import SPACE, measurement, profile_of, scores_of

PROFILE, SCORES = profile_of(SPACE), scores_of(SPACE)
BUDGET = Budget(fraction=0.8)
PLAN_FOR = partial(make_plan, PROFILE, SCORES)


class Meter:
    """Measures plans as so many times slower than predicted, and records them."""

    def __init__(self, *slowness):
        self.slowness, self.plans = slowness, []

    def __call__(self, plan):
        slowness = self.slowness[min(len(self.plans), len(self.slowness) - 1)]
        self.plans.append(plan)
        return Comparison(
            measurement(PROFILE.original_ns), measurement(round(plan.latency_ns * slowness))
        )


def test_a_plan_that_takes_what_was_predicted_is_the_best_one():
    meter = Meter(0.97)
    plan = plan_within_budget(PROFILE, PLAN_FOR, BUDGET, meter)
    best = make_plan(PROFILE, SCORES, BUDGET.resolve(PROFILE.original_ns))
    assert plan == best
    assert len(meter.plans) == 1


def test_a_plan_that_takes_longer_is_replaced_by_a_faster_one_for_the_same_budget():
    meter = Meter(1.3, 0.9)
    plan = plan_within_budget(PROFILE, PLAN_FOR, BUDGET, meter)
    assert [tried.latency_ns for tried in meter.plans] == sorted(
        {tried.latency_ns for tried in meter.plans}, reverse=True
    )
    assert plan.latency_ns == meter.plans[1].latency_ns < meter.plans[0].latency_ns
    assert plan.budget_ns == meter.plans[0].budget_ns


def test_the_margin_must_be_left():
    best = make_plan(PROFILE, SCORES, BUDGET.resolve(PROFILE.original_ns))
    just_kept = BUDGET.resolve(PROFILE.original_ns) / best.latency_ns
    for margin, attempts in ((0.0, 1), (0.05, 2)):
        meter = Meter(just_kept * 0.999, 0.5)
        plan_within_budget(PROFILE, PLAN_FOR, BUDGET, meter, margin=margin)
        assert len(meter.plans) == attempts


def test_one_wild_measurement_tightens_the_budget_by_a_tenth_at_most():
    meter = Meter(50.0, 0.5)
    plan_within_budget(PROFILE, PLAN_FOR, BUDGET, meter)
    tightened = BUDGET.resolve(PROFILE.original_ns) / MAX_TIGHTENING
    expected = make_plan(PROFILE, SCORES, int(min(meter.plans[0].latency_ns - 1, tightened)))
    assert meter.plans[1].segments == expected.segments


def test_what_no_measured_plan_keeps_is_infeasible_and_says_the_fastest():
    meter = Meter(9.0)
    with pytest.raises(InfeasibleError) as caught:
        plan_within_budget(PROFILE, PLAN_FOR, BUDGET, meter)
    assert "no plan that was measured meets the budget of 80% of the original" in str(caught.value)
    assert caught.value.least_latency_ns == min(
        round(plan.latency_ns * 9.0) for plan in meter.plans
    )
    assert 1 < len(meter.plans) <= MAX_ATTEMPTS
