"""Fine-tune a network, with distillation from another one if asked, and score it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sized
from dataclasses import asdict, dataclass
from itertools import islice
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from layermerge.errors import InputError, TrainingError
from layermerge.progress import progress_bar
from layermerge.seeding import seeded

Batch = tuple[Tensor, Tensor]
Data = Batch | Iterable[Batch]
"""Images and labels as two tensors, or batches of them (iterated anew for each epoch)."""


def _check(name: str, value: object, is_valid: bool, expected: str) -> None:
    if not is_valid:
        raise InputError(f"{name} must be {expected}, got {value!r}")


@dataclass(frozen=True)
class FinetuneSettings:
    """How to train.

    Attributes
    ----------
    epochs : int
        Passes over the data.
    steps : int, optional
        Stop after so many optimizer steps instead, over as many epochs as that takes.
    batch_size : int
        Used when the data is two tensors.
    optimizer : {"adamw", "sgd"}
        ``sgd`` has a Nesterov momentum of 0.9.
    learning_rate : float
        At its peak: it rises linearly over the `warm_up` part of the steps and falls to 0 along
        half a cosine.
    weight_decay : float
        For weights; biases and norms have none.
    label_smoothing : float
    distillation : float
        Part, 0..1, of the loss that comes from the teacher.
    temperature : float
        Softens the logits that are compared with the teacher's.
    seed : int
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 128
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    warm_up: float = 0.1
    weight_decay: float = 1e-2
    label_smoothing: float = 0.0
    distillation: float = 0.5
    temperature: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _check("steps", self.steps, self.steps is None or self.steps >= 1, "at least 1")
        _check("optimizer", self.optimizer, self.optimizer in ("adamw", "sgd"), "adamw or sgd")
        for name in ("learning_rate", "temperature"):
            _check(name, getattr(self, name), 0 < getattr(self, name) < math.inf, "greater than 0")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "at least 0")
        for name in ("warm_up", "label_smoothing", "distillation"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "between 0 and 1")

    @property
    def fingerprint(self) -> str:
        """The settings as text, to name an importance estimator by."""
        return json.dumps(asdict(self), sort_keys=True)


def finetune(
    model: nn.Module,
    data: Data,
    settings: FinetuneSettings = FinetuneSettings(),
    *,
    teacher: nn.Module | None = None,
    description: str = "Fine-tuning",
    progress: bool = True,
) -> tuple[float, ...]:
    """Train a classifier in place and leave it in evaluation mode.

    Equal seeds give equal weights on the CPU.

    Parameters
    ----------
    model : torch.nn.Module
        Returns logits of shape (batch, classes).
    data : pair of tensors, or iterable of such pairs
        Images and labels (class indices).
    settings : FinetuneSettings
    teacher : torch.nn.Module, optional
        The loss becomes (1 - a) CE + a T² KL(teacher ‖ model), with the logits divided by the
        temperature T (Hinton et al., 2015, arXiv:1503.02531) and a the distillation weight.
    description : str
        Says in the progress bar what is trained.
    progress : bool
        Show a progress bar on a terminal.

    Returns
    -------
    tuple of float
        The loss at each step.

    Raises
    ------
    InputError
        If the data holds no batch, or the model nothing to train.
    TrainingError
        If the loss is no longer finite.
    """
    loader = _loader(data, settings.batch_size)
    steps = _num_steps(loader, settings)
    losses: list[float] = []
    try:
        with seeded(settings.seed), progress_bar(description, steps, enabled=progress) as show:
            optimizer, schedule = _optimizer(model, settings, steps)
            model.train()
            for images, labels in islice(_batches(loader), steps):
                loss = _loss(model, teacher, images, labels, settings)
                losses.append(_checked(loss, len(losses), settings))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                show(len(losses))
    finally:
        model.eval()
    return tuple(losses)


def score_classification(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Accuracy of a classifier, as a fraction, in evaluation mode.

    Parameters
    ----------
    model : torch.nn.Module
        Returns logits of shape (batch, classes). Its mode is put back afterwards.
    batches : iterable of pairs of tensors
        Images and labels (class indices).

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    InputError
        If there is no image.
    """
    device = _device(model)
    was_training = model.training
    model.eval()
    correct = total = 0
    with torch.inference_mode():
        for images, labels in batches:
            predicted = model(images.to(device)).argmax(1)
            correct += int((predicted == labels.to(device)).sum())
            total += len(labels)
    model.train(was_training)
    if not total:
        raise InputError("there is no image to score the model on (is an iterator used up?)")
    return correct / total


class _ShuffledBatches:
    """Batches of two tensors, in a new order each time; what the last full one leaves is left."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int) -> None:
        _check_pair(images, labels)
        self.images, self.labels = images, labels
        self.batch_size = min(batch_size, len(images))

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.images))
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            part = order[start : start + self.batch_size]
            yield self.images[part], self.labels[part]


def _loader(data: Data, batch_size: int) -> Iterable[Batch]:
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor):
        return _ShuffledBatches(*data, batch_size)
    return cast(Iterable[Batch], data)


def _num_steps(loader: Iterable[Batch], settings: FinetuneSettings) -> int:
    if settings.steps is not None:
        return settings.steps
    if not isinstance(loader, Sized):
        raise InputError(
            f"data is a {type(loader).__name__}, which has no length: set `steps` to say how long "
            "to train"
        )
    return settings.epochs * len(loader)


def _batches(loader: Iterable[Batch]) -> Iterator[Batch]:
    """Batches without end, epoch after epoch."""
    while True:
        is_empty = True
        for batch in loader:
            is_empty = False
            yield batch
        if is_empty:
            raise InputError("data holds no batch (an iterator that is used up holds none either)")


def _check_pair(images: Tensor, labels: Tensor) -> None:
    if len(images) != len(labels) or not len(images):
        raise InputError(
            f"there are {len(images)} images and {len(labels)} labels; expected as many of both, "
            "at least one"
        )


def _loss(
    model: nn.Module,
    teacher: nn.Module | None,
    images: Tensor,
    labels: Tensor,
    settings: FinetuneSettings,
) -> Tensor:
    images, labels = images.to(_device(model)), labels.to(_device(model))
    logits = model(images)
    loss = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
    if teacher is None:
        return loss
    with torch.no_grad():
        wanted = teacher(images)
    distance = F.kl_div(
        F.log_softmax(logits / settings.temperature, dim=1),
        F.log_softmax(wanted / settings.temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    share = settings.distillation
    return (1 - share) * loss + share * settings.temperature**2 * distance


def _checked(loss: Tensor, step: int, settings: FinetuneSettings) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss is {value} at step {step + 1}: check the data for NaN, or lower "
            f"learning_rate from {settings.learning_rate}"
        )
    return value


def _optimizer(
    model: nn.Module, settings: FinetuneSettings, steps: int
) -> tuple[Optimizer, LambdaLR]:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise InputError("the model has no parameter that requires a gradient: nothing to train")
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer: Optimizer
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, settings.learning_rate, momentum=0.9, nesterov=True)
    else:
        optimizer = torch.optim.AdamW(groups, settings.learning_rate)
    warm_up = round(settings.warm_up * steps)

    def part_of_peak(step: int) -> float:
        if step < warm_up:
            return (step + 1) / (warm_up + 1)
        return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))

    return optimizer, LambdaLR(optimizer, part_of_peak)


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
