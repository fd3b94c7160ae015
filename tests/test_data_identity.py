"""Scores and weights in a study belong to the data that they were made with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import callbacks
from layermerge.datasets import Dataset
from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError
from layermerge.finetuning import FinetuneSettings
from layermerge.importance.activations import fingerprint_batches
from layermerge.importance.estimation import estimate_importance
from layermerge.importance.estimators import ShortFineTune
from layermerge.importance.proxies import ClosedForm, FirstOrderTaylor, OutputError
from layermerge.recipes import classification
from layermerge.store import Study
from layermerge.tracing import trace
from networks import striped_images, tiny_classifier

ONE, OTHER = ([striped_images(32, seed)] for seed in (0, 1))
RELABELLED = [(ONE[0][0], (ONE[0][1] + 1) % 3)]


def least_squares(batches):
    return ShortFineTune(callbacks.score, None, init="least_squares", calibration=batches)


def taylor(batches):
    return FirstOrderTaylor(batches, F.cross_entropy)


@pytest.mark.parametrize("make", [ClosedForm, OutputError, taylor, least_squares])
def test_other_batches_have_other_scores_in_one_study(make):
    model = tiny_classifier()
    network = trace(model, torch.zeros(1, 1, 8, 8))
    space = enumerate_candidates(network, max_kernel=3)
    with Study() as study:
        found = [
            estimate_importance(
                model, network, space, estimator=make(batches), study=study, progress=False
            ).raw
            for batches in (ONE, OTHER, ONE)
        ]
    assert found[0] == found[2] != found[1]
    alone = estimate_importance(model, network, space, estimator=make(OTHER), progress=False)
    assert found[1] == alone.raw


def test_labels_and_the_loss_are_data_too():
    assert taylor(ONE).fingerprint != taylor(RELABELLED).fingerprint
    other_loss = FirstOrderTaylor(ONE, F.multi_margin_loss)
    assert taylor(ONE).fingerprint != other_loss.fingerprint
    assert taylor(ONE).fingerprint == taylor([(x.clone(), y.clone()) for x, y in ONE]).fingerprint


@pytest.mark.parametrize(
    "change", [lambda x: x.double(), lambda x: x[:, :, :, :4], lambda x: x.flip(0)]
)
def test_every_difference_of_a_batch_counts(change):
    images = ONE[0][0]
    assert fingerprint_batches([images]) != fingerprint_batches([change(images)])
    assert fingerprint_batches([images]) == fingerprint_batches([images.clone()])
    assert fingerprint_batches([images, images]) != fingerprint_batches([images])


class Shuffled:
    """Other batches each time, whatever the seed."""

    generator = torch.Generator().manual_seed(0)

    def __iter__(self):
        order = torch.randperm(32, generator=self.generator)
        yield ONE[0][0][order], ONE[0][1][order]


def test_data_that_are_others_each_time_are_told(caplog):
    model = tiny_classifier()
    network = trace(model, torch.zeros(1, 1, 8, 8))
    space = enumerate_candidates(network, max_kernel=3)
    estimator = ClosedForm(Shuffled())
    estimate_importance(model, network, space, estimator=estimator, progress=False)
    assert "calibration holds other batches each time it is read" in caplog.text


SETTINGS = FinetuneSettings(steps=1)


def recipe(train, name="stripes", **changed):
    data = Dataset(
        name, **{"train": train, "validation": ONE, "test": ONE, **changed}, num_classes=3
    )
    return classification(tiny_classifier(), data, probe=SETTINGS, final=SETTINGS)


def test_training_data_of_one_name_are_told_apart(caplog):
    first, again, other = recipe(ONE), recipe([*ONE]), recipe(OTHER)
    assert (first.estimator, first.finetuner) == (again.estimator, again.finetuner)
    assert first.estimator != other.estimator
    assert first.finetuner != other.finetuner
    assert not caplog.records


def test_another_teacher_is_another_fine_tune():
    data = Dataset("stripes", ONE, ONE, ONE, 3)
    first, again, other = (
        classification(tiny_classifier(seed), data, probe=SETTINGS, final=SETTINGS)
        for seed in (0, 0, 1)
    )
    assert first.finetuner == again.finetuner != other.finetuner
    assert first.estimator == other.estimator


def test_data_to_score_on_are_told_apart(caplog):
    first, other = recipe(ONE), recipe(ONE, validation=OTHER)
    assert first.estimator != other.estimator
    assert first.finetuner == other.finetuner
    assert not caplog.records


@pytest.mark.parametrize("make", [ClosedForm, lambda batches, score: ShortFineTune(score, None)])
@pytest.mark.parametrize("name", ["custom", "mine"])
def test_scores_by_a_function_without_a_name_are_told(make, name, caplog):
    model = tiny_classifier()
    space = enumerate_candidates(trace(model, torch.zeros(1, 1, 8, 8)), max_kernel=3)
    estimator = replace(make(ONE, callbacks.score), name=name)
    with Study() as study:
        for _ in range(2):
            assert not caplog.records
            estimate_importance(
                model, space.network, space, estimator=estimator, study=study, progress=False
            )
    assert ("if score_fn, train_fn or their data have changed" in caplog.text) == (name == "custom")


def test_training_data_that_no_seed_repeats_are_known_by_name(caplog):
    assert recipe(Shuffled()).estimator == recipe(Shuffled()).estimator
    assert "gives other batches with the same seed" in caplog.text


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_part_that_is_used_up_after_one_pass_is_refused(part):
    with pytest.raises(InputError, match=f"the part {part} of stripes is an iterator"):
        recipe(**{"train": ONE, part: iter(ONE)})


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (([ONE[0][0]], ONE[0][1]), "training part of stripes: images of data must be a tensor"),
        ((ONE[0][0], F.one_hot(ONE[0][1], 3)), r"labels of torch.int64 and shape \(32, 3\)"),
        ((ONE[0][0], ONE[0][1].float()), "labels of torch.float32"),
    ],
)
def test_training_batches_that_are_none_are_named(batch, message):
    with pytest.raises(InputError, match=message):
        recipe([batch])


def test_features_that_no_module_computes_are_named_before_the_search():
    settings = replace(SETTINGS, feature_distillation=1.0, features=("nonesuch",))
    with pytest.raises(InputError, match="features names 'nonesuch', which is no module"):
        classification(
            tiny_classifier(), Dataset("s", ONE, ONE, ONE, 3), probe=SETTINGS, final=settings
        )


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((ONE[0][0], ONE[0][1] + 3), r"labels are 3\.\.5, and the model computes 3 classes"),
        ((ONE[0][0], F.one_hot(ONE[0][1], 3)), r"labels are int64 of shape \(32, 3\): expected"),
        ((ONE[0][0], ONE[0][1].float()), r"labels to score on are torch.float32"),
        ((ONE[0][0] * float("nan"), ONE[0][1]), "images to score on hold NaN"),
    ],
)
def test_what_cannot_be_scored_on_is_named(batch, message):
    made = recipe(ONE, test=[batch])
    with pytest.raises(InputError, match=message):
        made.evaluate_fn(tiny_classifier())


def test_a_network_that_computes_nan_has_no_score():
    model = tiny_classifier()
    with torch.no_grad():
        model[-1].bias[0] = float("nan")
    with pytest.raises(InputError, match="the network computes NaN"):
        recipe(ONE).score_fn(model)
