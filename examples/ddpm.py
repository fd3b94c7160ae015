"""Compress a DDPM of handwritten digits: loss, samples and a distance, before and after.

    pip install 'layermerge[demo,diffusers,report]'
    python examples/ddpm.py FOLDER [--speedups 1.1 1.15 1.25] [--fast]

The network is the U-Net of DDPM (Ho et al., 2020, arXiv 2006.11239) as diffusers has it, narrower:
group norms, a time embedding, attention, skips by concatenation. As in the paper of LayerMerge, a
group norm goes with the activation behind it where convolutions merge.

The distance is Fréchet's between features of generated and of real digits (Heusel et al., 2017,
arXiv 1706.08500). The features are those of a small classifier that is trained here on the same
digits, not of Inception: compare it within this table only. What took time is kept in FOLDER.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

import layermerge as lm
from layermerge.demo import DigitsNet
from layermerge.importance.search import SearchOptions
from layermerge.report import write_html
from layermerge.seeding import seeded

SIZE = 32
NUM_TRAIN = 1500
NOISE = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")


@dataclass(frozen=True)
class Settings:
    """How long each part takes; see `FULL` and `FAST`."""

    channels: tuple[int, ...]
    base_steps: int
    probe_steps: int
    final_steps: int
    classifier_steps: int
    num_samples: int
    denoising_steps: int
    latency: lm.LatencyOptions


MEASURED = lm.LatencyOptions(threads=1, max_seconds=40)
COMPUTED = lm.LatencyOptions(backend="analytic", roofline=lm.Roofline(0.05, 10))
FULL = Settings((16, 32, 32), 1500, 25, 300, 400, 500, 25, MEASURED)
FAST = Settings((8, 16), 20, 1, 2, 10, 40, 2, COMPUTED)


def digits() -> tuple[Tensor, Tensor]:
    """Images of 32x32 from -1 to 1, and their labels."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images = F.interpolate(images, (SIZE, SIZE), mode="bilinear").clamp(-1, 1)
    return images[order], torch.tensor(data.target)[order]


IMAGES, LABELS = digits()


def unet(channels: tuple[int, ...]) -> UNet2DModel:
    """The U-Net, with attention at its lowest resolution."""
    lower = len(channels) - 1
    return UNet2DModel(
        sample_size=SIZE,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=(*["DownBlock2D"] * lower, "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", *["UpBlock2D"] * lower),
        norm_num_groups=8,
        attention_head_dim=8,
    )


def inputs() -> dict[str, Tensor]:
    """Sixteen images at one time step: what latency is measured with."""
    return {"sample": torch.randn(16, 1, SIZE, SIZE), "timestep": torch.full((16,), 10)}


def noisy(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images with noise, the time steps that say how much, and the noise."""
    steps = torch.randint(NOISE.config.num_train_timesteps, (len(images),))
    noise = torch.randn_like(images)
    return NOISE.add_noise(images, noise, steps), steps, noise


def train(module: nn.Module, steps: int, rate: float = 1e-3) -> None:
    """Train in place to predict the noise."""
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    for _ in range(steps):
        images, times, noise = noisy(IMAGES[torch.randint(NUM_TRAIN, (32,))])
        loss = F.mse_loss(module(images, times).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    module.eval()


@torch.inference_mode()
def score(module: nn.Module) -> float:
    """Minus the loss on held-out digits, at fixed noise."""
    with seeded(0):
        images, times, noise = noisy(IMAGES[NUM_TRAIN:])
    return -float(F.mse_loss(module(images, times).sample, noise))


@torch.inference_mode()
def sample(module: nn.Module, count: int, steps: int) -> Tensor:
    """Digits from noise, by DDIM (Song et al., 2021, arXiv 2010.02502)."""
    scheduler = DDIMScheduler.from_config(NOISE.config)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(0, count, 50):
        images = torch.randn(50, 1, SIZE, SIZE, generator=generator)
        for step in scheduler.timesteps:
            noise = module(images, step.expand(len(images))).sample
            images = scheduler.step(noise, step, images).prev_sample
        batches.append(images)
    return torch.cat(batches)[:count].clamp(-1, 1)


def feature_network(steps: int) -> nn.Module:
    """A classifier of the digits without its last layer."""
    with seeded(0):
        network = DigitsNet()
        optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
        for _ in range(steps):
            batch = torch.randint(NUM_TRAIN, (64,))
            images = IMAGES[batch] + 0.1 * torch.randn(len(batch), 1, SIZE, SIZE)
            loss = F.cross_entropy(network(images), LABELS[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()
    with torch.inference_mode():
        found = network(IMAGES[NUM_TRAIN:]).argmax(1)
    right = float((found == LABELS[NUM_TRAIN:]).float().mean())
    print(f"the features are of a classifier that has {right:.1%} of held-out digits right")
    network.fc = nn.Identity()
    return network


@torch.inference_mode()
def frechet(features: nn.Module, first: Tensor, second: Tensor) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½), the distance of two normal distributions."""
    (mean_a, cov_a), (mean_b, cov_b) = (
        (values.mean(0), np.cov(values, rowvar=False))
        for values in (features(images).double().numpy() for images in (first, second))
    )
    # The trace of the root is the sum of the roots of the eigenvalues, real and at least 0.
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(0))
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b) - 2 * roots.sum())


