from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError, LayerMergeError
from layermerge.finetuning import FinetuneSettings, finetune, score_classification
from layermerge.fingerprints import fingerprint_model
from layermerge.importance.estimation import estimate_importance
from layermerge.importance.scores import ImportanceScores
from layermerge.plan import replace_segment
from layermerge.rewriting import rewrite
from layermerge.store import Study
from layermerge.tracing import trace
from networks import striped_images, tiny_classifier

HERE = Path(__file__).parent
TRAIN, HELD_OUT = striped_images(96), striped_images(120, seed=1)


def train_fn(module):
    finetune(module, TRAIN, FinetuneSettings(steps=3, batch_size=32), progress=False)


def score_fn(module):
    return score_classification(module, [HELD_OUT])


@pytest.fixture(scope="module")
def traced():
    model = tiny_classifier()
    finetune(model, TRAIN, FinetuneSettings(epochs=10, batch_size=32, learning_rate=1e-2))
    network = trace(model, torch.zeros(2, 1, 8, 8))
    return model, network, enumerate_candidates(network)


def estimate(traced, **options):
    return estimate_importance(*traced, **{"score_fn": score_fn, "train_fn": train_fn, **options})


def replacements(space):
    return [candidate for candidate in space.candidates if not candidate.is_original]


class Calls:
    """Counts calls, and fails at some of them."""

    def __init__(self, function, failing=lambda call: None):
        self.function, self.failing, self.count = function, failing, 0

    def __call__(self, module):
        self.count += 1
        outcome = self.failing(self.count)
        if isinstance(outcome, BaseException):
            raise outcome
        return self.function(module) if outcome is None else outcome


def test_the_base_is_the_score_of_the_original_network(traced):
    assert estimate(traced).base == score_fn(traced[0])


def test_every_replacement_is_scored_and_no_original(traced):
    scores = estimate(traced)
    assert scores.raw.keys() == {candidate.key for candidate in replacements(traced[2])}
    assert all(scores.delta(candidate) == 0 for candidate in traced[2].original)


def test_without_training_a_score_is_that_of_the_rewritten_network(traced):
    model, network, space = traced
    scores = estimate(traced, train_fn=lambda module: None)
    for candidate in replacements(space):
        rewritten = rewrite(model, replace_segment(network, candidate))
        assert scores.raw[candidate.key] == score_fn(rewritten)


def test_training_a_replacement_leaves_the_model_alone(traced):
    before = fingerprint_model(traced[0])
    assert estimate(traced).network == traced[1].fingerprint
    assert fingerprint_model(traced[0]) == before


def test_equal_seeds_give_equal_scores_whatever_the_global_random_state(traced):
    def random_score(module):
        return torch.rand(1).item()

    torch.manual_seed(1)
    first = estimate(traced, score_fn=random_score, seed=3)
    torch.manual_seed(2)
    assert estimate(traced, score_fn=random_score, seed=3) == first
    assert estimate(traced, score_fn=random_score, seed=4) != first


def test_an_interrupted_estimation_resumes_and_evaluates_nothing_twice(traced, tmp_path):
    whole = estimate(traced)
    interrupted = Calls(train_fn, lambda call: KeyboardInterrupt() if call == 3 else None)
    with pytest.raises(KeyboardInterrupt):
        estimate(traced, train_fn=interrupted, study=tmp_path / "run.db")
    resumed, scoring = Calls(train_fn), Calls(score_fn)
    scores = estimate(traced, train_fn=resumed, score_fn=scoring, study=tmp_path / "run.db")
    assert scores == whole
    assert interrupted.count == 3
    assert resumed.count == len(replacements(traced[2])) - 2
    assert scoring.count == resumed.count + 1  # the original network, to compare


def test_a_killed_estimation_resumes_and_evaluates_nothing_twice(tmp_path):
    script = (
        "import sys, test_importance as t\n"
        "def train(module):\n"
        "    print('train', flush=True)\n"
        "    t.train_fn(module)\n"
        "model = t.tiny_classifier()\n"
        "network = t.trace(model, t.torch.zeros(2, 1, 8, 8))\n"
        "space = t.enumerate_candidates(network)\n"
        "t.estimate((model, network, space), train_fn=train, study=sys.argv[1])\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run.db")]
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    killed = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    for _ in range(3):
        assert killed.stdout.readline() == "train\n"
    os.kill(killed.pid, signal.SIGKILL)
    started = 3 + killed.communicate()[0].count("train")
    resumed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    model = tiny_classifier()
    space = enumerate_candidates(trace(model, torch.zeros(2, 1, 8, 8)))
    # Only the evaluation that the kill cut short is begun again.
    again = started + resumed.stdout.count("train") - len(replacements(space))
    assert again in (0, 1)


