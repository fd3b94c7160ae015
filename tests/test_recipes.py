from __future__ import annotations

import pickle

import torch

from layermerge.datasets import Dataset
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
