"""Batches of images and labels, checked before a loss is made of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from layermerge.errors import InputError, shown

IGNORED = -100
"""The label of what is left out of a loss, by default, in torch."""


PROBABILITY_TOLERANCE = 0.01
"""How far a sum of probabilities may be from 1, as those in half precision are."""


def checked_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Images and labels of a batch; labels of small integer types are widened.

    Raises
    ------
    InputError
        If the batch is no pair of tensors of one length.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        found = f"{len(batch)} values" if isinstance(batch, (tuple, list)) else shown(repr(batch))
        raise InputError(f"a batch of data must be a pair of images and labels, got {found}")
    images, labels = batch
    for name, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise InputError(f"{name} of data must be a tensor, got {type(value).__name__}")
    for name, value in (("images", images), ("labels", labels)):
        if not value.ndim:
            raise InputError(f"{name} of data must be one for each image, got a single number")
    if len(images) != len(labels) or not len(images):
        raise InputError(
            f"there are {len(images)} images and {len(labels)} labels; expected as many of both, "
            "at least one"
        )
    return images, labels if labels.is_floating_point() else labels.long()


def num_counted(labels: Tensor) -> int:
    """How many labels a loss counts: all but `IGNORED` ones, and one for each distribution."""
    if labels.is_floating_point():
        return labels.select(1, 0).numel() if labels.ndim > 1 else len(labels)
    return int((labels != IGNORED).sum())


def check_labels(labels: Tensor, logits: Any) -> None:
    """Refuse labels that are neither classes of the logits nor probabilities of them.

    Raises
    ------
    InputError
    """
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"the model computes {found}: expected logits of shape (batch, classes). Other tasks "
            "are trained by a train_fn of your own"
        )
    if labels.shape == logits.shape and labels.is_floating_point():
        _check_probabilities(labels)
        return
    if labels.is_floating_point() or labels.shape != logits[:, 0].shape:
        raise InputError(
            f"labels are {str(labels.dtype).removeprefix('torch.')} of shape "
            f"{tuple(labels.shape)}: expected an index of {logits.shape[1]} classes for each of "
            f"{tuple(logits[:, 0].shape)}, or probabilities as floats for {tuple(logits.shape)}"
        )
    check_range(labels, logits.shape[1])


def _check_probabilities(labels: Tensor) -> None:
    off = float((labels.sum(1) - 1).abs().max())
    if not (off <= PROBABILITY_TOLERANCE and float(labels.min()) >= 0):
        raise InputError(
            "labels of the shape of the logits must be probabilities, at least 0 and 1 in sum over "
            f"the classes, got {float(labels.min()):.3g} at least and a sum that is {off:.3g} off"
        )


def check_range(labels: Tensor, num_classes: int) -> None:
    """Refuse indices of classes that there are not; `IGNORED` ones count for nothing.

    Raises
    ------
    InputError
    """
    counted = labels[labels != IGNORED]
    if not len(counted):
        raise InputError(
            f"all labels of a batch are {IGNORED}, which stands for no label: leave it out"
        )
    least, most = int(counted.min()), int(counted.max())
    if least < 0 or most >= num_classes:
        raise InputError(
            f"labels are {least}..{most}, and the model computes {num_classes} classes: expected "
            f"indices 0..{num_classes - 1}"
        )