@pytest.mark.parametrize("change", [{"estimator": "another"}, {"seed": 1}])
def test_another_estimator_is_evaluated_anew(traced, change):
    with Study() as study:
        estimate(traced, study=study)
        training = Calls(train_fn)
        estimate(traced, study=study, train_fn=training, **change)
    assert training.count == len(replacements(traced[2]))


def test_other_weights_are_evaluated_anew(traced):
    other = tiny_classifier(seed=5)
    with Study() as study:
        estimate(traced, study=study)
        training = Calls(train_fn)
        estimate((other, *traced[1:]), study=study, train_fn=training)
    assert training.count == len(replacements(traced[2]))


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (math.nan, "score_fn must return a finite number, got nan"),
        (RuntimeError("out of memory"), "out of memory"),
    ],
)
def test_a_candidate_that_fails_twice_is_recorded_and_the_rest_goes_on(traced, outcome, reason):
    whole = estimate(traced)
    first, *rest = replacements(traced[2])
    scoring = Calls(score_fn, lambda call: outcome if call in (2, 3) else None)
    with Study() as study:
        scores = estimate(traced, score_fn=scoring, study=study)
        training = Calls(train_fn)
        assert estimate(traced, train_fn=training, study=study) == scores
    assert reason in scores.failures[first.key]
    assert scores.delta(first) == -math.inf
    assert not scores.is_available(first)
    assert {c.key: scores.raw[c.key] for c in rest} == {c.key: whole.raw[c.key] for c in rest}
    assert training.count == 0


def test_a_candidate_that_fails_once_is_tried_again(traced):
    training = Calls(train_fn, lambda call: ValueError("diverged") if call == 1 else None)
    scores = estimate(traced, train_fn=training)
    assert scores.failures == {}
    assert training.count == len(replacements(traced[2])) + 1


@pytest.mark.parametrize("skip", ["a", ["a"], [None]])
def test_what_is_skipped_must_be_candidates(traced, skip):
    with pytest.raises(InputError, match="skip must be candidates of the space, got"):
        estimate(traced, skip=skip)


def test_no_candidate_that_can_be_scored_is_an_error(traced):
    def broken(module):
        raise ValueError("no data")

    line = broken.__code__.co_firstlineno + 1
    message = rf"none of the .* could be scored; .*no data \({__file__}, line {line}\)\. Mend"
    with Study() as study:
        with pytest.raises(LayerMergeError, match=message):
            estimate(traced, train_fn=broken, study=study)
        assert estimate(traced, train_fn=train_fn, study=study).failures == {}


def test_an_original_network_without_a_score_is_an_error_that_is_not_kept(traced):
    with Study() as study:
        with pytest.raises(InputError, match="score_fn must return a finite number, got nan"):
            estimate(traced, score_fn=lambda module: math.nan, study=study)
        assert estimate(traced, study=study).base == score_fn(traced[0])


def test_skipped_candidates_are_neither_trained_nor_available(traced):
    skip = frozenset(replacements(traced[2])[:2])
    training = Calls(train_fn)
    scores = estimate(traced, train_fn=training, skip=skip)
    assert training.count == len(replacements(traced[2])) - 2
    assert scores.skipped == {candidate.key for candidate in skip}
    assert not any(map(scores.is_available, skip))
    assert {scores.of(candidate) for candidate in skip} == {-math.inf}


def test_the_objectives_are_the_change_and_its_exponential(traced):
    candidate, other = replacements(traced[2])[:2]
    scores = ImportanceScores(0.9, {candidate.key: 0.7}, {other.key: "diverged"}, frozenset())
    assert scores.of(candidate, "delta") == pytest.approx(-0.2)
    assert scores.of(candidate) == pytest.approx(math.exp(-0.2))
    assert scores.of(traced[2].original[0]) == 1.0
    assert scores.of(other) == scores.of(other, "delta") == -math.inf


