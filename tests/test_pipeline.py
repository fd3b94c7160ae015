from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from torch import nn

from layermerge.errors import InfeasibleError, InputError, LayerMergeError
from layermerge.finetuning import FinetuneSettings, finetune, score_classification
from layermerge.fingerprints import fingerprint_model
from layermerge.importance import status
from layermerge.importance.estimation import ENOUGH_FAILURES
from layermerge.importance.search_options import SearchOptions
from layermerge.latency.options import LatencyOptions, Roofline
from layermerge.options import Options
from layermerge.pipeline import compress
from layermerge.search_space import SearchSpace
from layermerge.store import Study
from networks import Residual, images, relative_error, striped_images

TRAIN, VALIDATION, TEST = (striped_images(n, seed) for seed, n in enumerate((256, 120, 120)))
TRAIN_PART = tuple(part[:64] for part in TRAIN)
EXAMPLE = torch.zeros(16, 1, 8, 8)
LATENCY = LatencyOptions(threads=1, target_rsd=0.2, max_seconds=1.5)
OPTIONS = Options(latency=LATENCY, space=SearchSpace(max_kernel=5), score_name="accuracy")
NUM_LAYERS = 5


class Counted:
    """A function of a module that counts its calls."""

    def __init__(self, function):
        self.function, self.count = function, 0

    def __call__(self, module):
        self.count += 1
        return self.function(module)


def train(module):
    finetune(module, TRAIN, FinetuneSettings(steps=3, batch_size=32), progress=False)


def score(module):
    return score_classification(module, [VALIDATION])


def evaluate(module):
    return score_classification(module, [TEST])


def run(model, **changed):
    arguments = {"score_fn": score, "train_fn": train, "options": OPTIONS}
    if not changed.keys() & {"speedup", "latency_ms", "fraction"}:
        arguments["fraction"] = 0.9
    return compress(model, EXAMPLE, **{**arguments, **changed})


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            Residual(8),
            Residual(8),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 3),
        )
    finetune(model, TRAIN, FinetuneSettings(epochs=3, batch_size=32, learning_rate=1e-2))
    return model


@pytest.fixture(scope="module")
def first_run(model, tmp_path_factory):
    """A compression, the study it left, and how often each callback was called."""
    study = tmp_path_factory.mktemp("first") / "study.db"
    counts = {
        "train_fn": Counted(train),
        "score_fn": Counted(score),
        "finetune_fn": Counted(train),
        "evaluate_fn": Counted(evaluate),
    }
    before = fingerprint_model(model)
    compression = run(model, study=study, **counts)
    assert fingerprint_model(model) == before
    return compression, study, {name: counted.count for name, counted in counts.items()}


def convolutions_run(module):
    """FLOPs and number of the convolutions that run on one image."""
    found = []

    def count(conv, inputs, output):
        taps = conv.weight[0].numel()
        found.append(2 * taps * output[0].numel())

    hooks = [
        conv.register_forward_hook(count)
        for conv in module.modules()
        if isinstance(conv, nn.Conv2d)
    ]
    module(EXAMPLE[:1])
    for hook in hooks:
        hook.remove()
    return sum(found), len(found)


def rows(study, table):
    """Rows of a study, time stamps included; where the search stands is written anew each time."""
    with sqlite3.connect(f"file:{study}?mode=ro", uri=True) as connection:
        rows = connection.execute(f"SELECT * FROM {table}")
        found = {row for row in rows if row[0] != status.KEY}
    connection.close()
    return found


def test_the_figures_are_those_of_the_networks(first_run):
    compression, *_ = first_run
    for figures, module in (
        (compression.result.base, compression.base),
        (compression.result.compressed, compression.model),
    ):
        assert (figures.flops, figures.layers) == convolutions_run(module)
        assert figures.parameters == sum(p.numel() for p in module.parameters())
        assert figures.score == evaluate(module)
    assert compression.result.base.layers == NUM_LAYERS
    assert compression.result.compressed.layers < NUM_LAYERS


def test_the_base_is_the_model_with_its_norms_folded(first_run, model):
    base, value = first_run[0].base, images(4, 1, 8, 8)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in base.modules())
    assert relative_error(base(value), model(value)) < 1e-5


def test_the_budget_and_whether_it_was_kept_are_as_measured(first_run):
    result = first_run[0].result
    assert result.budget_ns == int(result.base.latency_ns * 0.9)
    assert result.is_within_budget == (result.compressed.latency_ns <= result.budget_ns)
    assert result.speedup == result.base.latency_ns / result.compressed.latency_ns
    assert result.provenance["budget"] == "90% of the original latency"


