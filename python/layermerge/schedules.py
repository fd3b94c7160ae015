"""The optimiser of a training, and how its learning rate goes: warm-up, then half a cosine."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from layermerge.errors import InputError
from layermerge.finetune_settings import FinetuneSettings


def scheduled_optimizer(
    model: nn.Module, settings: FinetuneSettings, steps: int
) -> tuple[Optimizer, LambdaLR]:
    """What a training takes its steps by; vectors, such as biases, are not decayed.

    Raises
    ------
    InputError
        If every parameter is frozen.
    """
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
