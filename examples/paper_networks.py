"""Compress the networks of the paper, from model to merged network.

    python examples/paper_networks.py resnet34                                  # needs no data
    python examples/paper_networks.py mobilenetv2-1.4 --space paper --speedup 1.3
    python examples/paper_networks.py resnet50 --pretrained --data imagefolder:imagenet

Without data nothing can be trained: importance is then how little the output moves on random images
when a segment is replaced, before any fine-tune. The latencies, the speed-up and the exactness of
the merge are real; the plan shows what the search does, and has no accuracy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import layermerge as lm
from layermerge.datasets import Dataset, load_image_folder
from layermerge.finetuning import FinetuneSettings
from layermerge.importance.search import SearchOptions
from layermerge.recipes import classification

NETWORKS = {
    "resnet34": "torchvision:resnet34",
    "resnet50": "torchvision:resnet50",
    "mobilenetv2-1.0": "timm:mobilenetv2_100",
    "mobilenetv2-1.4": "timm:mobilenetv2_140",
    "vgg19": "torchvision:vgg19_bn",
    "ddpm-cifar10": "diffusers:ddpm-cifar10-32",
}
IMAGENET_MEAN, IMAGENET_STD = (
    torch.tensor(values).reshape(3, 1, 1)
    for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)
NUM_NOISE_LEVELS = 1000
SIGNAL = torch.cumprod(1 - torch.linspace(1e-4, 0.02, NUM_NOISE_LEVELS), 0)
"""What is left of an image's variance at each noise level (Ho et al., 2020)."""


def random_inputs(count: int, size: int, arguments: argparse.Namespace) -> Any:
    """Random images; for the denoiser with their noise levels."""
    images = torch.randn(count, 3, size, size, device=arguments.device)
    if arguments.network != "ddpm-cifar10":
        return images
    return {"sample": images, "timestep": torch.full((count,), 10, device=arguments.device)}


def calibrated(model: nn.Module, inputs: Any) -> nn.Module:
    """Give batch norms the statistics of the inputs, without which random networks explode."""
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the average of all batches: of this one
        norm.reset_running_stats()
        norm.train()
    output_of(model, inputs)
    return model.eval()


@torch.no_grad()
def output_of(module: nn.Module, inputs: Any) -> Tensor:
    """What a network makes of its inputs; a U-Net of diffusers wraps it."""
    output = module(**inputs) if isinstance(inputs, dict) else module(inputs)
    return output if isinstance(output, Tensor) else output.sample


def without_data(model: nn.Module, inputs: Any) -> dict[str, Any]:
    """Score by minus the relative squared change of the output; train nothing."""
    expected = output_of(model, inputs)

    def score(module: nn.Module) -> float:
        error = (output_of(module, inputs) - expected).square().sum() / expected.square().sum()
        return -float(error)

    return {"score_fn": score, "train_fn": lambda module: module}


