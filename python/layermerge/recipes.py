"""Recipes: the callbacks that `compress` needs, made from a data set and training settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layermerge.datasets import Dataset
from layermerge.errors import InputError
from layermerge.finetuning import Batch, FinetuneSettings, finetune, score_classification
from layermerge.importance.estimators import ScoreFunction, TrainFunction
from layermerge.seeding import seeded
from layermerge.source_files import brief
from layermerge.training import device_of
from layermerge.training_log import tensorboard_writer

CALIBRATION_BATCHES = 4
LOG_FILE = "finetune.csv"


@dataclass(frozen=True)
class Recipe:
    """How to score and train a network; the arguments of `compress` of the same names.

    Attributes
    ----------
    score_fn, train_fn, finetune_fn, evaluate_fn : callable
    estimator : str
        Names the first two with their settings, for the study.
    finetuner : str
        Names the third with its settings.
    score_name : str
        What the scores are.
    calibration : tuple of batches
        Some training data, fixed, for closed-form merging.
    """

    score_fn: ScoreFunction
    train_fn: TrainFunction
    finetune_fn: TrainFunction
    evaluate_fn: ScoreFunction
    estimator: str
    finetuner: str
    score_name: str = "score"
    calibration: tuple[Batch, ...] = ()


def classification(
    model: nn.Module,
    dataset: Dataset,
    *,
    probe: FinetuneSettings,
    final: FinetuneSettings,
    folder: Path | None = None,
    tensorboard: bool = False,
    progress: bool = True,
) -> Recipe:
    """Make the recipe for a classifier.

    Parameters
    ----------
    model : torch.nn.Module
        The original network, the teacher of the final fine-tune.
    dataset : Dataset
        Importance is estimated on its validation part, results on its test part.
    probe : FinetuneSettings
        The short fine-tune for importance, on labels alone as in the paper.
    final : FinetuneSettings
        The fine-tune of the chosen network.
    folder : path, optional
        Where the state of the latter is kept, so that it goes on after a crash, and its log,
        ``finetune.csv``.
    tensorboard : bool
        Log it for TensorBoard, too, in ``folder/tensorboard``.
    progress : bool
        Show a progress bar for it.
    """
    if tensorboard:
        tensorboard_writer()  # what is not installed is missed now, not after hours
    calibration = _calibration(dataset, probe.seed)
    _check_classes(model, dataset, calibration)
    return Recipe(
        partial(score_classification, batches=dataset.validation),
        partial(_train, dataset, probe),
        partial(
            _finetune, dataset, final, model, _files(folder, tensorboard=tensorboard), progress
        ),
        partial(score_classification, batches=dataset.test),
        json.dumps({"dataset": dataset.name, "probe": probe.fingerprint}),
        json.dumps({"dataset": dataset.name, "final": final.fingerprint}),
        "accuracy",
        calibration,
    )


# At the top level, so that other processes and machines can be sent them.
def _train(dataset: Dataset, settings: FinetuneSettings, rewritten: nn.Module) -> None:
    finetune(rewritten, dataset.train, settings, progress=False)


def _finetune(
    dataset: Dataset,
    settings: FinetuneSettings,
    teacher: nn.Module,
    files: Mapping[str, Any],
    progress: bool,
    rewritten: nn.Module,
) -> None:
    finetune(rewritten, dataset.train, settings, teacher=teacher, progress=progress, **files)


def _files(folder: Path | None, *, tensorboard: bool) -> dict[str, Path]:
    """What the final fine-tune leaves in a folder, by the arguments of `finetune`."""
    if folder is None:
        return {}
    files = {"checkpoint": folder, "log": folder / LOG_FILE}
    return {**files, "tensorboard": folder / "tensorboard"} if tensorboard else files


def _calibration(dataset: Dataset, seed: int) -> tuple[Batch, ...]:
    """The first batches of training data, as the seed draws them."""
    with seeded(seed):
        return tuple(islice(dataset.train, CALIBRATION_BATCHES))


def _check_classes(model: nn.Module, dataset: Dataset, batches: Sequence[Batch]) -> None:
    """Refuse a model that does not tell the classes of the data apart."""
    if not batches:
        raise InputError(f"the training part of {dataset.name} holds no batch to train on")
    images, labels = batches[0]
    shape = "x".join(map(str, images.shape[1:]))
    try:
        with torch.no_grad():
            output = model(images[:1].to(device_of(model)))
    except Exception as error:  # of the model's own code
        raise InputError(
            f"the model does not run on the images of {dataset.name}, of shape {shape}: "
            f"{brief(error)}"
        ) from error
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != (1, dataset.num_classes):
        raise InputError(
            f"{dataset.name} has {dataset.num_classes} classes, and the model computes {found} for "
            f"one image: expected {(1, dataset.num_classes)}. Give a model of these classes, such "
            "as by a function that makes timm.create_model(NAME, num_classes="
            f"{dataset.num_classes}), with its weights"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < dataset.num_classes:
        raise InputError(
            f"{dataset.name} has labels {int(labels.min())}..{int(labels.max())}: expected class "
            f"indices 0..{dataset.num_classes - 1}"
        )