def trained(folder: Path, settings: Settings) -> UNet2DModel:
    """The base, which is trained once."""
    path = folder / "base.safetensors"
    with seeded(0):
        model = unet(settings.channels)
        if path.exists():
            model.load_state_dict(safetensors.torch.load_file(path))
        else:
            train(model, settings.base_steps)
            safetensors.torch.save_file(model.state_dict(), path)
    return model.eval()


def compress(
    model: UNet2DModel, speedup: float, folder: Path, settings: Settings
) -> lm.Compression:
    """Make the denoiser faster."""
    with seeded(0):
        return lm.compress(
            model,
            inputs(),
            speedup=speedup,
            score_fn=score,
            train_fn=partial(train, steps=settings.probe_steps),
            finetune_fn=partial(train, steps=settings.final_steps),
            study=folder / "study.db",
            options=lm.Options(
                search=SearchOptions(objective="exp_relative"),
                space=lm.SearchSpace(remove=("activation", "norm"), max_kernel=5),
                latency=settings.latency,
                estimator=f"{settings.probe_steps} steps",
                finetuner=f"{settings.final_steps} steps",
                score_name="minus the loss",
            ),
        )


def draw(samples: dict[str, Tensor], path: Path, columns: int = 12) -> None:
    """A row of samples for each network."""
    figure = Figure(figsize=(columns * 0.6, len(samples) * 0.75), layout="constrained")
    axes = figure.subplots(len(samples), 1, squeeze=False)[:, 0]
    for place, (name, images) in zip(axes, samples.items(), strict=True):
        place.imshow(torch.cat([*images[:columns, 0]], 1).numpy(), cmap="gray", vmin=-1, vmax=1)
        place.set_title(name, fontsize=8, loc="left")
        place.set_axis_off()
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Train, compress at each speed-up, sample, and write a table, samples and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--speedups", type=float, nargs="+", default=[1.1, 1.15, 1.25])
    parser.add_argument(
        "--fast", action="store_true", help="a try of seconds: hardly trained, latency computed"
    )
    given = parser.parse_args(arguments)
    settings, folder = FAST if given.fast else FULL, given.folder
    folder.mkdir(parents=True, exist_ok=True)
    features = feature_network(settings.classifier_steps)
    model = trained(folder, settings)
    results: dict[str, lm.Compression] = {}
    for speedup in given.speedups:
        try:
            results[f"{speedup:g} times"] = compress(model, speedup, folder, settings)
        except lm.InfeasibleError as error:
            print(f"{speedup:g} times: left out. {error}")
    if not results:
        raise SystemExit("no speed-up can be had: give smaller --speedups")
    first = next(iter(results.values()))
    base = first.base
    networks = {"base": base, **{name: found.model for name, found in results.items()}}
    samples = {
        name: sample(network, settings.num_samples, settings.denoising_steps)
        for name, network in networks.items()
    }
    draw({"real": IMAGES, **samples}, folder / "samples.png")
    for name, found in results.items():
        pictures = {"Real digits, then samples of each network": folder / "samples.png"}
        write_html(
            found.result,
            folder / f"{name}.html",
            {caption: path.read_bytes() for caption, path in pictures.items()},
        )
    layers = {"base": first.result.base.layers} | {
        name: found.result.compressed.layers for name, found in results.items()
    }
    measured = lm.measure_modules(networks, inputs(), options=settings.latency)
    rows = [
        {
            "network": name,
            "latency_ms": measured[name].median_ns / 1e6,
            "speedup": measured["base"].median_ns / measured[name].median_ns,
            "convolutions": layers[name],
            "loss": -score(networks[name]),
            "distance": frechet(features, samples[name], IMAGES),
        }
        for name in networks
    ]
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(
            "{network}: {latency_ms:.3f} ms, {speedup:.2f} times as fast, {convolutions} "
            "convolutions, loss {loss:.4f}, distance {distance:.2f}".format(**row)
        )
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