def classifying(model: nn.Module, data: Dataset, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and score a classifier, as `layermerge compress` does."""
    recipe = classification(
        model,
        data,
        probe=FinetuneSettings(steps=arguments.probe_steps),
        final=FinetuneSettings(epochs=arguments.epochs),
        folder=arguments.run,
    )
    names = ("score_fn", "train_fn", "finetune_fn", "evaluate_fn", "calibration")
    return {name: getattr(recipe, name) for name in names}


def noisy(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images at random noise levels, the levels, and the noise."""
    level = torch.randint(NUM_NOISE_LEVELS, (len(images),))
    signal = SIGNAL[level].reshape(-1, 1, 1, 1)
    clean = (images * IMAGENET_STD + IMAGENET_MEAN) * 2 - 1
    noise = torch.randn_like(clean)
    return signal.sqrt() * clean + (1 - signal).sqrt() * noise, level, noise


def denoising(model: nn.Module, data: Dataset, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a denoiser on the mean squared error of the noise, and score by minus that."""
    device = next(model.parameters()).device

    def loss(module: nn.Module, images: Tensor) -> Tensor:
        images, level, noise = (part.to(device) for part in noisy(images))
        return F.mse_loss(module(sample=images, timestep=level).sample, noise)

    def train(module: nn.Module, steps: int) -> None:
        optimizer = torch.optim.AdamW(module.train().parameters(), 1e-4)
        for images, _ in islice(chain.from_iterable(repeat(data.train)), steps):
            optimizer.zero_grad()
            loss(module, images).backward()
            optimizer.step()
        module.eval()

    @torch.no_grad()
    def score(module: nn.Module, batches: Any) -> float:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same noise each time
            losses = [float(loss(module, images)) for images, _ in batches]
        return -sum(losses) / len(losses)

    return {
        "score_fn": partial(score, batches=data.validation),
        "train_fn": partial(train, steps=arguments.probe_steps),
        "finetune_fn": partial(train, steps=arguments.epochs * len(data.train)),
        "evaluate_fn": partial(score, batches=data.test),
    }


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--space", choices=("general", "paper"), default="general")
    parser.add_argument("--speedup", type=float, default=1.5, help="end to end; default: 1.5")
    parser.add_argument("--data", metavar="imagefolder:DIR", help="DIR/train/CLASS, DIR/val/CLASS")
    parser.add_argument("--pretrained", action="store_true", help="download the library's weights")
    parser.add_argument("--weights", type=Path, help="safetensors file or state dict")
    parser.add_argument("--run", type=Path, default=None, help="folder for study and result")
    parser.add_argument("--size", type=int, help="of images; default: 32 for DDPM, else 224")
    parser.add_argument("--batch", type=int, default=1, help="whose latency counts; default: 1")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backend", default="eager", help="such as compile, cuda-graphs")
    parser.add_argument(
        "--roofline",
        nargs=2,
        type=float,
        metavar=("TFLOPS", "GB/S"),
        help="compute latencies from these, measure none",
    )
    parser.add_argument("--threads", type=int, help="on the CPU")
    parser.add_argument("--max-seconds", type=float, default=120.0, help="for each measurement")
    parser.add_argument(
        "--max-flops-ratio", type=float, help="default: 2, in the paper's space no limit"
    )
    parser.add_argument("--probe-steps", type=int, default=100, help="of short fine-tunes")
    parser.add_argument("--epochs", type=int, default=20, help="of the final fine-tune")
    return parser.parse_args(words)


def options_of(arguments: argparse.Namespace) -> lm.Options:
    """The search space, how latency is measured, and what a change of the score is worth."""
    is_unet, is_paper = arguments.network == "ddpm-cifar10", arguments.space == "paper"
    ratio = arguments.max_flops_ratio or (None if is_paper else 2.0)
    remove = ("activation", "norm") if is_unet or is_paper else ("activation",)
    is_loss = is_unet and arguments.data is not None
    return lm.Options(
        space=lm.SearchSpace(space=arguments.space, remove=remove, max_flops_ratio=ratio),
        search=SearchOptions(objective="exp_relative" if is_loss else "exp_delta"),
        latency=lm.LatencyOptions(
            backend="analytic" if arguments.roofline else arguments.backend,
            roofline=lm.Roofline(*arguments.roofline) if arguments.roofline else None,
            threads=arguments.threads,
            max_seconds=arguments.max_seconds,
        ),
        estimator=f"{arguments.data or 'output on random images'}, {arguments.probe_steps} steps",
        finetuner=f"{arguments.data or 'none'}, {arguments.epochs} epochs",
    )


def main(words: Sequence[str] | None = None) -> lm.Compression:
    """Compress the network that is named, and print what that gives."""
    arguments = read_arguments(words)
    torch.manual_seed(0)
    is_unet = arguments.network == "ddpm-cifar10"
    size = arguments.size or (32 if is_unet else 224)
    model = lm.load_model(
        NETWORKS[arguments.network], weights=arguments.weights, pretrained=arguments.pretrained
    )
    model.to(arguments.device)
    if not (arguments.pretrained or arguments.weights):
        print(
            "The weights are random: latencies are real, scores say nothing of a trained network."
        )
        calibrated(model, random_inputs(8, size, arguments))
    if arguments.data is None:
        print("No data, no training: importance is how far the output moves on random images.")
        callbacks = without_data(model, random_inputs(8, size, arguments))
    else:
        data = load_image_folder(arguments.data.removeprefix("imagefolder:"), size=size)
        callbacks = (denoising if is_unet else classifying)(model, data, arguments)
    study = None
    if arguments.run is not None:
        arguments.run.mkdir(parents=True, exist_ok=True)
        study = arguments.run / "study.db"
    compression = lm.compress(
        model,
        random_inputs(arguments.batch, size, arguments),
        speedup=arguments.speedup,
        study=study,
        options=options_of(arguments),
        **callbacks,
    )
    report(compression, arguments)
    return compression


def report(compression: lm.Compression, arguments: argparse.Namespace) -> None:
    """Print the plan and what it gives; save it if asked to."""
    result = compression.result
    for segment in compression.plan.segments:
        if segment.end - segment.start > 1 or not segment.kept:
            kept, kernel = (
                ", ".join(map(str, segment.kept)),
                "x".join(map(str, segment.kernel_size)),
            )
            what = f"keep {kept}, merged to one {kernel}" if kept else "dropped"
            print(f"layers {segment.start + 1}..{segment.end}: {what}")
    print(
        f"{arguments.network}, {arguments.space} space: {result.base.layers} -> "
        f"{result.compressed.layers} convolutions, {result.base.latency_ns / 1e6:.2f} -> "
        f"{result.compressed.latency_ns / 1e6:.2f} ms, {result.speedup:.2f} times as fast\n"
        f"{compression.plan.certificate}"
    )
    if arguments.run is not None:
        lm.save(compression.model, arguments.run, model_name=NETWORKS[arguments.network])
        result.save(arguments.run / "result.json")
        print(f"Saved in {arguments.run}: plan.json, model.safetensors, result.json")


if __name__ == "__main__":
    try:
        main()
    except lm.LayerMergeError as error:
        sys.exit(f"error: {error}")
