from __future__ import annotations

import copy
import json
import math
import pickle
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import callbacks
from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError, LayerMergeError
from layermerge.finetuning import FinetuneSettings, finetune
from layermerge.fingerprints import fingerprint_model
from layermerge.importance.activations import record
from layermerge.importance.estimation import estimate_importance
from layermerge.importance.estimators import Estimator, ShortFineTune, finite_score
from layermerge.importance.evaluation import ATTEMPTS, Job
from layermerge.importance.proxies import ClosedForm, FirstOrderTaylor, OutputError
from layermerge.plan import original_plan, replace_segment
from layermerge.rewriting import rewrite, rewriting_of
from layermerge.tracing import trace
from networks import striped_images, tiny_classifier

TRAIN = striped_images(64)
CALIBRATION = [(TRAIN[0][:32], TRAIN[1][:32]), (TRAIN[0][32:], TRAIN[1][32:])]


@pytest.fixture(scope="module")
def traced():
    model = tiny_classifier()
    finetune(model, TRAIN, FinetuneSettings(epochs=10, batch_size=32, learning_rate=1e-2))
    network = trace(model, torch.zeros(2, 1, 8, 8))
    return model, network, enumerate_candidates(network)


def replacements(traced):
    return [each for each in traced[2].candidates if not each.is_original and each.kept]


def composed(traced, candidate):
    return rewrite(traced[0], replace_segment(traced[1], candidate))


ESTIMATORS = {
    "fine-tune": ShortFineTune(callbacks.score, callbacks.train),
    "no training": ShortFineTune(callbacks.score, None),
    "from closed form": ShortFineTune(
        callbacks.score, callbacks.train, init="least_squares", calibration=CALIBRATION
    ),
    "output error": OutputError(CALIBRATION),
    "taylor": FirstOrderTaylor(CALIBRATION, F.cross_entropy),
    "closed form error": ClosedForm(CALIBRATION),
    "closed form score": ClosedForm(CALIBRATION, callbacks.score),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_scores_every_candidate_and_leaves_the_model_alone(traced, name):
    before = {key: value.clone() for key, value in traced[0].state_dict().items()}
    scores = estimate_importance(*traced, estimator=ESTIMATORS[name], progress=False)
    assert scores.failures == {}
    assert all(math.isfinite(value) for value in scores.raw.values())
    assert len(scores.raw) == len(traced[2].candidates) - len(traced[2].original)
    assert all(torch.equal(value, before[key]) for key, value in traced[0].state_dict().items())


def test_fingerprints_differ_are_stable_and_survive_pickling():
    fingerprints = [estimator.fingerprint for estimator in ESTIMATORS.values()]
    assert len(set(fingerprints)) == len(fingerprints)
    for estimator in ESTIMATORS.values():
        assert isinstance(estimator, Estimator)
        assert isinstance(json.loads(estimator.fingerprint), dict)
        assert pickle.loads(pickle.dumps(estimator)).fingerprint == estimator.fingerprint


def test_the_output_error_is_that_of_the_segments_output(traced):
    model, _, _ = traced
    stem = nn.Sequential(*list(model)[:3])
    block = model[3]
    (candidate,) = [c for c in replacements(traced) if (c.start, c.end, c.kept) == (1, 3, (2, 3))]
    inputs = torch.cat([batch for batch, _ in CALIBRATION])
    with torch.no_grad():
        entry = stem(inputs)
        before = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(entry))))) + entry
        # Padded once at the entry, convolved without padding.
        wide = F.conv2d(F.pad(entry, (2, 2, 2, 2)), block.conv1.weight)
        scale = block.bn1.weight / (block.bn1.running_var + block.bn1.eps).sqrt()
        wide = wide * scale[:, None, None]
        wide = wide + (block.bn1.bias - block.bn1.running_mean * scale)[:, None, None]
        after = block.bn2(F.conv2d(wide, block.conv2.weight)) + entry
    expected = -((after - before) ** 2).sum() / (before**2).sum()
    found = OutputError(CALIBRATION).score(*traced[:2], candidate)
    assert found == pytest.approx(float(expected), rel=1e-4)
    assert found < 0