def test_the_prediction_keeps_the_budget_that_was_asked_for(first_run):
    plan, result = first_run[0].plan, first_run[0].result
    assert plan.latency_ns == result.compressed.predicted_ns
    assert plan.latency_ns <= plan.budget_ns == int(result.base.predicted_ns * 0.9)


def test_the_steps_are_the_plan_and_cover_the_network(first_run):
    compression, *_ = first_run
    steps = [step for step in compression.result.steps if not step.is_barrier]
    assert [(s.start, s.end) for s in steps] == [
        (s.start, s.end) for s in compression.plan.segments
    ]
    assert (steps[0].start, steps[-1].end) == (0, NUM_LAYERS)
    assert len({name for step in steps for name in step.names}) == NUM_LAYERS
    for step, segment in zip(steps, compression.plan.segments, strict=True):
        assert len(step.kept) == len(segment.kept)
        assert set(step.kept) <= set(step.names)
        assert step.after_ns == segment.latency_ns
        assert step.before_ns == sum(step.name_ns)


def test_the_steps_add_up_to_the_prediction(first_run):
    result = first_run[0].result
    for total, figures in (
        (sum(step.before_ns for step in result.steps), result.base),
        (sum(step.after_ns for step in result.steps), result.compressed),
    ):
        assert figures.predicted_ns == pytest.approx(total * result.calibration, abs=1)


def test_barriers_stand_where_they_run(first_run):
    barriers = [step for step in first_run[0].result.steps if step.is_barrier]
    assert {step.description for step in barriers} >= {"MaxPool2d", "Linear"}
    assert all(step.start == NUM_LAYERS and step.before_ns == step.after_ns for step in barriers)


def test_the_merged_network_is_the_rewritten_one_and_verified(first_run):
    compression, *_ = first_run
    value = images(8, 1, 8, 8, dtype=torch.float64)
    merged, rewritten = (
        module(value.float()) for module in (compression.model, compression.rewritten)
    )
    assert relative_error(merged, rewritten) < 1e-5
    assert 0 <= compression.result.float64_error < 1e-12
    assert 0 < compression.result.merge_error < 1e-5
    assert not any(module.training for module in compression.model.modules())


def test_every_stage_is_timed(first_run):
    seconds = first_run[0].result.seconds
    assert list(seconds) == [
        *("trace", "latency", "importance", "plan", "finetune", "merge", "evaluate")
    ]
    assert all(value >= 0 for value in seconds.values())


def test_each_callback_is_called_for_its_purpose_alone(first_run):
    compression, study, counts = first_run
    result = compression.result
    num_plans = sum("plan &" in key for _, _, key, *_ in rows(study, "scores"))
    assert counts["finetune_fn"] == 1
    assert counts["evaluate_fn"] == 2
    assert counts["train_fn"] == result.num_scored + num_plans > num_plans > 1
    assert counts["score_fn"] == 1 + result.num_scored + num_plans
    replacements = result.num_candidates - NUM_LAYERS
    assert result.num_scored + result.num_unprofitable + result.num_failed <= replacements
    assert f"{result.num_scored} of {replacements - result.num_unprofitable}" in (
        compression.plan.certificate
    )


def test_a_second_run_measures_and_trains_nothing_twice(first_run, model):
    compression, study, _ = first_run
    before = {table: rows(study, table) for table in ("measurements", "scores", "artefacts")}
    training, scoring = Counted(train), Counted(score)
    again = run(model, study=study, train_fn=training, score_fn=scoring)
    assert {table: rows(study, table) for table in before} == before
    assert all(before.values())
    assert training.count == 0
    assert scoring.count == 3  # base and result, and the original for the search
    assert again.plan == compression.plan
    for name, tensor in compression.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
    assert again.result.calibration == compression.result.calibration
    assert again.result.base.predicted_ns == compression.result.base.predicted_ns


def test_another_fine_tune_by_name_is_done_anew(first_run, model):
    training = Counted(train)
    renamed = replace(OPTIONS, finetuner="another")
    run(model, study=first_run[1], finetune_fn=training, options=renamed)
    assert training.count == 1


def test_another_budget_needs_no_new_measurement(first_run, model):
    _, study, _ = first_run
    options = replace(OPTIONS, search=replace(OPTIONS.search, contest=False))
    training = Counted(train)
    run(model, study=study, latency_ms=1e6, train_fn=training, options=options)
    assert training.count == 1


def test_a_study_may_be_held_open_by_the_caller(model, first_run):
    with Study(first_run[1]) as study:
        training = Counted(train)
        run(model, study=study, train_fn=training)
        assert training.count == 0
        assert study.path == str(first_run[1])