def test_an_unknown_objective_is_refused(traced):
    scores = ImportanceScores(0.9, {}, {}, frozenset())
    with pytest.raises(
        InputError, match=r"objective must be one of exp_delta, delta, exp_relative, .*got 'log'"
    ):
        scores.of(traced[2].original[0], "log")


def test_a_candidate_of_another_space_is_refused(traced):
    scores = ImportanceScores(0.9, {}, {}, frozenset())
    with pytest.raises(InputError, match="another candidate space"):
        scores.delta(replacements(traced[2])[0])


def test_the_weights_fingerprint_sees_every_tensor():
    model = tiny_classifier()
    seen = {fingerprint_model(model)}
    for tensor in model.state_dict().values():
        tensor.view(-1)[0] += 1
        seen.add(fingerprint_model(model))
    assert len(seen) == 1 + len(model.state_dict())


@pytest.mark.parametrize("returned", [None, "0.9", torch.zeros(2)])
def test_a_score_that_is_no_number_names_score_fn(traced, returned):
    with pytest.raises(InputError, match="score_fn must return a finite number, got"):
        estimate(traced, score_fn=lambda module: returned)


def test_a_score_fn_that_raises_on_the_original_network_is_named(traced):
    def fail(module):
        raise KeyError("labels")

    with pytest.raises(InputError, match=r"score_fn failed on the original.*KeyError") as caught:
        estimate(traced, score_fn=fail)
    assert isinstance(caught.value.__cause__, KeyError)


def test_candidates_to_skip_may_come_from_a_generator(traced):
    first = replacements(traced[2])[0]
    scores = estimate(traced, train_fn=None, skip=(each for each in [first]))
    assert first.key in scores.skipped
    assert first.key not in scores.raw


@pytest.mark.parametrize("skip", [3, "all", [[1]], [None]])
def test_what_is_no_candidate_to_skip_is_refused(traced, skip):
    with pytest.raises(InputError, match="skip must be candidates of the space"):
        estimate(traced, skip=skip)


def test_candidates_of_another_network_are_refused(traced):
    other = trace(tiny_classifier()[:-2], torch.zeros(2, 1, 8, 8))
    assert other.fingerprint != traced[1].fingerprint
    with pytest.raises(InputError, match="space is of another network"):
        estimate((traced[0], traced[1], enumerate_candidates(other)))


def test_statistics_of_a_batch_norm_that_diverged_are_a_failure():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 3, 8),
        torch.nn.Flatten(),
    ).eval()

    def spoil(module):
        for each in module.modules():
            if isinstance(each, torch.nn.BatchNorm2d):
                each.running_mean.fill_(float("nan"))

    network = trace(model, torch.zeros(2, 1, 8, 8))
    space = enumerate_candidates(network)
    has_norm = {
        c.key: any(
            isinstance(each, torch.nn.BatchNorm2d)
            for each in rewrite(model, replace_segment(network, c)).modules()
        )
        for c in replacements(space)
    }
    assert {*has_norm.values()} == {True, False}
    scores = estimate((model, network, space), train_fn=spoil, score_fn=lambda _: 1.0)
    assert scores.failures.keys() == {key for key, has in has_norm.items() if has}
    assert all("diverged: running_mean of" in why for why in scores.failures.values())


def test_modes_that_a_callback_changes_are_put_back(traced):
    def careless(module):
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)

    def score(module):
        assert torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float32
        careless(module)
        return 1.0

    scores = estimate(traced, train_fn=careless, score_fn=score)
    assert not scores.failures
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


def test_scores_of_an_earlier_run_are_told_unless_they_have_a_name(traced, tmp_path, caplog):
    skip = replacements(traced[2])[1:]
    for name, is_told in (("custom", False), ("custom", True), ("mine", False), ("mine", False)):
        caplog.clear()
        estimate(traced, study=tmp_path / "run.db", estimator=name, skip=skip)
        assert ("scores of an earlier run on this study count" in caplog.text) == is_told


def test_what_is_no_candidate_has_no_importance(traced):
    scores = ImportanceScores(0.5, {}, {}, frozenset())
    with pytest.raises(InputError, match="candidate must be a Candidate, got str"):
        scores.of("0-2:3x3:1")