def test_taylor_is_the_derivative_of_the_loss_towards_the_replaced_output(traced):
    model, network, _ = traced
    (candidate,) = [c for c in replacements(traced) if (c.start, c.end, c.kept) == (1, 3, (2, 3))]
    inputs, labels = CALIBRATION[0]
    replaced = composed(traced, candidate)
    exits = [segment.exit for segment in rewriting_of(replaced).segments]
    after = record(replaced, inputs, exits)[exits[-1]].double()
    exit = next(s.exit for s in network.segments if (s.start, s.end) == (1, 3))
    before = record(rewrite(model, original_plan(network)), inputs, {exit})[exit].double()
    tail = copy.deepcopy(model[4:]).double()

    def losses(step):
        """Each image's share of the mean loss, a step towards the replaced output."""
        outputs = tail(F.relu(before + step * (after - before)))
        return F.cross_entropy(outputs, labels, reduction="none") / len(labels)

    with torch.no_grad():
        slopes = (losses(1e-6) - losses(-1e-6)) / 2e-6
        expected = -slopes.abs().sum() / losses(0).sum()
    found = FirstOrderTaylor([CALIBRATION[0]], F.cross_entropy).score(model, network, candidate)
    assert found == pytest.approx(float(expected), rel=1e-3)
    assert found < 0


def test_reinitialising_replaces_the_one_layer_that_a_segment_keeps(traced):
    model, network, _ = traced
    seen = []
    estimator = ShortFineTune(
        callbacks.score,
        lambda module: seen.append({k: v.clone() for k, v in module.state_dict().items()}),
        reinitialise=True,
    )
    single, several = (
        next(c for c in replacements(traced) if (len(c.kept) == 1) == is_single)
        for is_single in (True, False)
    )
    for candidate in (single, several):
        estimator.score(model, network, candidate)
    name = network.layers[single.kept[0] - 1].name + ".weight"
    assert not torch.equal(seen[0][name], model.state_dict()[name])
    assert torch.equal(seen[0]["6.weight"], model.state_dict()["6.weight"])
    for layer in several.kept:
        name = network.layers[layer - 1].name + ".weight"
        assert torch.equal(seen[1][name], model.state_dict()[name])


