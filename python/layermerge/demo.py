"""The demonstration: compress a small ResNet trained on real handwritten digits, end to end."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermerge.datasets import DIGITS_SIZE, Dataset, load_digits
from layermerge.errors import InputError
from layermerge.finetuning import FinetuneSettings, finetune
from layermerge.latency.options import LatencyOptions
from layermerge.options import Options
from layermerge.pipeline import Compression, compress
from layermerge.recipes import classification
from layermerge.results import STUDY_FILE
from layermerge.search_space import SearchSpace
from layermerge.seeding import seeded
from layermerge.weights_files import read_weights, write_weights

BASE_FILE = "base.safetensors"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemoSettings:
    """How long each part of the demonstration takes.

    Attributes
    ----------
    base, probe, final : FinetuneSettings
        Training of the base, the short fine-tunes for importance, and the fine-tune of the result.
    max_kernel : int
    target_rsd, max_seconds : float
        Of the latency measurements.
    batch : int
        Images per call in the latency measurements.
    """

    base: FinetuneSettings
    probe: FinetuneSettings
    final: FinetuneSettings
    max_kernel: int = 5
    target_rsd: float = 0.02
    max_seconds: float = 40.0
    batch: int = 64


FULL = DemoSettings(
    base=FinetuneSettings(epochs=40, learning_rate=5e-3),
    probe=FinetuneSettings(steps=20, learning_rate=1e-3),
    final=FinetuneSettings(epochs=60, learning_rate=3e-3),
)
FAST = DemoSettings(
    base=FinetuneSettings(epochs=6, learning_rate=5e-3),
    probe=FinetuneSettings(steps=3, learning_rate=1e-3),
    final=FinetuneSettings(epochs=4, learning_rate=3e-3),
    max_kernel=3,
    target_rsd=0.05,
    max_seconds=6.0,
)


class Block(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class DigitsNet(nn.Module):
    """A ResNet of 21 convolutions for 32x32 grey images of ten classes."""

    def __init__(self, width: int = 8, blocks: tuple[int, ...] = (3, 3, 3)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages = []
        in_channels = width
        for place, count in enumerate(blocks):
            out_channels = width << place
            for block in range(count):
                stride = 2 if place and not block else 1
                stages.append(Block(in_channels, out_channels, stride))
                in_channels = out_channels
        self.blocks = nn.Sequential(*stages)
        self.fc = nn.Linear(in_channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (batch, 1, 32, 32) to logits (batch, 10)."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(self.blocks(x).mean((2, 3)))  # type: ignore[no-any-return]


def run_demo(
    directory: str | Path = "runs/demo",
    *,
    speedup: float = 1.5,
    seed: int = 0,
    settings: DemoSettings = FULL,
    threads: int | None = None,
    progress: bool = True,
) -> Compression:
    """Train a network on digits and compress it; keep what takes time in a folder.

    What a run before has done with the same settings and seed is not done again.

    Parameters
    ----------
    directory : path
        Made if it does not exist.
    speedup : float
        Of the whole network, measured.
    seed : int
    settings : DemoSettings
        `FULL`, or `FAST` for a quick look.
    threads : int, optional
        Threads to train and measure with, by default one fewer than there are processors, which
        leaves one for whatever else runs.
    progress : bool
        Show progress bars on a terminal.
    """
    threads = threads or max(1, (os.cpu_count() or 2) - 1)
    torch.set_num_threads(threads)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    dataset = load_digits()
    model = train_base(folder, dataset, replace(settings.base, seed=seed), progress=progress)
    recipe = classification(
        model,
        dataset,
        probe=replace(settings.probe, seed=seed),
        final=replace(settings.final, seed=seed),
        folder=folder,
        progress=progress,
    )
    generator = torch.Generator().manual_seed(seed)
    return compress(
        model,
        torch.randn(settings.batch, 1, DIGITS_SIZE, DIGITS_SIZE, generator=generator),
        speedup=speedup,
        score_fn=recipe.score_fn,
        train_fn=recipe.train_fn,
        finetune_fn=recipe.finetune_fn,
        evaluate_fn=recipe.evaluate_fn,
        study=folder / STUDY_FILE,
        options=Options(
            space=SearchSpace(max_kernel=settings.max_kernel),
            latency=LatencyOptions(
                threads=threads,
                target_rsd=settings.target_rsd,
                max_seconds=settings.max_seconds,
                progress=progress,
            ),
            estimator=recipe.estimator,
            finetuner=recipe.finetuner,
            score_name=recipe.score_name,
            seed=seed,
            progress=progress,
        ),
    )


def train_base(
    folder: Path, dataset: Dataset, settings: FinetuneSettings, *, progress: bool
) -> DigitsNet:
    """Train the network that is to be compressed, or load it if it was trained so before."""
    path = folder / BASE_FILE
    with seeded(settings.seed):
        model = DigitsNet()
    recipe = json.dumps({"dataset": dataset.name, **asdict(settings)}, sort_keys=True)
    if path.exists() and _load_base(model, path, recipe):
        return model.eval()
    _log.info("training the base on %s", dataset.name)
    finetune(model, dataset.train, settings, description="Training the base", progress=progress)
    write_weights(model.state_dict(), path, {"recipe": recipe})
    return model


def _load_base(model: DigitsNet, path: Path, recipe: str) -> bool:
    """Load a base that was trained by a recipe; whether there is one that can be read."""
    try:
        weights, metadata = read_weights(path)
    except InputError as error:
        _log.warning("%s", error)
        return False
    if metadata.get("recipe") != recipe:
        return False
    model.load_state_dict(weights)
    return True
