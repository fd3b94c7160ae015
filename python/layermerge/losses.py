"""The loss of a batch: of its labels, and of a teacher's logits and features."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermerge.errors import InputError, located
from layermerge.feature_distillation import FeatureDistance, Features
from layermerge.finetune_settings import FinetuneSettings
from layermerge.labels import check_labels, check_range, num_counted


class Loss:
    """(1 - a) CE + a T² KL(teacher ‖ model) + f ‖φ - φ_teacher‖² / ‖φ_teacher‖².

    See `finetune`. Means are over labels, and over all places of dense logits.

    Parameters
    ----------
    settings : FinetuneSettings
    module : torch.nn.Module
        The model, whose features are watched.
    teacher : torch.nn.Module or None
        On the same device.
    accelerator : accelerate.Accelerator or None
    """

    def __init__(
        self,
        settings: FinetuneSettings,
        module: nn.Module,
        teacher: nn.Module | None,
        accelerator: Any,
    ) -> None:
        if teacher is None and settings.feature_distillation:
            raise InputError(
                f"feature_distillation is {settings.feature_distillation}, which needs a teacher: "
                "give one, or set it to 0"
            )
        self.settings, self.module, self.teacher = settings, module, teacher
        self.accelerator = accelerator
        self._distance: FeatureDistance | None = None

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """The loss at a step, counted from 1, of the model or what wraps it."""
        settings = self.settings
        share, others = 1.0, labels
        if settings.mixup:
            share, images, others = mixed(images, labels, settings.mixup)
        of_labels, of_images = self._parts(labels)
        with self._features(images) as features:
            logits = _logits(model, "model", images, step)
            if of_labels:
                check_labels(labels, logits)
            wanted = None if self.teacher is None else self._wanted(images, logits, step)
        logits = _in_full(logits)
        entropies = [
            of_labels
            * part
            * F.cross_entropy(logits, target, label_smoothing=settings.label_smoothing)
            for part, target in ((share, labels), (1 - share, others))
            if part and of_labels  # else all labels that count are those of other processes
        ]
        loss: Tensor = sum(entropies[1:], entropies[0]) if entropies else 0 * logits.sum()
        if wanted is None:
            return loss
        divergence = F.kl_div(
            F.log_softmax(logits / settings.temperature, dim=1),
            F.log_softmax(_in_full(wanted) / settings.temperature, dim=1),
            reduction="sum",
            log_target=True,
        )
        places = logits.numel() // logits.shape[1]
        weight = settings.distillation * settings.temperature**2 * of_images / places
        loss = (1 - settings.distillation) * loss + weight * divergence
        if features is None:
            return loss
        return loss + settings.feature_distillation * features.distance()

    def _parts(self, labels: Tensor) -> tuple[float, float]:
        """What means over labels and over images count here, where processes have a part each.

        Gradients are averaged over processes, and some have fewer labels than others.
        """
        processes = 1 if self.accelerator is None else self.accelerator.num_processes
        if processes == 1:
            return 1.0, 1.0
        own = torch.tensor([num_counted(labels), len(labels)], device=labels.device)
        whole = self.accelerator.reduce(own, reduction="sum")
        if not whole[0]:  # the same error in each process
            check_range(labels, 0)
        of_labels, of_images = (own * processes / whole).tolist()
        return of_labels, of_images

    @torch.no_grad()
    def _wanted(self, images: Tensor, logits: Tensor, step: int) -> Tensor:
        """The teacher's logits."""
        assert self.teacher is not None
        wanted = _logits(self.teacher, "teacher", images, step)
        if not isinstance(wanted, Tensor) or wanted.shape != logits.shape:
            found = tuple(wanted.shape) if isinstance(wanted, Tensor) else type(wanted).__name__
            raise InputError(
                f"the teacher computes {found} where the model computes {tuple(logits.shape)}: "
                "give a teacher of the same classes, or set distillation to 0 and leave it out"
            )
        if not torch.isfinite(wanted).all():
            raise InputError(
                f"the teacher computes NaN or infinite values at step {step}: check the data and "
                "its weights, or leave it out with distillation 0"
            )
        return wanted

    def _features(self, images: Tensor) -> AbstractContextManager[Features | None]:
        """Watch the features that are compared with the teacher's, if any are."""
        if not self.settings.feature_distillation:
            return nullcontext()
        assert self.teacher is not None
        if self._distance is None:
            self._distance = FeatureDistance(
                self.module, self.teacher, images, self.settings.features
            )
        return self._distance.watching()


def _in_full(logits: Tensor) -> Tensor:
    """Logits in single precision at least: autocasting on CPUs leaves softmax in half."""
    return logits.float() if logits.itemsize < 4 else logits


def _logits(network: nn.Module, name: str, images: Tensor, step: int) -> Any:
    """What a network computes; a first batch on which it fails is not fit for it."""
    try:
        return network(images)
    except Exception as error:
        if step > 1:
            raise
        raise InputError(
            f"the {name} fails on the first batch, images of shape {tuple(images.shape)} and "
            f"{images.dtype}: {located(error)}"
        ) from error


def mixed(images: Tensor, labels: Tensor, alpha: float) -> tuple[float, Tensor, Tensor]:
    """Mix images in pairs: the share of the first, the mixtures, the labels of the second."""
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(images), device=images.device)
    return share, share * images + (1 - share) * images[order], labels[order]