@pytest.mark.parametrize("budget", [{"speedup": 1000.0}, {"latency_ms": 1e-5}, {"fraction": 1e-4}])
def test_an_infeasible_budget_says_the_least_latency_before_any_fine_tune(model, first_run, budget):
    never = Counted(train)
    functions = {"train_fn": never, "finetune_fn": never, "score_fn": never}
    with pytest.raises(InfeasibleError) as caught:
        run(model, study=first_run[1], **functions, evaluate_fn=evaluate, **budget)
    assert never.count == 0
    stated = re.search(r"the fastest is predicted to take ([\d.]+) ms", str(caught.value))
    assert stated
    assert float(stated[1]) == pytest.approx(caught.value.least_latency_ns / 1e6, rel=1e-3)
    base = first_run[0].result.base
    assert 0 < caught.value.least_latency_ns < base.predicted_ns


def test_what_cannot_be_evaluated_fails_before_anything_is_measured(model, tmp_path):
    def fail(module):
        raise ArithmeticError("no data")

    with pytest.raises(ArithmeticError):
        run(model, study=tmp_path / "study.db", evaluate_fn=fail)
    assert rows(tmp_path / "study.db", "measurements") == set()


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"speedup": 2, "latency_ms": 1}, "give one of latency_ms, fraction and speedup"),
        ({"speedup": 0}, "speedup must be a number greater than 0, got 0"),
    ],
)
def test_a_wrong_budget_is_refused_before_anything_is_done(model, budget, message):
    never = Counted(train)
    with pytest.raises(InputError, match=message):
        run(model, train_fn=never, score_fn=never, **budget)
    assert never.count == 0


def test_options_reach_the_search(model, first_run):
    with pytest.raises(InputError, match="frozen names layer 9"):
        run(model, options=replace(OPTIONS, space=SearchSpace(frozen=(9,), max_kernel=5)))
    options = replace(OPTIONS, space=SearchSpace(frozen=(1, 2, 3), max_kernel=5))
    frozen = run(model, options=options, study=first_run[1], latency_ms=1e6)
    assert all(segment.is_original for segment in frozen.plan.segments if segment.end <= 3)
    assert frozen.result.num_candidates < first_run[0].result.num_candidates


def test_a_closed_form_start_is_trained_as_the_merged_network(model, first_run):
    options = replace(OPTIONS, init="least_squares")
    found = run(model, calibration=[TRAIN_PART], options=options, study=first_run[1])
    assert found.model is found.rewritten
    assert not any(isinstance(module, nn.BatchNorm2d) for module in found.model.modules())
    assert found.result.compressed.score > found.result.base.score - 0.1
    assert found.result.provenance["init"] == "least_squares"
    again = run(model, calibration=[TRAIN_PART], options=options, study=first_run[1])
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])


@pytest.mark.parametrize("is_ranked", [True, False])
def test_candidates_are_ranked_if_there_is_data_unless_told_otherwise(model, tmp_path, is_ranked):
    options, study = replace(OPTIONS, is_ranked=is_ranked), tmp_path / "study.db"
    run(model, calibration=[TRAIN_PART], options=options, study=study)
    with closing(sqlite3.connect(study)) as connection:
        names = [name for (name,) in connection.execute("SELECT estimator FROM scores")]
    assert any("closed form error" in name for name in names) == is_ranked


def test_a_closed_form_start_without_data_is_refused_before_anything_is_done(model):
    never = Counted(train)
    with pytest.raises(InputError, match="needs calibration data"):
        run(model, train_fn=never, score_fn=never, options=replace(OPTIONS, init="least_squares"))
    assert never.count == 0


def test_a_full_search_evaluates_every_candidate_that_is_faster(model, first_run):
    options = replace(OPTIONS, search=SearchOptions(full=True))
    result = run(model, options=options, study=first_run[1]).result
    replacements = result.num_candidates - NUM_LAYERS
    assert result.num_scored + result.num_unprofitable + result.num_failed == replacements


def raises(module):
    raise KeyError("labels")


