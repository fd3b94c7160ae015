"""Fine-tune a network, with distillation from another one if asked, and score it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from layermerge.arguments import as_path, check_argument
from layermerge.checkpoints import Checkpoint
from layermerge.checks import check_truth
from layermerge.errors import InputError
from layermerge.finetune_settings import DEFAULT_SETTINGS, FinetuneSettings
from layermerge.fingerprints import fingerprint_model
from layermerge.labels import check_labels, checked_batch, num_counted
from layermerge.lending import take_off_wrapper, training_kept
from layermerge.model_checks import check_evaluation_mode
from layermerge.progress import progress_bar
from layermerge.seeding import seed_of_attempt, seeded
from layermerge.training import Batch, Training, device_of
from layermerge.training_log import logging_to

__all__ = ["Batch", "Data", "FinetuneSettings", "finetune", "score_classification"]

_log = logging.getLogger(__name__)

Data = Batch | Iterable[Batch]
"""Images and labels as two tensors, or batches of them (iterated anew for each epoch)."""


def finetune(
    model: nn.Module,
    data: Data,
    settings: FinetuneSettings = DEFAULT_SETTINGS,
    *,
    teacher: nn.Module | None = None,
    checkpoint: str | Path | None = None,
    log: str | Path | None = None,
    tensorboard: str | Path | None = None,
    accelerator: Any = None,
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
        temperature T (Hinton et al., 2015, arXiv:1503.02531) and a the distillation weight. To it
        comes f ‖φ − φ_teacher‖² / ‖φ_teacher‖², f the `feature_distillation` and φ the features.
    checkpoint : path, optional
        Where the state of the training is kept every half minute, so that the same call goes on
        from there after a crash, with the same result; deleted at the end. In a folder, a file is
        named by what is trained.
    log : path, optional
        A CSV file, written anew, with a row for each step: step, loss, learning_rate, seconds. A
        training that goes on from a checkpoint goes on in its log, without gaps or repetitions.
    tensorboard : path, optional
        A folder for the same as events of TensorBoard, which must be installed.
    accelerator : accelerate.Accelerator, optional
        Trains on all its processes: a `torch.utils.data.DataLoader` is divided among them, other
        data batch by batch.
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
    check_argument("model", model, nn.Module)
    check_argument("settings", settings, FinetuneSettings)
    if teacher is not None:
        check_argument("teacher", teacher, nn.Module)
        check_evaluation_mode(teacher, "the teacher")
        _check_apart(model, teacher)
    if accelerator is not None and not hasattr(accelerator, "prepare"):
        raise InputError(f"accelerator must be an accelerate.Accelerator, got {accelerator!r}")
    if (accumulated := getattr(accelerator, "gradient_accumulation_steps", 1)) != 1:
        raise InputError(
            f"accelerator accumulates gradients over {accumulated} batches, and finetune takes a "
            "step for each: give larger batches, and an Accelerator without accumulation"
        )
    log = None if log is None else as_path("log", log)
    tensorboard = None if tensorboard is None else as_path("tensorboard", tensorboard)
    check_truth("progress", progress)
    seed = seed_of_attempt(settings.seed)
    loader = _loader(data, settings.batch_size, seed)
    is_divided = accelerator is not None and isinstance(loader, DataLoader)
    if is_divided:
        with seeded(seed):  # it may seed generators that the processes share
            loader = accelerator.prepare(loader)
    if checkpoint is not None and getattr(loader, "persistent_workers", False):
        _log.warning(
            "the data loader has persistent_workers, whose random state no checkpoint holds: a "
            "training that goes on from one will see other batches than one that was not stopped"
        )
    steps = _num_steps(loader, settings)
    processes = 1 if accelerator is None else accelerator.num_processes
    keep = _checkpoint(checkpoint, model, teacher, settings, steps, processes, loader)
    training = Training(model, settings, steps, teacher, accelerator)
    if keep.path is not None and keep.path == log:
        raise InputError(f"checkpoint and log are both {log}: name two files")
    is_main = accelerator is None or accelerator.is_main_process
    state = keep.read()
    if state is not None:
        training.restore(state, keep.path)
    files = (log, tensorboard) if is_main else (None, None)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            seeded(seed),
            progress_bar(description, steps, enabled=progress and is_main) as show,
            logging_to(*files, training.history) as record,
        ):
            for _ in training.run(loader, is_divided=is_divided):
                show(len(training.history))
                record(training.history[-1])
                if is_main and keep.is_due:
                    keep.write(training.state())
        training.finish()
    finally:
        take_off_wrapper(model)
        model.eval()
    if is_main:
        keep.remove()
    return tuple(step.loss for step in training.history)


def _check_apart(model: nn.Module, teacher: nn.Module) -> None:
    """Refuse a teacher that would change while it teaches."""
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    for name, tensor in (*teacher.named_parameters(), *teacher.named_buffers()):
        if id(tensor) in own:
            raise InputError(
                f"the teacher shares {name!r} with the model, and would change with it: give "
                "copy.deepcopy(...) of it, made before the training"
            )


def score_classification(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Accuracy of a classifier, as a fraction, in evaluation mode.

    Parameters
    ----------
    model : torch.nn.Module
        Returns logits of shape (batch, classes), or of each pixel. Its mode is put back afterwards.
    batches : iterable of pairs of tensors
        Images and labels (class indices, or -100 for what is left out).

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    InputError
        If there is no image, a label is none of the model's classes, or the model computes NaN.
    """
    check_argument("model", model, nn.Module)
    if not isinstance(batches, Iterable):
        raise InputError(
            f"batches must be pairs of images and labels, got {type(batches).__name__}"
        )
    device = device_of(model)
    correct = total = 0
    with training_kept(model), torch.inference_mode():
        model.eval()
        for batch in batches:
            images, labels = checked_batch(batch)
            predicted = _predicted(model(images.to(device)), images, labels)
            correct += int((predicted == labels.to(device)).sum())
            total += num_counted(labels)
    if not total:
        raise InputError("there is no image to score the model on (is an iterator used up?)")
    return correct / total


