"""What `compress` and `importance` share: their options, and what they make of them."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from layermerge.checks import MAX_SEED
from layermerge.commands.inputs import explaining_input
from layermerge.commands.options import (
    at_least,
    at_least_zero,
    example,
    positive,
    words,
)
from layermerge.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from layermerge.datasets import Dataset
    from layermerge.graph import ExampleInputs
    from layermerge.importance.executors import Executor
    from layermerge.importance.search_options import SearchOptions
    from layermerge.recipes import Recipe


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A model, and how to train and score it."""

    model: nn.Module
    example: Tensor
    recipe: Recipe


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add how networks are fine-tuned."""
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
    group.add_argument(
        "--distillation",
        type=float,
        default=0.5,
        metavar="A",
        help="part of the final fine-tune's loss that comes from the original network, 0..1; "
        "default: 0.5",
    )
    group.add_argument(
        "--feature-distillation",
        type=at_least_zero,
        default=0.0,
        metavar="W",
        help="weight of the distance of feature maps from the original network's; default: 0",
    )
    group.add_argument(
        "--features",
        type=words,
        default=(),
        metavar="M,M,...",
        help="modules that compute those feature maps; default: the last one before the head",
    )
    group.add_argument("--label-smoothing", type=float, default=0.0, metavar="E")
    group.add_argument(
        "--mixup", type=float, default=0.0, metavar="A", help="mix images by Beta(A, A) shares"
    )
    group.add_argument(
        "--ema", type=float, metavar="D", help="end with weights averaged at this decay"
    )
    group.add_argument("--clip-norm", type=float, metavar="N", help="largest norm of a gradient")
    group.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="of the arithmetic of the final fine-tune; default: fp32",
    )
    group.add_argument(
        "--tensorboard",
        action="store_true",
        help="log the final fine-tune for TensorBoard, in the folder of the run",
    )
    group.add_argument("--seed", type=at_least(0, MAX_SEED), default=0, help="default: 0")
    group.add_argument(
        "--init",
        choices=("composed", "least_squares"),
        default="composed",
        help="what fine-tunes start from: the weights that are kept, or segments merged in closed "
        "form on training data; default: composed",
    )


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add how the plan is searched for, and where."""
    group = parser.add_argument_group("search")
    group.add_argument(
        "--full",
        action="store_true",
        help="evaluate every candidate, not only those that decide the plan",
    )
    group.add_argument(
        "--objective",
        choices=("exp_delta", "delta", "exp_relative"),
        default="exp_delta",
        help="importance of a change of the score: its exponential (the paper), itself, or its "
        "exponential relative to the score; default: exp_delta",
    )
    group.add_argument(
        "--no-contest",
        action="store_true",
        help="take the plan of the largest total importance, without comparing whole plans",
    )
    group.add_argument(
        "--no-ranking",
        action="store_true",
        help="do not rank candidates in closed form before the search; for fine-tunes so short "
        "that ranking takes longer than those it saves",
    )
    for name, default, what in (
        ("gain", 0.0, "a candidate beats the original network"),
        ("order", 0.0, "a candidate beats one that removes a part of what it removes"),
        ("prediction", 2.0, "a score beats its prediction, in multiples of the prediction's error"),
    ):
        group.add_argument(
            f"--{name}-margin",
            type=at_least_zero,
            default=default,
            metavar="M",
            help=f"by how much the search assumes that {what}, at most; default: {default:g}",
        )
    group.add_argument(
        "--executor",
        choices=("serial", "processes", "ray"),
        default="serial",
        help="where candidates are evaluated: here, in processes or GPUs of this machine, or on a "
        "Ray cluster; default: serial",
    )
    group.add_argument(
        "--workers",
        type=at_least(1),
        metavar="N",
        help="for processes; default: one per GPU, or 2",
    )
    group.add_argument("--ray-address", default="auto", metavar="A", help="for ray; default: auto")


def executor_of(arguments: argparse.Namespace) -> Executor:
    """The executor that was asked for."""
    if arguments.executor == "processes":
        from layermerge.importance.processes import Processes

        return Processes(arguments.workers or 0)
    if arguments.executor == "ray":
        from layermerge.importance.ray_cluster import RayCluster

        return RayCluster(arguments.ray_address)
    from layermerge.importance.executors import SERIAL

    return SERIAL


def search_options(arguments: argparse.Namespace) -> SearchOptions:
    """The options of the search."""
    from layermerge.importance.bounds import Margins
    from layermerge.importance.search_options import SearchOptions

    margins = Margins(arguments.gain_margin, arguments.order_margin, arguments.prediction_margin)
    return SearchOptions(
        full=arguments.full,
        objective=arguments.objective,
        margins=margins,
        contest=not arguments.no_contest,
    )


