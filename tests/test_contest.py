"""Whole plans compete where the sum of importances misleads."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from layermerge.candidates import PLAN, Combination
from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError
from layermerge.importance.contest import Discipline, disciplines, verdict, winner
from layermerge.importance.estimators import ShortFineTune
from layermerge.importance.processes import Processes
from layermerge.importance.proxies import ClosedForm
from layermerge.importance.scores import importances
from layermerge.importance.search import find_plans
from layermerge.importance.search_options import SearchOptions
from layermerge.importance.status import load_status
from layermerge.latency.fidelity import random_plans
from layermerge.plan import plan_of
from layermerge.planning import available_ns, chosen_candidates, make_plan, predict_original_ns
from layermerge.rewriting import rewrite
from layermerge.store import Score, Study
from layermerge.tracing import trace
from networks import ConvNorm
from test_planning import profile_of

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
FULL = SearchOptions(full=True)


def make():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [ConvNorm(3, 8, 3, nn.ReLU())]
        layers += [ConvNorm(8, 8, 3, nn.ReLU()) for _ in range(4)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 16 * 16, 5)).eval()


def num_convolutions(module):
    return sum(isinstance(part, nn.Conv2d) for part in module.modules())


def enough_layers(module):
    """One convolution may go for next to nothing; with the second to go all is lost."""
    return 1.0 if num_convolutions(module) >= 4 else 0.0


@pytest.fixture(scope="module")
def task():
    """A model, and latencies under which dropping layers is what saves most."""
    model = make()
    space = enumerate_candidates(trace(model, IMAGES), max_kernel=5)
    return model, profile_of(space, seed=7)


def find(task, budget_ns, **others):
    given = {"score_fn": enough_layers, "progress": False, "options": FULL, **others}
    return find_plans(*task, [budget_ns], **given).plans[0]


def budget_of(task, part=0.6):
    return int(part * predict_original_ns(task[1]))


def test_the_plan_that_scores_best_as_a_whole_wins(task):
    model, _ = task
    plan = find(task, budget_of(task))
    alone = find(task, budget_of(task), options=replace(FULL, contest=False))
    assert enough_layers(rewrite(model, alone)) == 0.0  # each of its steps is free, together not
    assert enough_layers(rewrite(model, plan)) == 1.0
    assert plan.latency_ns <= budget_of(task)
    assert plan.importance <= alone.importance
    assert "each fine-tuned shortly as a whole, it scores best: 1;" in plan.certificate
    assert f"that of the largest total importance ({alone.certificate}) scores 0" in (
        plan.certificate
    )
    assert plan.importance == pytest.approx(sum(s.importance for s in plan.segments))


def test_contenders_are_the_best_of_their_disciplines(task):
    _, profile = task
    plans = {}

    class Watching(ShortFineTune):
        def score_plan(self, model, network, plan):
            plans[plan.key] = plan
            return super().score_plan(model, network, plan)

    estimator = Watching(enough_layers, None)
    found = find(task, budget_of(task), score_fn=None, estimator=estimator)
    contenders = [plan for plan in plans.values() if len(plan.candidates) > 1]
    table = find_plans(
        *task, [budget_of(task)], score_fn=enough_layers, options=FULL, progress=False
    ).scores
    for method, objective in (("layermerge", "delta"), ("depth", "delta")):
        admitted = [c for c in profile.space.candidates if Discipline(method, objective).admits(c)]
        restricted = replace(profile, space=replace(profile.space, candidates=tuple(admitted)))
        expected = make_plan(restricted, table, budget_of(task), objective=objective)
        values = [
            sum(table.of(c, objective) for c in contender.candidates)
            for contender in contenders
            if all(map(Discipline(method, objective).admits, contender.candidates))
        ]
        assert max(values) == pytest.approx(expected.importance)
    assert Combination(chosen_candidates(profile, found)) in contenders


def test_the_restrictions_are_those_of_the_search_space(task):
    _, profile = task
    for method in ("depth", "layer_only"):
        own = {c.key for c in profile.space.candidates if Discipline(method, "delta").admits(c)}
        space = enumerate_candidates(profile.space.network, method=method, max_kernel=5)
        assert own == {c.key for c in space.candidates}


def test_there_are_no_two_of_one_discipline():
    for objective in ("exp_delta", "delta"):
        found = disciplines(objective)
        assert found[0] == Discipline("layermerge", objective)
        assert len({*found}) == len(found) == 6


@pytest.mark.parametrize("base", [0.0, 1e-30, 0.9, -3.0, 1e20])
def test_beside_the_sum_of_changes_stands_that_of_their_exponentials(base):
    exponential = disciplines("delta")[1].objective
    deltas = np.array([-1e20, -0.5, -0.1, 0.0, 0.1, 1e20])
    values = importances(exponential, deltas, base)  # are finite, and do not decrease
    if base in (0.9, -3.0):
        assert values[1:-1] == pytest.approx(np.exp(deltas[1:-1] / abs(base)))


def test_whole_plans_are_kept_in_the_study_and_not_scored_again(task, tmp_path):
    study = tmp_path / "study.db"
    first = find(task, budget_of(task), study=study)

    def only_the_original(module):
        assert num_convolutions(module) == num_convolutions(task[0]), "scored again"
        return enough_layers(module)

    assert find(task, budget_of(task), study=study, score_fn=only_the_original) == first
    with Study(study) as store:
        assert load_status(store).is_done


@pytest.mark.parametrize("objective", ["exp_delta", "delta"])
def test_a_finished_search_finds_the_same_again_and_evaluates_nothing(task, tmp_path, objective):
    """For several budgets together, with scores that no sum predicts."""
    budgets = [budget_of(task, part) for part in (0.85, 0.65, 0.5)]
    for seed in range(3):
        options = SearchOptions(objective=objective, per_round=1 + seed % 3)
        given = {"study": tmp_path / f"{seed}.db", "options": options, "progress": False}

        def noisy(module, seed=seed):
            names = [name for name, part in module.named_modules() if not [*part.children()]]
            return -(random.Random(f"{seed} {names}").random() ** 4) - 0.05 * (17 - len(names))

        first = find_plans(*task, budgets, score_fn=noisy, **given).plans
        calls = []

        def counted(module, calls=calls, noisy=noisy):
            calls.append(module)
            return noisy(module)

        again = find_plans(*task, budgets, score_fn=counted, **given).plans
        assert len(calls) == 1  # the original
        assert [plan.segments for plan in again] == [plan.segments for plan in first]


def test_the_status_shows_the_winner(task, tmp_path):
    with Study(tmp_path / "run.db") as study:
        plan = find(task, budget_of(task), study=study)
        (state,) = load_status(study).plans
        lines = " ".join(load_status(study).lines())
    replaced = [c.key for c in chosen_candidates(task[1], plan) if not c.is_original]
    assert list(state.segments) == replaced
    assert (state.whole_score, state.latency_ns) == (1.0, plan.latency_ns)
    assert "scores 1 as a whole (sum of changes: 1)" in lines


def test_a_contest_runs_in_several_processes(task):
    here = find(task, budget_of(task))
    assert find(task, budget_of(task), executor=Processes(2)) == here


def test_what_cannot_be_scored_as_a_whole_loses(task):
    def fragile(module):
        if num_convolutions(module) < 3:
            raise RuntimeError("too few layers")
        return enough_layers(module)

    plan = find(task, budget_of(task), score_fn=fragile)
    assert num_convolutions(rewrite(task[0], plan)) >= 3


def test_candidates_that_failed_in_an_earlier_run_are_told(task, tmp_path, caplog):
    def fragile(module):
        if num_convolutions(module) < 4:
            raise RuntimeError("too few layers")
        return enough_layers(module)

    for _ in range(2):
        assert "failed in an earlier run" not in caplog.text
        find(task, budget_of(task), score_fn=fragile, study=tmp_path / "run.db")
    assert "candidates failed in an earlier run on this study and are left out" in caplog.text
    assert "too few layers" in caplog.text


def test_estimators_that_score_segments_alone_hold_no_contest(task):
    plan = find(task, budget_of(task), score_fn=None, estimator=ClosedForm([IMAGES]))
    assert "as a whole" not in plan.certificate


def test_a_new_start_of_single_layers_reaches_all_of_a_plan(task):
    model, profile = task
    chosen = [c for c in profile.space.candidates if len(c.kept) == 1 and c.end - c.start == 2]
    pair = Combination((chosen[0], next(c for c in chosen if c.start >= chosen[0].end)))
    seen = []
    estimator = ShortFineTune(
        lambda module: float(bool(seen.append(module.state_dict()))), None, reinitialise=True
    )
    estimator.score_plan(model, profile.space.network, pair)
    names = [profile.space.network.layers[c.kept[0] - 1].name for c in pair.candidates]
    before = rewrite(model, plan_of(profile.space.network, pair.candidates)).state_dict()
    for name in names:
        assert not torch.equal(before[f"{name}.weight"], seen[0][f"{name}.weight"])


def test_the_winner_and_the_verdict(task):
    one, two, three = (Combination((c,)) for c in task[1].space.candidates[-3:])
    scores = {
        one.key: Score(None, "RuntimeError: out", 1.0),
        two.key: Score(0.5, None, 1.0),
        three.key: Score(0.5, None, 1.0),
    }
    assert winner([one, two, three], scores) is two
    assert winner([one], scores) is one
    assert verdict("proven", [one, two, three], two, scores) == (
        "of 3 plans, each fine-tuned shortly as a whole, it scores best: 0.5; that of the "
        "largest total importance (proven) failed: RuntimeError: out"
    )
    assert verdict("proven", [two, one], two, scores) == (
        "proven; of 2 plans, each fine-tuned shortly as a whole, it scores best: 0.5"
    )
    failed = verdict("proven", [one], one, scores)
    assert failed == "proven; it could not be fine-tuned as a whole: RuntimeError: out"


def test_the_option_must_be_a_truth_value():
    with pytest.raises(InputError, match="contest must be True or False, got 'yes'"):
        SearchOptions(contest="yes")


def test_what_competes_costs_far_less_than_a_proof(task):
    """For the others the search ends at the plan that looks best by prediction."""

    def evaluated(options):
        found = find_plans(
            *task,
            [budget_of(task, 0.8)],
            score_fn=enough_layers,
            options=options,
            progress=False,
        )
        return len(found.scores.raw)

    alone = evaluated(SearchOptions(contest=False))
    proven = evaluated(SearchOptions(contest=False, objective="delta"))
    assert alone <= evaluated(SearchOptions()) < alone + proven


def test_a_plan_of_a_combination_is_found_again_by_its_key(task):
    candidates = task[1].choosable()
    plan = chosen_candidates(task[1], find(task, budget_of(task)))
    assert Combination.named(Combination(plan).key, candidates) == Combination(plan)
    assert Combination.named("plan & 0-9:9x9:1", candidates) is None


def test_a_plan_that_an_earlier_contest_scored_is_not_lost_again(task, tmp_path, monkeypatch):
    """A later search may not think of it, as others of its candidates are known by then."""
    keys, add_score = [], Study.add_score
    monkeypatch.setattr(
        Study, "add_score", lambda self, key, score: (keys.append(key), add_score(self, key, score))
    )
    study = tmp_path / "run.db"
    best = find(task, budget_of(task), study=study)
    with Study(study) as store:
        scored = store.scored(replace(keys[-1], candidate=PLAN))
        assert Combination(chosen_candidates(task[1], best)).key in scored
        most_ns = available_ns(task[1], budget_of(task))
        other = next(
            plan
            for plan in map(Combination, random_plans(task[1].space, 1000))
            if sum(map(task[1].of, plan.candidates)) <= most_ns and plan.key not in scored
        )
        store.add_score(replace(keys[-1], candidate=other.key), Score(2.0, None, 1.0))
    again = find(task, budget_of(task), study=study)
    assert [each.kept for each in again.segments] == [each.kept for each in other.candidates]
