"""Callbacks that other processes can be sent: they are at the top level of a module."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from layermerge.finetuning import FinetuneSettings, finetune, score_classification
from networks import striped_images

TRAIN, HELD_OUT = striped_images(96), striped_images(120, seed=1)


def train(module: nn.Module) -> None:
    finetune(module, TRAIN, FinetuneSettings(steps=3, batch_size=32), progress=False)


def score(module: nn.Module) -> float:
    return score_classification(module, [HELD_OUT])


@dataclass(frozen=True)
class Recording:
    """Trains; leaves a file for each call, named after the process and the time."""

    folder: Path
    seconds: float = 0.0

    def __call__(self, module: nn.Module) -> None:
        (self.folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(self.seconds)
        train(module)


@dataclass(frozen=True)
class Killing:
    """Kills its own process, as the system does for want of memory: so many times, then trains."""

    folder: Path
    times: int

    def __call__(self, module: nn.Module) -> None:
        for place in range(self.times):
            try:
                (self.folder / f"kill-{place}").touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        train(module)


@dataclass(frozen=True)
class Interrupted:
    """Gets the signal of Ctrl-C, as all processes of a terminal do; leaves a file for each call."""

    folder: Path

    def __call__(self, module: nn.Module) -> None:
        (self.folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        os.kill(os.getpid(), signal.SIGINT)
        train(module)


def interrupt(module: nn.Module) -> None:
    raise KeyboardInterrupt


class NeedsTheDriver:
    """Can be sent, but not received."""

    def __call__(self, module: nn.Module) -> float:
        return 0.0

    def __reduce__(self):
        return fail, ()


def fail() -> None:
    raise ImportError("no module named 'mine'")