def load_task(arguments: argparse.Namespace, folder: Path | None = None) -> Task:
    """Load the model and the data, and make callbacks that log to the folder."""
    import torch

    from layermerge.finetuning import FinetuneSettings
    from layermerge.graph import bind_inputs
    from layermerge.latency.placement import resolve_device
    from layermerge.models import load_model_and_inputs
    from layermerge.probing import first_that_runs
    from layermerge.recipes import classification

    model, own = load_model_and_inputs(
        arguments.model, weights=arguments.weights, pretrained=arguments.pretrained
    )
    _check_precision(model, arguments.model)
    own_shape = _image_shape(own)
    dataset = _load_data(arguments.data, arguments.input or own_shape)
    device = resolve_device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(device)
    image = example(_example_shape(dataset, arguments.input, own_shape)).to(device)
    with explaining_input(model, arguments.model):
        first_that_runs(model, bind_inputs(model, image))
    recipe = classification(
        model,
        dataset,
        probe=FinetuneSettings(
            steps=arguments.probe_steps, learning_rate=arguments.probe_lr, seed=arguments.seed
        ),
        final=FinetuneSettings(
            epochs=arguments.epochs,
            learning_rate=arguments.lr,
            distillation=arguments.distillation,
            feature_distillation=arguments.feature_distillation,
            features=arguments.features,
            label_smoothing=arguments.label_smoothing,
            mixup=arguments.mixup,
            ema=arguments.ema,
            clip_norm=arguments.clip_norm,
            precision=arguments.precision,
            seed=arguments.seed,
        ),
        folder=folder,
        tensorboard=arguments.tensorboard,
    )
    return Task(model, image, recipe)


def _check_precision(model: nn.Module, name: str) -> None:
    """Refuse weights of less than 32 bits, in which small steps of training are lost."""
    for weight in model.parameters():
        if weight.is_floating_point() and weight.itemsize < 4:
            dtype = str(weight.dtype).removeprefix("torch.")
            raise InputError(
                f"the weights of {name} are {dtype}, in which they cannot be fine-tuned: let the "
                "function return model.float(). --precision is that of training, --dtype that of "
                "the network whose latency counts"
            )


def _image_shape(own: ExampleInputs | None) -> tuple[int, ...] | None:
    """The shape of the model's own example, if that is one batch of images."""
    from torch.utils import _pytree as pytree

    shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves(own) if leaf is not None]
    return shapes[0] if len(shapes) == 1 and len(shapes[0]) == 4 else None


def _example_shape(
    dataset: Dataset, asked: tuple[int, ...] | None, own: tuple[int, ...] | None
) -> tuple[int, ...]:
    """What is asked for, or one image of the data, or as many of them as the model's own example.

    Tells when latency is measured on images of another size than those that are trained on.
    """
    images, _ = next(iter(dataset.validation), (None, None))
    if images is None:
        raise InputError(f"the validation part of {dataset.name} holds no images")
    of_data = tuple(images.shape[1:])
    if asked is None:
        return own if own is not None and own[1:] == of_data else (1, *of_data)
    if asked[1:] != of_data:
        _log.warning(
            "latency is measured on %s, and %s holds images of %s, of which accuracies are",
            "x".join(map(str, asked)),
            dataset.name,
            "x".join(map(str, of_data)),
        )
    return asked


def _load_data(name: str, shape: tuple[int, ...] | None) -> Dataset:
    """The data that an argument names, its files read at the height and width of a shape."""
    from layermerge.datasets import (
        IMAGE_SIZE,
        Dataset,
        load_digits,
        load_hub_dataset,
        load_image_folder,
    )
    from layermerge.models import call_by_name

    if name == "digits":
        return load_digits()
    if name.startswith(("imagefolder:", "hf:")):
        kind, _, path = name.partition(":")
        size = _square(name, shape) if shape else IMAGE_SIZE
        if kind == "imagefolder":
            return load_image_folder(path, size=size)
        path, _, label = path.partition("#")
        return load_hub_dataset(path, label=label or None, size=size)
    if ":" not in name:
        raise InputError(
            f"--data must be digits, imagefolder:DIR, hf:PATH or FILE.py:FUNCTION, got {name!r}"
        )
    dataset = call_by_name(name)
    if not isinstance(dataset, Dataset):
        raise InputError(
            f"{name} returned a {type(dataset).__name__}, expected a layermerge.datasets.Dataset"
        )
    return dataset


def _square(name: str, shape: tuple[int, ...]) -> int:
    """Height and width of the images to read."""
    if len(shape) != 4 or shape[2] != shape[3]:
        raise InputError(
            f"--data {name} are read as square images, and the input is "
            f"{'x'.join(map(str, shape))}: give --input 1x3xNxN, or a Dataset of your own "
            "(FILE.py:FUNCTION)"
        )
    return shape[2]