def test_a_closed_form_start_scores_better_before_any_training(traced):
    model, network, _ = traced
    better = 0
    for candidate in replacements(traced):
        fitted = ClosedForm(CALIBRATION, callbacks.score).score(model, network, candidate)
        better += fitted - callbacks.score(composed(traced, candidate))
    assert better > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "random"}, "init must be one of composed, least_squares; got 'random'"),
        ({"init": "least_squares"}, "needs calibration data"),
        (
            {"init": "least_squares", "calibration": CALIBRATION, "reinitialise": True},
            "either init 'least_squares' or reinitialise",
        ),
        ({"ridge": float("nan")}, "ridge must be a finite number of at least 0, got nan"),
        ({"name": 3}, "name must be text, got 3"),
        ({"score_fn": None}, "score_fn must be a function of a network, got None"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ShortFineTune(**{"score_fn": callbacks.score, "train_fn": None, **options})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClosedForm(None), "calibration must be a list of batches, got None"),
        (lambda: OutputError(None), "calibration must be a list of batches, got None"),
        (lambda: ClosedForm(CALIBRATION, ridge=-1), "ridge must be .* at least 0, got -1"),
        (lambda: ClosedForm(CALIBRATION, 3), "score_fn must be a function .* got 3"),
        (lambda: FirstOrderTaylor(CALIBRATION, None), "loss_fn must be a function .* got None"),
    ],
)
def test_training_free_estimators_refuse_settings_that_do_not_fit(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_labels_that_are_no_tensors_are_named(traced):
    estimator = FirstOrderTaylor([(IMAGES, None)], F.cross_entropy)
    with pytest.raises(LayerMergeError, match="needs labels that are tensors, got None"):
        estimate_importance(*traced, estimator=estimator, progress=False)


def test_training_that_returns_another_network_is_refused(traced):
    estimator = ShortFineTune(callbacks.score, copy.deepcopy)
    with pytest.raises(LayerMergeError, match=r"train_fn returned another network .* in place"):
        estimate_importance(*traced, estimator=estimator, progress=False)


def test_an_estimator_takes_the_place_of_the_callbacks(traced):
    with pytest.raises(InputError, match="takes the place of score_fn and train_fn"):
        estimate_importance(
            *traced, score_fn=callbacks.score, estimator=ESTIMATORS["no training"], progress=False
        )
    with pytest.raises(InputError, match="give score_fn, or an estimator"):
        estimate_importance(*traced, progress=False)


class Fault:
    """Fails as training can, at the first `times` calls."""

    def __init__(self, kind, times=10**6):
        self.kind, self.left = kind, times

    def __call__(self, module):
        if self.left:
            self.left -= 1
            self.fail(module)

    def fail(self, module):
        if self.kind == "out of memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        if self.kind == "host out of memory":
            raise MemoryError
        if self.kind == "raises":
            raise KeyError("labels")
        if self.kind == "NaN loss":
            inputs, labels = TRAIN
            finetune(module, (inputs * math.nan, labels), FinetuneSettings(steps=1))
        with torch.no_grad():  # diverges in silence
            next(module.parameters()).fill_(math.inf)


def test_the_second_attempt_of_a_fine_tune_has_another_seed(traced):
    losses = []

    def train(module):
        settings = FinetuneSettings(steps=1, batch_size=16)
        losses.extend(finetune(module, TRAIN, settings, progress=False))
        raise RuntimeError("afterwards")

    job = Job(traced[0], traced[1], ShortFineTune(callbacks.score, train), 0, 1)
    candidate = replacements(traced)[0]
    job.run(candidate)
    assert len({*losses}) == 2
    job.run(candidate)
    assert losses[2:] == losses[:2]


@dataclass(frozen=True)
class Own:
    """An estimator of one's own."""

    value: object
    of_original: object = 0.0
    fingerprint: str = "own"

    def base(self, model, network):
        return self.of_original

    def score(self, model, network, candidate):
        return self.value


@pytest.mark.parametrize("value", [np.float32(0.25), torch.tensor(0.25), np.array(0.25)])
def test_a_number_of_any_kind_is_a_score_of_ones_own_estimator(traced, value, tmp_path):
    for _ in range(2):
        found = estimate_importance(
            *traced, estimator=Own(value), study=tmp_path / "study.db", progress=False
        )
        assert {*found.raw.values()} == {0.25}


@pytest.mark.parametrize("value", ["x", None, math.nan, 1j])
def test_what_is_no_score_of_ones_own_estimator_is_named(traced, value):
    message = "score of the estimator must return a finite number"
    with pytest.raises(LayerMergeError, match=message):
        estimate_importance(*traced, estimator=Own(value), progress=False)
    with pytest.raises(InputError, match=message):
        estimate_importance(*traced, estimator=Own(0.0, value), progress=False)


def test_an_original_that_teaches_is_the_same_for_every_candidate(traced):
    model, network, _ = traced

    def train(module):
        model.train()
        module.get_submodule("0").weight.data += model(TRAIN[0]).mean()
        model.eval()

    job = Job(model, network, ShortFineTune(callbacks.score, train), 0, 1)
    before = fingerprint_model(model)
    first, second, *_ = replacements(traced)
    alone = job.run(second).score
    assert job.run(first).failure is None
    assert job.run(second).score == alone
    assert fingerprint_model(model) == before


@pytest.mark.parametrize("kind", ["generator", "coroutine", "hook"])
def test_training_that_does_not_train_is_named(traced, kind):
    def generator(module):
        yield module

    async def coroutine(module):
        return module

    def hook(module):
        module.register_forward_hook(lambda *arguments: None)

    train = {"generator": generator, "coroutine": coroutine, "hook": hook}[kind]
    job = Job(traced[0], traced[1], ShortFineTune(callbacks.score, train), 0, 1)
    failure = job.run(replacements(traced)[0]).failure
    assert ("leaves a hook" if kind == "hook" else f"returned a {kind}, which has not") in failure


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_taylor_does_not_depend_on_frozen_parameters_or_the_mode(traced, mode):
    model, network, _ = traced
    estimator = FirstOrderTaylor([TRAIN], F.cross_entropy)
    candidate = replacements(traced)[0]
    expected = estimator.score(model, network, candidate)
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert estimator.base(frozen, network) == 0.0
    assert estimator.score(frozen, network, candidate) == pytest.approx(expected)
    with torch.no_grad():
        assert estimator.base(model, network) == 0.0
        assert estimator.score(model, network, candidate) == pytest.approx(expected)


def test_taylor_of_a_negative_loss_is_relative_to_its_size(traced):
    model, network, _ = traced
    candidate = replacements(traced)[0]

    def negative(outputs, labels):
        return F.cross_entropy(outputs, labels) - 100

    found = FirstOrderTaylor([TRAIN], negative).score(model, network, candidate)
    assert -1 < found < 0


REASONS = {
    "NaN loss": "TrainingError: the loss is nan at step 1",
    "diverges": "TrainingError: fine-tuning diverged: parameter '0.weight' holds NaN or infinity",
    "out of memory": "OutOfMemoryError: CUDA out of memory",
    "host out of memory": "MemoryError",
    "raises": "KeyError: 'labels'",
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_fault_is_retried_and_then_marked_with_its_reason(traced, kind):
    model, network, _ = traced
    candidate = replacements(traced)[0]
    once = Job(model, network, ShortFineTune(callbacks.score, Fault(kind, 1)), 0, 1)
    assert once.run(candidate).failure is None
    always = Job(model, network, ShortFineTune(callbacks.score, Fault(kind, ATTEMPTS)), 0, 1)
    assert REASONS[kind] in always.run(candidate).failure
    assert always.run(candidate).failure is None


def test_calibration_with_nan_is_named(traced):
    broken = [torch.full((2, 1, 8, 8), math.nan)]
    with pytest.raises(InputError, match=r"relative output error is nan: check the calibration"):
        OutputError(broken).score(*traced[:2], replacements(traced)[0])


IMAGES = CALIBRATION[0][0]


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], "calibration holds no batch: give some batches of training data"),
        (iter(CALIBRATION), "calibration is a list_iterator, which is used up after one pass"),
        ((batch for batch in CALIBRATION), "calibration is a generator, which is used up"),
        (16, "calibration must be a list of batches, got 16"),
        ({"images": IMAGES}, "calibration must be a list of batches, got {'images'"),
        ([IMAGES, "two"], "batch 1 of calibration begins with str; expected a tensor of inputs"),
        ([()], "batch 0 of calibration begins with tuple; expected a tensor"),
        (
            [IMAGES, IMAGES[0]],
            r"batch 1 of calibration holds inputs of shape \(1, 8, 8\) and torch.float32; expected "
            r"float32 of shape \(any number, 1, 8, 8\)",
        ),
        ([IMAGES.expand(-1, 3, -1, -1)], r"of shape \(32, 3, 8, 8\) .* expected .* 1, 8, 8\)"),
        ([IMAGES[:0]], r"of shape \(0, 1, 8, 8\)"),
        ([IMAGES[..., :5]], r"on which the model fails: .*; expected"),
        ([IMAGES.to(torch.uint8)], r"torch.uint8, on which the model fails: .*; expected float32"),
        ([IMAGES, IMAGES / 0], "batch 1 of calibration holds NaN or infinity"),
        ([IMAGES * 1e38], "the model gives NaN or infinity for batch 0 of calibration"),
    ],
)
def test_calibration_data_that_cannot_calibrate_is_refused_before_any_candidate(
    traced, calibration, message
):
    def never(module):
        raise AssertionError

    estimator = ClosedForm(calibration, never)
    with pytest.raises(InputError, match=message):
        estimate_importance(*traced, estimator=estimator, progress=False)