def _predicted(logits: Any, images: Tensor, labels: Tensor) -> Tensor:
    """The class of each image; labels that are none of them, and NaN, would count as mistakes."""
    if labels.is_floating_point():
        raise InputError(
            f"labels to score on are {labels.dtype} of shape {tuple(labels.shape)}: expected the "
            "index of a class for each image"
        )
    check_labels(labels, logits)
    if not torch.isfinite(logits).all():
        whose = (
            "the network computes" if torch.isfinite(images).all() else "images to score on hold"
        )
        raise InputError(f"{whose} NaN or infinite values: it cannot be scored")
    predicted: Tensor = logits.argmax(1)
    return predicted


class _ShuffledBatches:
    """Batches of two tensors, in a new order each time; what the last full one leaves is left.

    The order is drawn by a generator of its own, so that it is the same in several processes.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, seed: int) -> None:
        self.images, self.labels = images, labels
        self.generator = torch.Generator().manual_seed(seed)
        self.batch_size = min(batch_size, len(images))

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.images), generator=self.generator)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            part = order[start : start + self.batch_size]
            yield self.images[part], self.labels[part]


def _loader(data: Data, batch_size: int, seed: int) -> Iterable[Batch]:
    if isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[0], Tensor):
        images, labels = checked_batch(data)
        return _ShuffledBatches(images, labels, batch_size, seed)
    if not isinstance(data, Iterable) or isinstance(data, (str, Mapping, Tensor)):
        raise InputError(
            "data must be images and labels as two tensors, or batches of them, got "
            f"{type(data).__name__}"
        )
    return cast(Iterable[Batch], data)


def _num_steps(loader: Iterable[Batch], settings: FinetuneSettings) -> int:
    if settings.steps is not None:
        return settings.steps
    if not isinstance(loader, Sized):
        raise InputError(
            f"data is a {type(loader).__name__}, which has no length: set `steps` to say how long "
            "to train"
        )
    if not len(loader):
        raise InputError(
            "data holds no batch (does a loader that drops its last batch hold fewer images than "
            "one has?)"
        )
    return settings.epochs * len(loader)


def _checkpoint(
    place: str | Path | None,
    model: nn.Module,
    teacher: nn.Module | None,
    settings: FinetuneSettings,
    steps: int,
    processes: int,
    loader: Iterable[Batch],
) -> Checkpoint:
    """The checkpoint at a path, in a folder, or nowhere: only then are no weights hashed."""
    if place is None:
        return Checkpoint(None, {})
    identity = {
        **json.loads(settings.fingerprint),
        "steps": steps,
        "processes": processes,
        "kind of data": type(loader).__name__,
        "frozen parameters": sum(not each.requires_grad for each in model.parameters()),
        "plan or weights of the network": fingerprint_model(model),
        "teacher": None if teacher is None else fingerprint_model(teacher),
    }
    path = as_path("checkpoint", place)
    if path.is_dir():
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        others = [other.name for other in path.glob("finetune-*.ckpt")]
        path /= f"finetune-{digest}.ckpt"
        if others and path.name not in others:
            _log.warning(
                "%s holds unfinished fine-tunes of another plan or other settings, which are left "
                "(%s): this one begins anew",
                path.parent,
                ", ".join(others),
            )
    return Checkpoint(path, identity)
