from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from layermerge.datasets import Dataset
from layermerge.errors import InputError
from layermerge.finetuning import FinetuneSettings
from layermerge.recipes import CALIBRATION_BATCHES, classification
from networks import striped_images, tiny_classifier

PARTS = [[striped_images(32, 3 * seed + part) for part in range(3)] for seed in range(3)]


def recipe():
    settings = FinetuneSettings(steps=2)
    return classification(
        tiny_classifier(), Dataset("stripes", *PARTS, 3), probe=settings, final=settings
    )


def test_every_callback_can_be_sent_to_another_process():
    made = recipe()
    for name in ("score_fn", "train_fn", "finetune_fn", "evaluate_fn", "calibration"):
        pickle.loads(pickle.dumps(getattr(made, name)))
    one, other = tiny_classifier(), tiny_classifier()
    made.train_fn(one)
    pickle.loads(pickle.dumps(made.train_fn))(other)
    assert torch.equal(one[0].weight, other[0].weight)
    assert made.score_fn(one) == pickle.loads(pickle.dumps(made.score_fn))(one)


def test_calibration_is_fixed_training_data():
    first, second = recipe().calibration, recipe().calibration
    assert len(first) == min(3, CALIBRATION_BATCHES)
    for one, other, batch in zip(first, second, PARTS[0], strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[0], batch[0])


class Wrapped(nn.Module):
    def forward(self, images):
        return {"logits": tiny_classifier()(images)}


@pytest.mark.parametrize(
    ("model", "parts", "message"),
    [
        (
            tiny_classifier(),
            (PARTS[0], 4),
            r"stripes has 4 classes, and the model computes \(1, 3\)",
        ),
        (nn.Conv2d(1, 3, 8), (PARTS[0], 3), r"computes \(1, 3, 1, 1\) for one image: expected"),
        (Wrapped(), (PARTS[0], 3), r"computes dict for one image: expected \(1, 3\)"),
        (
            nn.Conv2d(3, 3, 8),
            (PARTS[0], 3),
            r"not run on the images of stripes, of shape 1x8x8: Run",
        ),
        (
            tiny_classifier(),
            ([(PARTS[0][0][0], PARTS[0][0][1] + 1)], 3),
            r"labels 1\.\.3: expected",
        ),
        (tiny_classifier(), ([], 3), "the training part of stripes holds no batch"),
    ],
    ids=["classes", "maps", "wrapped", "channels", "labels", "empty"],
)
def test_a_model_of_other_classes_than_the_data_is_refused(model, parts, message):
    train, classes = parts
    settings = FinetuneSettings(steps=2)
    with pytest.raises(InputError, match=message):
        classification(
            model, Dataset("stripes", train, train, train, classes), probe=settings, final=settings
        )