def test_labels_that_are_missing_are_named(traced):
    estimator = FirstOrderTaylor([IMAGES], F.cross_entropy)
    with pytest.raises(LayerMergeError, match=r"needs batches of \(inputs, labels\), got a Tensor"):
        estimate_importance(*traced, estimator=estimator, progress=False)


@pytest.mark.parametrize("loss", [None, torch.zeros(2), torch.zeros(())])
def test_a_loss_without_a_derivative_is_refused(traced, loss):
    estimator = FirstOrderTaylor(CALIBRATION, lambda outputs, labels: loss)
    with pytest.raises(LayerMergeError, match="must return a tensor of one number that depends"):
        estimate_importance(*traced, estimator=estimator, progress=False)


def _narrow(outputs, labels):
    return F.cross_entropy(outputs, labels[:7])


def test_a_loss_is_tried_before_anything_is_estimated(traced, monkeypatch):
    monkeypatch.setattr(FirstOrderTaylor, "score", lambda *arguments: pytest.fail("too late"))
    estimator = FirstOrderTaylor(CALIBRATION, _narrow)
    line = _narrow.__code__.co_firstlineno + 1
    message = rf"fails on a batch of calibration: ValueError: .*{__file__}, line {line}\)"
    with pytest.raises(InputError, match=message):
        estimate_importance(*traced, estimator=estimator, progress=False)


