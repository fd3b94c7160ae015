"""`layermerge compress MODEL`: from a model and data to a faster network, with the evidence."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from layermerge.commands.options import (
    MAX_SEED,
    add_latency,
    add_model,
    add_space,
    announce_stages,
    at_least,
    example,
    latency_options,
    percentage,
    positive,
)
from layermerge.errors import InputError

if TYPE_CHECKING:
    import torch

    from layermerge.datasets import Dataset
    from layermerge.latency.options import LatencyOptions
    from layermerge.pipeline import Compression

SUMMARY = "Make a model faster: measure, search, fine-tune, merge, verify."
EPILOG = """\
data:
  digits                 scikit-learn's digits, 1x32x32 images, 10 classes
  imagefolder:DIR        DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg
  FILE.py:FUNCTION       a function that returns a layermerge.datasets.Dataset

example:
  layermerge compress timm:resnet18 --pretrained --data imagefolder:imagenet --speedup 1.5
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_model(parser)
    parser.add_argument("--data", required=True, metavar="DATA", help="see below")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--speedup", type=positive, metavar="S", help="end to end, such as 1.5")
    budget.add_argument("--latency-ms", type=positive, metavar="B", help="end to end, in ms")
    budget.add_argument(
        "--latency", type=percentage, metavar="P%", help="of the original latency, such as 60%%"
    )
    parser.add_argument(
        "--out", default="runs/compress", metavar="DIR", help="default: runs/compress"
    )
    add_latency(parser)
    _add_training(parser)
    add_space(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--probe-steps",
        type=at_least(1),
        default=100,
        metavar="N",
        help="steps of each short fine-tune for importance; default: 100",
    )
    group.add_argument(
        "--probe-lr", type=positive, default=1e-3, metavar="R", help="default: 0.001"
    )
    group.add_argument(
        "--epochs",
        type=at_least(1),
        default=20,
        metavar="N",
        help="of the final fine-tune; default: 20",
    )
    group.add_argument("--lr", type=positive, default=1e-3, metavar="R", help="default: 0.001")
    group.add_argument("--seed", type=at_least(0, MAX_SEED), default=0, help="default: 0")


def run(arguments: argparse.Namespace) -> int:
    """Compress and print the result."""
    from layermerge.commands.outcome import compress_to

    announce_stages()
    compress_to(arguments.out, partial(_compress, arguments), as_json=arguments.json)
    return 0


def _compress(arguments: argparse.Namespace, out: Path) -> Compression:
    from layermerge.finetuning import FinetuneSettings
    from layermerge.models import load_model
    from layermerge.pipeline import Options, compress
    from layermerge.recipes import classification

    model = load_model(arguments.model, weights=arguments.weights, pretrained=arguments.pretrained)
    dataset = _load_data(arguments.data)
    latency = latency_options(arguments)
    model.to(_training_device(latency))
    shape = arguments.input or (1, *_image_shape(dataset))
    recipe = classification(
        model,
        dataset,
        probe=FinetuneSettings(
            steps=arguments.probe_steps, learning_rate=arguments.probe_lr, seed=arguments.seed
        ),
        final=FinetuneSettings(
            epochs=arguments.epochs, learning_rate=arguments.lr, seed=arguments.seed
        ),
    )
    return compress(
        model,
        example(shape).to(next(model.parameters()).device),
        speedup=arguments.speedup,
        latency_ms=arguments.latency_ms,
        fraction=arguments.latency,
        score_fn=recipe.score_fn,
        train_fn=recipe.train_fn,
        finetune_fn=recipe.finetune_fn,
        evaluate_fn=recipe.evaluate_fn,
        study=out / "study.db",
        options=Options(
            method=arguments.method,
            max_kernel=arguments.max_kernel,
            frozen=arguments.frozen,
            breaks=arguments.breaks,
            latency=latency,
            estimator=recipe.estimator,
            finetuner=recipe.finetuner,
            score_name=recipe.score_name,
            seed=arguments.seed,
        ),
    )


def _training_device(latency: LatencyOptions) -> torch.device:
    """Where to fine-tune: on the device that is measured, or the fastest there is if none is."""
    import torch

    from layermerge.latency.placement import resolve_device

    default = "cuda" if torch.cuda.is_available() else "cpu"
    return resolve_device(latency.device or default)


def _image_shape(dataset: Dataset) -> tuple[int, ...]:
    for images, _ in dataset.validation:
        return tuple(images.shape[1:])
    raise InputError(f"the validation part of {dataset.name} holds no images")


def _load_data(name: str) -> Dataset:
    from layermerge.datasets import Dataset, load_digits, load_image_folder
    from layermerge.models import call_by_name

    if name == "digits":
        return load_digits()
    if name.startswith("imagefolder:"):
        return load_image_folder(name.removeprefix("imagefolder:"))
    if ":" not in name:
        raise InputError(
            f"--data must be digits, imagefolder:DIR or FILE.py:FUNCTION, got {name!r}"
        )
    dataset = call_by_name(name)
    if not isinstance(dataset, Dataset):
        raise InputError(
            f"{name} returned a {type(dataset).__name__}, expected a layermerge.datasets.Dataset"
        )
    return dataset
