"""A training that can be stopped after any step and taken up again."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import astuple
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from layermerge.errors import InputError, TrainingError
from layermerge.finetune_settings import DTYPES, FinetuneSettings
from layermerge.labels import checked_batch
from layermerge.losses import Loss
from layermerge.schedules import scheduled_optimizer
from layermerge.seeding import generators_of, random_state, restore_random_state
from layermerge.training_log import Step
from layermerge.weights import load_state

Batch = tuple[Tensor, Tensor]
_OTHER_DATA = "give the same data, or delete the checkpoint to start anew"


class Training:
    """Everything that changes from step to step.

    Parameters
    ----------
    model : torch.nn.Module
        Trained in place.
    settings : FinetuneSettings
    steps : int
        How long it takes.
    teacher : torch.nn.Module or None
    accelerator : accelerate.Accelerator or None
    """

    def __init__(
        self,
        model: nn.Module,
        settings: FinetuneSettings,
        steps: int,
        teacher: nn.Module | None,
        accelerator: Any,
    ) -> None:
        self.settings = settings
        self.steps = steps
        self.accelerator = accelerator
        self.history: list[Step] = []
        self.module = model
        optimizer, self.schedule = scheduled_optimizer(model, settings, steps)
        if accelerator is None:
            self.model, self.optimizer = model, optimizer
        else:
            self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.device = device_of(model)
        if teacher is not None and device_of(teacher) != self.device:
            teacher = deepcopy(teacher).to(self.device)
        self._loss = Loss(settings, model, teacher, accelerator)
        self.average = self._averaged()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self._began = time.monotonic()
        self._epoch_began: dict[str, Any] = {}
        self._generators: list[torch.Generator] = []
        self._loader_began: list[Tensor] = []
        self._batches_done = self._epochs_done = 0
        self._resumed: dict[str, Any] | None = None

    def run(self, loader: Iterable[Batch], *, is_divided: bool = False) -> Iterator[None]:
        """Take the steps that are left, epoch after epoch; yields after each.

        A loader that `accelerator` has prepared is divided among the processes; of others each
        takes a part of every batch.
        """
        self.model.train()
        self._generators = generators_of(loader)
        while len(self.history) < self.steps:
            self._begin_epoch()
            if is_divided:  # by which samplers with an epoch draw
                cast(Any, loader).iteration = self._epochs_done
            skipped = self._batches_done
            is_empty = True
            for place, batch in enumerate(loader):
                is_empty = False
                if place < skipped:
                    if place + 1 == skipped:
                        self._take_up()
                    continue
                images, labels = checked_batch(batch)
                if self.accelerator is not None and not is_divided:
                    images, labels = self._share(images), self._share(labels)
                self._step(images.to(self.device), labels.to(self.device))
                self._batches_done = place + 1
                yield
                if len(self.history) == self.steps:
                    return
            if is_empty:
                raise InputError(
                    "data holds no batch (an iterator that is used up holds none either)"
                )
            if self._resumed is not None:
                raise InputError(
                    f"data holds fewer batches than the {skipped} that were seen when the "
                    f"checkpoint was written: {_OTHER_DATA}"
                )
            self._batches_done = 0
            self._epochs_done += 1

    def finish(self) -> None:
        """Let the model have the averaged weights, if they are averaged."""
        if self.average is not None:
            self.module.load_state_dict(self.average.module.state_dict())

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {
            "model": self.module.state_dict(),
            "buffers": self._other_buffers(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "history": [astuple(step) for step in self.history],
            "epoch_began": self._epoch_began,
            "loader_began": self._loader_began,
            "batches_done": self._batches_done,
            "epochs_done": self._epochs_done,
            "random": random_state(),
            "loader": self._loader_state(),
        }

    def restore(self, state: Mapping[str, Any], source: object) -> None:
        """Go on from a `state`, exactly: batches that were seen are drawn again, and left."""
        load_state(self.module, state["model"], source)
        for name, buffer in self._other_buffers().items():
            buffer.copy_(state["buffers"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.history = [Step(*values) for values in state["history"]]
        self._began = time.monotonic() - (self.history[-1].seconds if self.history else 0.0)
        self._batches_done, self._epochs_done = state["batches_done"], state["epochs_done"]
        self._resumed = dict(state)

    def _other_buffers(self) -> dict[str, Tensor]:
        """Buffers that are not persistent, by name: no part of the model's own state."""
        saved = self.module.state_dict(keep_vars=True).keys()
        return {name: each for name, each in self.module.named_buffers() if name not in saved}

    def _begin_epoch(self) -> None:
        if self._resumed is not None:
            restore_random_state(self._resumed["epoch_began"])
            self._restore_loader(self._resumed["loader_began"])
        self._epoch_began, self._loader_began = random_state(), self._loader_state()

    def _take_up(self) -> None:
        """Behind the last batch that was seen, be where the state was."""
        assert self._resumed is not None
        restore_random_state(self._resumed["random"])
        self._restore_loader(self._resumed["loader"])
        self._resumed = None

    def _loader_state(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators]

    def _restore_loader(self, states: list[Tensor]) -> None:
        if len(states) != len(self._generators):
            raise InputError(
                f"data draws from {len(self._generators)} generators of its own, and drew from "
                f"{len(states)} when the checkpoint was written: {_OTHER_DATA}"
            )
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)

    def _share(self, values: Tensor) -> Tensor:
        """The part of a batch that this process trains on; all of it, if it is too small."""
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        return values[rank::count] if len(values) >= count else values

    def _step(self, images: Tensor, labels: Tensor) -> None:
        settings = self.settings
        with torch.autocast(
            self.device.type,
            DTYPES[settings.precision],
            enabled=DTYPES[settings.precision] is not None,
        ):
            loss = self._loss(self.model, images, labels, len(self.history) + 1)
        value = self._checked(loss)
        self.optimizer.zero_grad()
        scaled = self.scaler.scale(loss)
        if self.accelerator is None:
            scaled.backward()  # type: ignore[no-untyped-call]
        else:
            self.accelerator.backward(scaled)
        if settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._remember(value)
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.module)

    def _remember(self, loss: float) -> None:
        rate, seconds = self.schedule.get_last_lr()[0], time.monotonic() - self._began
        self.history.append(Step(len(self.history) + 1, loss, float(rate), seconds))

    def _checked(self, loss: Tensor) -> float:
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {len(self.history) + 1}: check the data for NaN, or "
                f"lower learning_rate from {self.settings.learning_rate}"
            )
        return value

    def _averaged(self) -> AveragedModel | None:
        if self.settings.ema is None:
            return None
        return AveragedModel(
            self.module, multi_avg_fn=partial(_average, self.settings.ema), use_buffers=True
        )


def _average(
    ema: float, averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor | int
) -> None:
    """Step of a moving average that forgets its start: (1 + n) / (10 + n) until that is `ema`.

    So does TensorFlow's ExponentialMovingAverage, told the number of updates.
    """
    count = int(num_averaged)
    step = get_ema_multi_avg_fn(min(ema, (1 + count) / (10 + count)))  # type: ignore[no-untyped-call]
    if current[0].is_floating_point():
        step(averaged, current, num_averaged)
    else:  # counts, which come apart from the others
        for average, value in zip(averaged, current, strict=True):
            average.copy_(value)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