class _SilentError(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "reason"), [(SystemExit(3), "SystemExit: 3"), (_SilentError(), "_SilentError")]
)
def test_whatever_a_callback_raises_is_a_failure_with_its_reason(traced, error, reason):
    def raises(module):
        raise error

    model, network, _ = traced
    candidate = replacements(traced)[0]
    job = Job(model, network, ShortFineTune(callbacks.score, raises), 0, 1)
    line = raises.__code__.co_firstlineno + 1
    reason = f"{reason} ({__file__}, line {line})"
    assert job.run(candidate).failure == reason
    message = f"score_fn failed on the original network: {re.escape(reason)}"
    with pytest.raises(InputError, match=message):
        Job(model, network, ShortFineTune(raises, None), 0, 1).base()


@pytest.mark.parametrize(
    "returned",
    [
        *(None, "0.9", True, 1j, math.nan, math.inf, (0.5,), 10**400, np.complex64(0.5)),
        *(torch.tensor(1j), torch.tensor([0.5, 0.6]), torch.tensor(True)),
        torch.zeros(1, device="meta"),
    ],
    ids=repr,
)
def test_what_is_no_score_is_refused(returned):
    with pytest.raises(InputError, match="score_fn must return a finite number, got"):
        finite_score(lambda module: returned, nn.Identity())


def test_scores_whose_differences_would_overflow_are_refused():
    with pytest.raises(InputError, match=r"at most 1e\+20 in absolute value, got -1\.7e\+308"):
        finite_score(lambda module: -1.7e308, nn.Identity())


@pytest.mark.parametrize("returned", [1, 0.5, np.float32(0.5), torch.tensor([0.5]), np.array(0.5)])
def test_what_holds_one_number_is_a_score(returned):
    score = finite_score(lambda module: returned, nn.Identity())
    assert (type(score), score) == (float, float(returned))


def _widened(module):
    first = module.get_submodule("0")
    first.weight = nn.Parameter(first.weight.repeat(2, 1, 1, 1))


def _without_statistics(module):
    norm = module.get_submodule("1")
    norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None


@pytest.mark.parametrize(
    ("train", "was_and_is"),
    [
        (lambda module: module.double(), r"'0.weight' was float32 of .*, and is float64 of"),
        (lambda module: module.to("meta"), r"'0.weight' was .*, and is float32 of .* on the dev"),
        (_widened, r"'0.weight' was float32 of shape \(4, .*, and is float32 of shape \(8, "),
        (lambda module: module.register_parameter("more", nn.Parameter(torch.zeros(1))), "missing"),
        (lambda module: delattr(module.get_submodule("0"), "weight"), "and is missing"),
        (_without_statistics, "buffer '1.running_mean' was .*, and is missing"),
    ],
)
def test_training_that_changes_more_than_values_is_named(traced, train, was_and_is):
    model, network, _ = traced
    job = Job(model, network, ShortFineTune(callbacks.score, train), 0, 1)
    failure = job.run(replacements(traced)[0]).failure
    assert "train_fn must train in place, and leave structure and precision as they are" in failure
    assert re.search(was_and_is, failure)
