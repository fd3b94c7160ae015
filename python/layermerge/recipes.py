"""Recipes: the callbacks that `compress` needs, made from a data set and training settings."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from layermerge.fingerprints import fingerprint_model
from layermerge.importance.activations import fingerprint_batches
from layermerge.importance.estimators import ScoreFunction, TrainFunction
from layermerge.labels import checked_batch
from layermerge.seeding import seeded
from layermerge.source_files import brief
from layermerge.training import device_of
from layermerge.training_log import tensorboard_writer

_log = logging.getLogger(__name__)

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
    for part in ("train", "validation", "test"):
        if isinstance(getattr(dataset, part), Iterator):
            raise InputError(
                f"the part {part} of {dataset.name} is an iterator, which is used up after one "
                "pass: give a list of batches, or a DataLoader"
            )
    modules = {name for name, _ in model.named_modules()}
    if missing := [name for name in final.features if name not in modules]:
        raise InputError(f"features names {missing[0]!r}, which is no module of the model")
    calibration = _first_batches(dataset.train, probe.seed)
    _check_classes(model, dataset, calibration)
    batches = _fingerprint(dataset, "train", calibration, probe.seed)
    data = {"dataset": dataset.name, "batches": batches}
    held_out = _first_batches(dataset.validation, probe.seed)
    validation = _fingerprint(dataset, "validation", held_out, probe.seed)
    return Recipe(
        partial(score_classification, batches=dataset.validation),
        partial(_train, dataset, probe),
        partial(
            _finetune, dataset, final, model, _files(folder, tensorboard=tensorboard), progress
        ),
        partial(score_classification, batches=dataset.test),
        json.dumps({**data, "validation": validation, "probe": probe.fingerprint}),
        json.dumps({**data, "final": final.fingerprint, "teacher": fingerprint_model(model)}),
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


def _first_batches(batches: Iterable[Batch], seed: int) -> tuple[Batch, ...]:
    """As the seed draws them."""
    with seeded(seed):
        return tuple(islice(batches, CALIBRATION_BATCHES))


def _fingerprint(dataset: Dataset, part: str, first: Sequence[Batch], seed: int) -> str | None:
    """What tells other data of the same name apart, if one seed draws the first batches again."""
    found = fingerprint_batches(first)
    if fingerprint_batches(_first_batches(getattr(dataset, part), seed)) == found:
        return found
    _log.warning(
        "the part %s of %s gives other batches with the same seed: what a study holds is known by "
        "that name alone, so name other data otherwise",
        part,
        dataset.name,
    )
    return None


def _check_classes(model: nn.Module, dataset: Dataset, batches: Sequence[Batch]) -> None:
    """Refuse a model that does not tell the classes of the data apart."""
    if not batches:
        raise InputError(f"the training part of {dataset.name} holds no batch to train on")
    try:
        images, labels = checked_batch(batches[0])
    except InputError as error:
        raise InputError(f"the training part of {dataset.name}: {error}") from error
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
    if labels.is_floating_point() or labels.ndim != 1:
        raise InputError(
            f"{dataset.name} has labels of {labels.dtype} and shape {tuple(labels.shape)}: "
            "expected the index of a class for each image"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < dataset.num_classes:
        raise InputError(
            f"{dataset.name} has labels {int(labels.min())}..{int(labels.max())}: expected class "
            f"indices 0..{dataset.num_classes - 1}"
        )
