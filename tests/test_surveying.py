from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from torch import nn

from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InfeasibleError
from layermerge.evidence import _steps
from layermerge.latency.profile import LatencyProfile
from layermerge.planning import chosen_candidates, make_plan, predict_ns, predict_original_ns
from layermerge.surveying import MAX_POINTS, survey
from layermerge.tracing import trace
from networks import images
from test_planning import ENVIRONMENT, PLANS, SPACE, measurement, profile_of, scores_of


def surveyed(seed=0, *, budget=0.7, failing=0.0, unevaluated=0.0, **options):
    """Profile, scores, plan and survey of the sample network."""
    profile = profile_of(SPACE, seed, fixed_ns=(40,), original_ns=5000)
    skipped = frozenset(each.key for each in profile.unprofitable())
    scores = scores_of(SPACE, seed, failing=failing, skipped=skipped)
    left_out = list(scores.raw)[: round(unevaluated * len(scores.raw))]
    raw = {key: value for key, value in scores.raw.items() if key not in left_out}
    scores = replace(scores, raw=raw, unevaluated=frozenset(left_out))
    plan = make_plan(profile, scores, round(budget * predict_original_ns(profile)))
    return profile, scores, plan, survey(profile, scores, plan, **options)


@pytest.mark.parametrize("seed", range(5))
def test_no_plan_of_known_entries_beats_a_point_of_the_frontier(seed):
    profile, scores, _, found = surveyed(seed, unevaluated=0.3)
    plans = [
        (predict_ns(profile, sum(map(profile.of, plan))), math.fsum(map(scores.of, plan)))
        for plan in PLANS["inverted"]
        if all(map(scores.is_available, plan))
    ]
    for point in found.frontier:
        within = [value for latency_ns, value in plans if latency_ns <= point.latency_ns]
        assert point.importance == pytest.approx(max(within), rel=1e-12)
    values = [point.importance for point in found.frontier]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(max(value for _, value in plans), rel=1e-12)


def test_a_point_of_the_frontier_says_what_its_plan_is():
    profile, scores, _, found = surveyed()
    by_key = {each.key: each for each in SPACE.candidates}
    for point in found.frontier:
        replacements = [by_key[key] for key in point.segments]
        replaced = {layer for r in replacements for layer in range(r.start + 1, r.end + 1)}
        originals = [each for each in SPACE.original if each.end not in replaced]
        latency_ns = sum(map(profile.of, [*replacements, *originals]))
        assert point.latency_ns == predict_ns(profile, latency_ns)
        assert point.score == pytest.approx(0.8 + sum(map(scores.delta, replacements)))
        assert point.layers == len(originals) + sum(bool(each.kept) for each in replacements)


def test_the_chosen_plan_is_on_the_frontier_and_only_it_is_chosen():
    profile, _, plan, found = surveyed()
    assert [point.is_chosen for point in found.frontier].count(True) == 1
    assert found.chosen.latency_ns == plan.latency_ns
    assert found.chosen.importance == pytest.approx(plan.importance)
    chosen = chosen_candidates(profile, plan)
    assert found.chosen.segments == tuple(c.key for c in chosen if not c.is_original)


@pytest.mark.parametrize("most", [3, 4, 6])
def test_a_long_frontier_is_thinned_and_keeps_the_plan_and_the_ends(most):
    *_, everything = surveyed()
    *_, plan, thinned = surveyed(max_points=most)
    assert MAX_POINTS <= 200
    assert len(thinned.frontier) <= most < len(everything.frontier)
    assert set(thinned.frontier) <= set(everything.frontier)
    assert thinned.chosen.latency_ns == plan.latency_ns
    assert thinned.frontier[0] == everything.frontier[0]
    assert thinned.frontier[-1] == everything.frontier[-1]


def test_every_segment_is_accounted_for():
    profile, scores, plan, found = surveyed(3, failing=0.5, unevaluated=0.4)
    replacements = [each for each in SPACE.candidates if not each.is_original]
    numbers = Counter((each.start, each.end) for each in replacements)
    assert {(each.start, each.end): each.num_entries for each in found.segments} == numbers
    assert sum(each.num_scored for each in found.segments) == len(scores.raw)
    assert sum(each.num_failed for each in found.segments) == len(scores.failures) > 0
    assert sum(each.num_unevaluated for each in found.segments) == len(scores.unevaluated) > 0
    assert sum(each.num_unprofitable for each in found.segments) == len(scores.skipped) > 0
    taken = {(c.start, c.end) for c in chosen_candidates(profile, plan) if not c.is_original}
    assert {(each.start, each.end) for each in found.segments if each.is_chosen} == taken


def test_a_segment_shows_the_best_of_its_entries():
    profile, scores, _, found = surveyed(unevaluated=0.3, objective="delta")
    by_place = {(each.start, each.end, each.kept): each for each in SPACE.candidates}
    for each in found.segments:
        raw = [
            scores.raw[c.key]
            for c in SPACE.candidates
            if (c.start, c.end) == (each.start, each.end) and c.key in scores.raw
        ]
        assert (each.delta is None) == (not raw)
        if raw:
            best = by_place[each.start, each.end, each.kept]
            assert each.delta == each.importance == max(raw) - scores.base == scores.delta(best)
            assert each.latency_ns == profile.of(best) < each.replaced_ns


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels):
        super().__init__()
        self.pool, self.scale = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * self.scale(self.pool(x)).sigmoid()


class Gated(nn.Module):
    """Two residual blocks with a gate each."""

    def __init__(self, channels=4):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.GroupNorm(2, channels),
                nn.ReLU(),
                Gate(channels),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
            for _ in range(2)
        )
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        for branch in self.branches:
            x = (x + branch(x)).relu()
        return self.fc(self.pool(x).flatten(1))


@pytest.mark.parametrize("remove", [("activation",), ("activation", "gate", "norm")])
@pytest.mark.parametrize("budget", [0.0, 0.5, 1.0])
def test_the_parts_of_both_networks_sum_to_what_is_predicted(remove, budget):
    network = trace(Gated().eval(), images(1, 3, 8, 8), remove=remove)
    space = enumerate_candidates(network)
    sampled = profile_of(space)
    barriers = {b.name: measurement(50 + 7 * n) for n, b in enumerate(network.barriers)}
    profile = LatencyProfile(space, ENVIRONMENT, sampled.convolutions, barriers)
    assert any(barrier.is_removable for barrier in network.barriers) == ("gate" in remove)
    scores = scores_of(space)
    with pytest.raises(InfeasibleError) as infeasible:
        make_plan(profile, scores, 1)
    least_ns = infeasible.value.least_latency_ns
    plan = make_plan(profile, scores, round(least_ns + budget * (profile.original_ns - least_ns)))
    steps = _steps(profile, plan)
    assert sum(step.before_ns for step in steps) == profile.original_ns
    assert sum(step.after_ns for step in steps) == plan.latency_ns
    assert all(sum(step.name_ns or (step.before_ns,)) == step.before_ns for step in steps)
    assert [step.end for step in steps] == sorted(step.end for step in steps)
    named = Counter(name for step in steps for name in step.names)
    expected = [*(layer.name for layer in network.layers), *barriers]
    assert named == Counter(expected)
    removed = {name for step in steps for name in step.names if name not in step.kept}
    assert bool(removed & barriers.keys()) == ("gate" in remove and budget < 1)