def test_training_that_always_fails_is_told_from_an_infeasible_budget(model):
    failing = Counted(raises)
    message = r"none of the \d+ candidates could be scored; the first failed with .*labels"
    with pytest.raises(LayerMergeError, match=message):
        run(model, train_fn=failing)
    assert failing.count <= 2 * (ENOUGH_FAILURES + 1)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ({"train_fn": None}, "train_fn must be a function of a network, got None"),
        ({"evaluate_fn": lambda module: None}, "must return a finite number, got None"),
        ({"evaluate_fn": lambda module: float("nan")}, "must return a finite number, got nan"),
    ],
)
def test_bad_callbacks_are_refused_before_anything_is_trained(model, callbacks, message):
    training = Counted(train)
    with pytest.raises(InputError, match=message):
        run(model, **{"train_fn": training, **callbacks})
    assert training.count == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "ray"}, r"executor must be an object such as Serial\(\), Processes"),
        ({"seed": 2**32}, r"seed must be at most 2\^32 - 1, got 4294967296"),
        ({"search": "full"}, r"search must be SearchOptions\(...\), got 'full'"),
        ({"space": None}, r"space must be SearchSpace\(...\), got None"),
        ({"latency": LatencyOptions}, r"latency must be LatencyOptions\(...\), got <class"),
        ({"seed": "0"}, "seed must be a finite number of at least 0, got '0'"),
        ({"estimator": None}, "estimator must be text, got None"),
    ],
)
def test_options_of_wrong_types_are_refused_when_they_are_made(options, message):
    with pytest.raises(InputError, match=message):
        Options(**options)


def test_calibration_data_is_checked_before_anything_is_measured(model):
    never = Counted(train)
    with pytest.raises(InputError, match="calibration is a generator, which is used up after one"):
        run(model, train_fn=never, score_fn=never, calibration=(x for x in [TRAIN_PART]))
    assert never.count == 0


def test_a_final_fine_tune_that_changes_the_precision_is_told(model, first_run):
    message = r"finetune_fn \(or train_fn\) must train in place.* was float32 .*, and is float16"
    with pytest.raises(LayerMergeError, match=message):
        run(
            model,
            study=first_run[1],
            finetune_fn=lambda module: module.half(),
            options=replace(OPTIONS, finetuner="halving"),
        )


def test_weights_of_any_layout_are_kept(model, first_run):
    def tune(module):
        module.to(memory_format=torch.channels_last)
        train(module)

    options = replace(OPTIONS, finetuner="channels last")
    found = run(model, study=first_run[1], finetune_fn=tune, options=options)
    again = run(model, study=first_run[1], finetune_fn=tune, options=options)
    assert relative_error(again.model(EXAMPLE + 1), found.model(EXAMPLE + 1)) < 1e-5


def hooked(module):
    module.register_forward_hook(lambda module, inputs, output: 0.5 * output)


def of_another_eps(module):
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.eps = 1.0


def of_another_activation(module):
    for node in module.graph.nodes:
        if node.op == "call_module" and isinstance(module.get_submodule(node.target), nn.ReLU):
            module.set_submodule(node.target, nn.Tanh())


@pytest.mark.parametrize("change", [hooked, of_another_eps, of_another_activation])
def test_a_final_fine_tune_that_changes_more_than_weights_is_told(model, first_run, change):
    options = replace(OPTIONS, finetuner=change.__name__)
    again = {"study": first_run[1], "options": options}
    with pytest.raises(LayerMergeError, match=r"finetune_fn .*(weights alone|leaves a hook)"):
        run(model, finetune_fn=change, **again)
    assert run(model, **again).result.compressed.score > 0  # nothing of it was kept


def test_weights_of_an_earlier_fine_tune_are_told(model, tmp_path, caplog):
    study = tmp_path / "run.db"
    run(model, study=study)
    assert "those of an earlier run" not in caplog.text
    changed = Counted(train)
    run(model, study=study, finetune_fn=changed)
    assert changed.count == 0
    assert "give another study, or Options(finetuner=...) another name" in caplog.text
    run(model, study=study, finetune_fn=changed, options=replace(OPTIONS, finetuner="longer"))
    assert changed.count == 1


def test_a_budget_leaves_a_margin_for_noise_where_there_is_any():
    assert LATENCY.margin == LATENCY.target_rsd == 0.2
    computed = LatencyOptions(backend="analytic", roofline=Roofline(1.0, 100.0))
    assert computed.margin == 0


@pytest.mark.parametrize("name", ["estimator", "finetuner"])
def test_names_are_not_empty(name):
    with pytest.raises(InputError, match=f"{name} must be a name, got an empty text"):
        Options(**{name: ""})


def test_options_of_another_type_are_named(model):
    with pytest.raises(InputError, match="options must be an Options, got NoneType"):
        run(model, options=None)


def test_a_full_search_says_how_far_it_is(model, tmp_path):
    study, seen = tmp_path / "run.db", []

    def score_and_look(module):
        with Study(study) as other:
            content = other.artefact(status.KEY)
        if content is not None:
            seen.append(status.load_status(Study(study)))
        return score(module)

    options = replace(OPTIONS, search=SearchOptions(full=True, contest=False))
    found = run(model, study=study, score_fn=score_and_look, options=options)
    assert {*range(found.result.num_scored)} <= {each.evaluated for each in seen}
    assert all(each.eta_s > 0 for each in seen if 0 < each.evaluated < found.result.num_scored)
