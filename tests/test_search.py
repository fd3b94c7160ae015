from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InfeasibleError, InputError, LayerMergeError
from layermerge.importance.activations import check_batches
from layermerge.importance.bounds import Margins
from layermerge.importance.estimation import estimate_importance
from layermerge.importance.estimators import ShortFineTune
from layermerge.importance.evaluation import ATTEMPTS
from layermerge.importance.executors import Serial, lost
from layermerge.importance.proxies import ClosedForm
from layermerge.importance.search import find_plans
from layermerge.importance.search_options import LAZY, SearchOptions
from layermerge.importance.status import KEY, Status, load_status
from layermerge.plan import original_plan
from layermerge.planning import make_plan, predict_original_ns
from layermerge.store import Study
from layermerge.tracing import trace
from networks import ConvNorm, Residual
from test_planning import profile_of

WIDE = Margins(gain=10.0, order=10.0, prediction=math.inf)
CALIBRATION = [torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))]


def make():
    """Four convolutions for images 3x16x16."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [ConvNorm(3, 8, 3, nn.ReLU()), Residual(8), ConvNorm(8, 8, 3, nn.ReLU())]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 16 * 16, 5)).eval()


with torch.no_grad():
    TARGET = make()(CALIBRATION[0])


def score(module):
    """Minus one at the original network, and less the further its outputs are from those."""
    with torch.inference_mode():
        return -1 - float((module(CALIBRATION[0]) - TARGET).square().mean().sqrt())


@pytest.fixture(scope="module")
def task():
    """A model, and a made-up latency of every signature."""
    model = make()
    network = trace(model, torch.zeros(2, 3, 16, 16))
    return model, profile_of(enumerate_candidates(network, max_kernel=5), seed=1)


ORIGINAL = original_plan(trace(make(), torch.zeros(2, 3, 16, 16)))


def estimate_all(task, score_fn):
    """The full table."""
    model, profile = task
    return estimate_importance(
        model,
        profile.space.network,
        profile.space,
        score_fn=score_fn,
        skip=profile.unprofitable(),
        progress=False,
    )


@pytest.fixture(scope="module")
def table(task):
    return estimate_all(task, score)


def budgets(profile, *parts):
    return [int(predict_original_ns(profile) * part) for part in parts]


def find(task, budgets_ns, *, options=LAZY, **others):
    """What the search itself finds, without a contest."""
    if isinstance(options, SearchOptions):
        options = replace(options, contest=False)
    given = {"score_fn": score, "progress": False, "options": options, **others}
    return find_plans(*task, budgets_ns, **given)


@pytest.mark.parametrize("objective", ["exp_delta", "delta", "exp_relative", lambda d, base: 3 * d])
def test_with_bounds_that_hold_the_plans_are_those_of_the_full_table(task, table, objective):
    parts = budgets(task[1], 0.9, 0.7)
    found = find(task, parts, options=SearchOptions(objective=objective, margins=WIDE))
    for plan, budget_ns in zip(found.plans, parts, strict=True):
        expected = make_plan(task[1], table, budget_ns, objective=objective)
        assert plan.importance == pytest.approx(expected.importance, rel=1e-9)
        assert plan.latency_ns <= budget_ns


def test_a_certificate_says_what_a_plan_rests_on(task):
    (budget_ns,) = budgets(task[1], 0.8)
    found = find(task, [budget_ns])
    total = len(found.scores.raw) + len(found.scores.unevaluated)
    assert found.scores.unevaluated
    assert found.plans[0].certificate == (
        "optimal for the full table if no unknown entry exceeds its bound; "
        f"{len(found.scores.raw)} of {total} entries evaluated"
    )


def test_a_full_search_is_proven_without_a_condition(task, table):
    (budget_ns,) = budgets(task[1], 0.8)
    found = find(task, [budget_ns], options=SearchOptions(full=True))
    assert found.plans[0] == make_plan(task[1], table, budget_ns)
    assert found.plans[0].certificate.startswith("proven:")
    assert found.scores.unevaluated == frozenset()


def test_a_training_free_score_orders_and_is_never_taken_for_a_score(task, table):
    (budget_ns,) = budgets(task[1], 0.8)
    with Study() as study:
        found = find(task, [budget_ns], order_by=ClosedForm(CALIBRATION), study=study)
    assert found.plans[0].segments != original_plan(task[1].space.network).segments
    assert found.scores.raw.items() <= table.raw.items()


def test_what_a_study_holds_is_not_evaluated_again(task, tmp_path):
    (budget_ns,) = budgets(task[1], 0.75)
    calls = []

    def counted(module):
        calls.append(module)
        return score(module)

    first = find(task, [budget_ns], score_fn=counted, study=tmp_path / "run.db")
    assert len(calls) == 1 + len(first.scores.raw)
    assert find(task, [budget_ns], score_fn=counted, study=tmp_path / "run.db") == first
    assert len(calls) == 1 + len(first.scores.raw) + 1  # the original, to compare


def test_scores_of_other_data_are_not_mixed_with_those_of_before(task, tmp_path, caplog):
    (budget_ns,) = budgets(task[1], 0.75)
    study = tmp_path / "run.db"
    first = find(task, [budget_ns], study=study)
    for factor in (1.0, 1 + 1e-9):
        again = find(task, [budget_ns], score_fn=lambda m, f=factor: f * score(m), study=study)
        assert again == first
    assert "the original network scores" not in caplog.text
    find(task, [budget_ns], score_fn=lambda module: 1.001 * score(module), study=study)
    assert "the original network scores -1.001, and scored -1 when study" in caplog.text
    with pytest.raises(InputError, match=r"scores -2, and scored -1 when study .* of other data"):
        find(task, [budget_ns], score_fn=lambda module: 2 * score(module), study=study)
    other = {"estimator": "other data", "score_fn": lambda module: 2 * score(module)}
    assert find(task, [budget_ns], study=study, **other).scores.base == -2


def test_an_interrupted_search_goes_on_where_it_was(task, tmp_path):
    (budget_ns,) = budgets(task[1], 0.7)
    options = SearchOptions(margins=WIDE)
    whole = find(task, [budget_ns], options=options)
    calls = []

    def interrupted(module):
        calls.append(module)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return score(module)

    with pytest.raises(KeyboardInterrupt):
        find(task, [budget_ns], options=options, score_fn=interrupted, study=tmp_path / "run.db")
    with Study(tmp_path / "run.db") as study:
        status = load_status(study)
        assert not status.is_done
        assert status.wanted > 0
        assert "entries evaluated" in next(status.lines())
        resumed = find(task, [budget_ns], options=options, score_fn=interrupted, study=study)
        assert load_status(study).is_done
    assert resumed.plans == whole.plans
    assert len(calls) == 3 + len(whole.scores.raw)  # the original in both runs


def test_a_budget_below_every_plan_says_the_least_latency(task):
    with pytest.raises(InfeasibleError, match="no plan meets the budget") as caught:
        find(task, [1])
    assert caught.value.least_latency_ns > 1


def test_candidates_that_fail_are_not_chosen(task):
    (budget_ns,) = budgets(task[1], 0.8)
    best = find(task, [budget_ns], options=SearchOptions(margins=WIDE))
    chosen = {(s.start, s.end) for s in best.plans[0].segments if not s.is_original}

    def fails(module):
        plan = module.meta["layermerge"].plan
        replaced = {(s.start, s.end) for s in plan.segments if not s.is_original}
        if replaced & chosen:
            raise RuntimeError("out of memory")
        return score(module)

    found = find(task, [budget_ns], score_fn=fails, options=SearchOptions(margins=WIDE))
    assert found.scores.failures
    left = {(s.start, s.end) for s in found.plans[0].segments if not s.is_original}
    assert not left & chosen


def test_the_time_that_is_left_is_that_of_what_is_wanted_now():
    status = Status(3, 5, 40, 6, False, 0.9, 2.0, 4, "{}", "", ())
    assert status.eta_s == 3.0
    assert next(status.lines()) == (
        "round 3: 5 of 40 entries evaluated, 6 wanted now, at least 3 s left"
    )
    assert replace(status, wanted=0).eta_s == 0
    # Before the first evaluation nobody knows.
    assert "left" not in next(replace(status, seconds_each=0.0).lines())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_round": 0}, "per_round must be a finite number of at least 1, got 0"),
        ({"per_round": 1.5}, "per_round must be an integer, got 1.5"),
        ({"full": "no"}, "full must be True or False, got 'no'"),
        ({"objective": ["delta"]}, "objective must be one of exp_delta, delta, exp_relative, or"),
        ({"margins": 0.1}, r"margins must be Margins\(...\), got 0.1"),
        ({"margins": Margins}, r"margins must be Margins\(...\), got <class"),
    ],
)
def test_options_of_a_search_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SearchOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "processes"}, r"executor must be an object such as Serial\(\), Processes"),
        ({"executor": Serial}, "executor must be an object such as"),
        ({"order_by": "closed_form"}, r"order_by must be an estimator, such as ClosedForm\(batc"),
        ({"estimator": 3, "score_fn": None}, "estimator must be an estimator, such as"),
        ({"options": {"full": True}}, r"options must be SearchOptions\(...\), got {'full': True}"),
        ({"seed": 1.5}, "seed must be an integer, got 1.5"),
        ({"seed": True}, "seed must be a finite number of at least 0, got True"),
        ({"score_fn": 0.9}, "score_fn must be a function of a network, got 0.9"),
        ({"train_fn": "sgd"}, "train_fn must be a function of a network, got 'sgd'"),
    ],
)
def test_arguments_of_wrong_types_are_refused_before_anything_is_scored(task, options, message):
    def never(module):
        raise AssertionError

    with pytest.raises(InputError, match=message):
        find(task, budgets(task[1], 0.8), **{"score_fn": never, **options})


def test_what_is_no_model_is_refused(task):
    with pytest.raises(InputError, match=r"model must be a torch.nn.Module, got str"):
        find(("resnet18", *task[1:]), budgets(task[1], 0.8))


@pytest.mark.parametrize(
    ("budgets_ns", "message"),
    [
        ([], "budgets_ns is empty: give at least one"),
        (1000, "budgets_ns must be a list of whole numbers of nanoseconds, got 1000"),
        ([1000, 2.5], r"budgets_ns\[1\] must be a whole number of nanoseconds.*got 2.5"),
        ([True], r"budgets_ns\[0\] must be a whole number of nanoseconds.*got True"),
        ([-5], r"budgets_ns\[0\] must be a whole number of nanoseconds.*got -5"),
        ("80%", r"budgets_ns\[0\] must be a whole number of nanoseconds.*got '8'"),
        ([2**63], r"budgets_ns\[0\] must be a whole number of nanoseconds, from 0 to 2\^63 - 1"),
    ],
)
def test_budgets_that_are_none_are_refused_before_anything_is_scored(task, budgets_ns, message):
    def never(module):
        raise AssertionError

    with pytest.raises(InputError, match=message):
        find(task, budgets_ns, score_fn=never)


def test_budgets_may_be_whole_numbers_of_numpy(task):
    budgets_ns = budgets(task[1], 0.8)
    assert find(task, np.array(budgets_ns)).plans == find(task, budgets_ns).plans


def test_an_importance_that_overflows_names_the_candidate_and_the_scores(task):
    def scaled(module):
        return -1e6 if module.meta["layermerge"].plan == ORIGINAL else -2e5

    message = (
        r"candidate \S+ scores -200000, and the original network -1e\+06: objective 'exp_delta' "
        r"gives inf for a change of the score by 800000.*'exp_relative'.*or 'delta'"
    )
    budgets_ns = budgets(task[1], 0.8)
    with pytest.raises(InputError, match=message):
        find(task, budgets_ns, score_fn=scaled)
    with pytest.raises(InputError, match=message):
        make_plan(task[1], estimate_all(task, scaled), budgets_ns[0])
    for objective in ("delta", "exp_relative"):
        find(task, budgets_ns, score_fn=scaled, options=SearchOptions(objective=objective))


def test_a_bound_that_overflows_says_so(task):
    def scaled(module):
        return -400.0 if module.meta["layermerge"].plan == ORIGINAL else 0.0

    with pytest.raises(InputError, match="gives inf for a change of the score by 800"):
        find(task, budgets(task[1], 0.7), score_fn=scaled)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda delta, base: None, "must return an array of one importance for each .*got None"),
        (lambda delta, base: delta[:1], "must return an array of one importance for each"),
        (lambda delta, base: ["a"] * len(delta), "must return an array of one importance for"),
        (
            lambda delta, base: np.log(delta),
            "gives -inf for a change of the score by 0: it must be",
        ),
        (lambda delta, base: 1 / 0, "fails on an array of changes .*: ZeroDivisionError"),
        (lambda delta: delta, "fails on an array of changes .*: TypeError"),
        (lambda delta, base: -delta, "must not decrease: it gives .* for a change of the score"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_an_objective_that_is_none_is_refused(task, objective, message):
    options = SearchOptions(objective=objective)
    with pytest.raises(InputError, match=message):
        find(task, budgets(task[1], 0.8), options=options)


def test_an_objective_may_work_in_place(task):
    def doubled(delta, base):
        delta *= 2
        return delta

    parts = budgets(task[1], 0.7)
    found, expected = (
        find(task, parts, options=SearchOptions(objective=objective)).plans[0].segments
        for objective in (doubled, "delta")
    )
    assert [each.kept for each in found] == [each.kept for each in expected]


@pytest.mark.parametrize(("base", "count"), [(0.9, 0), (-0.9, 0), (91.0, 1), (-2.3, 1)])
def test_scores_that_are_no_fractions_are_warned_of(task, caplog, base, count):
    find(task, budgets(task[1], 1.0), score_fn=lambda module: base)
    assert caplog.text.count("exp_delta is for scores between 0 and 1") == count


def test_a_ranking_that_fails_everywhere_ends_the_search_soon(task):
    calls = []

    def fails(module):
        calls.append(module)
        return [][0]

    failing = ShortFineTune(score, fails, name="failing")
    with pytest.raises(LayerMergeError, match=r"none of the 4 candidates could be .*IndexError"):
        find(task, budgets(task[1], 0.8), order_by=failing)
    assert len(calls) == 4 * ATTEMPTS


def test_a_network_of_several_inputs_has_no_calibration(task):
    model, profile = task
    spec = profile.space.network.inputs[0]
    network = replace(profile.space.network, inputs=(spec, replace(spec, name="time")))
    with pytest.raises(InputError, match="for networks with one input, and this one takes input, "):
        check_batches("calibration", CALIBRATION, model, network)


def test_a_damaged_status_is_refused_in_a_sentence(task):
    with Study() as study:
        find(task, budgets(task[1], 0.8), study=study)
        whole = json.loads(study.artefact(KEY))
        assert load_status(study).round > 0
        for damaged in (
            b"\xff\xfe",
            b"[]",
            b"{}",
            b"[" * 10**5,
            json.dumps({**whole, "base": "high"}).encode(),
            json.dumps({**whole, "slots": 0}).encode(),
            json.dumps({**whole, "more": 0}).encode(),
            json.dumps({**whole, "plans": [{"budget_ns": 1}]}).encode(),
        ):
            study.add_artefact(KEY, damaged)
            with pytest.raises(InputError, match=r"does not say where its search stands .* run"):
                load_status(study)


def test_workers_that_every_candidate_kills_end_the_search_soon(task):
    with pytest.raises(LayerMergeError, match=r"none of the 4 .* 3 workers were lost"):
        find(task, budgets(task[1], 0.6), executor=_Losing(), options=SearchOptions(margins=WIDE))


class _Losing:
    """Loses all workers over every candidate."""

    @contextmanager
    def open(self, job):
        yield (lambda candidates: ((each, lost(0.1)) for each in candidates)), 1
