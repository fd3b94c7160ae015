"""Compress the denoiser of a diffusion model: the score is minus a loss.

    python examples/diffusion.py

The denoiser predicts the noise in handwritten digits at a random noise level, which it is told in a
second channel. A loss has no natural scale, so that changes of the score are taken relative to it:
objective "exp_relative", the paper's exp(-loss / loss of the original) up to a constant factor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import layermerge as lm
from layermerge.importance.search_options import SearchOptions

SCANS = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 8 - 1
NUM_TRAIN = 1200


def diffused(scans: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs of the denoiser, scans with noise and the noise level, and the noise to predict."""
    level = torch.rand(len(scans), 1, 1, 1).expand_as(scans)
    angle = level * torch.pi / 2  # the cosine schedule: the variance stays 1
    noise = torch.randn_like(scans)
    return torch.cat([scans * angle.cos() + noise * angle.sin(), level], 1), noise


class Block(nn.Module):
    """A residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return x + self.conv2(F.silu(self.conv1(x)))


def denoiser() -> nn.Sequential:
    """Eight convolutions."""
    blocks = [Block(16) for _ in range(3)]
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), *blocks, nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1)
    )


def train(module: nn.Module, steps: int = 20) -> None:
    """Fine-tune in place on the mean squared error of the noise."""
    optimizer = torch.optim.AdamW(module.parameters(), 2e-3)
    for _ in range(steps):
        inputs, noise = diffused(SCANS[torch.randint(NUM_TRAIN, (64,))])
        loss = F.mse_loss(module(inputs), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.inference_mode()
def score(module: nn.Module) -> float:
    """Minus the loss on held-out scans, at fixed noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs, noise = diffused(SCANS[NUM_TRAIN:])
    return -float(F.mse_loss(module(inputs), noise))


def main() -> lm.Compression:
    """Train the denoiser, make it faster, print what that costs."""
    torch.manual_seed(0)
    model = denoiser().eval()
    train(model, 200)
    compression = lm.compress(
        model,
        torch.zeros(64, 2, 8, 8),
        fraction=0.8,
        score_fn=score,
        train_fn=train,
        finetune_fn=lambda module: train(module, 200),
        calibration=[diffused(SCANS[:256])],
        options=lm.Options(
            search=SearchOptions(objective="exp_relative"),
            init="least_squares",
            space=lm.SearchSpace(max_kernel=5),
            latency=lm.LatencyOptions(threads=1, target_rsd=0.1, max_seconds=2),
        ),
    )
    result = compression.result
    print(
        f"loss {-result.base.score:.4f} -> {-result.compressed.score:.4f}, "
        f"{result.speedup:.2f} times as fast, {result.base.layers} -> {result.compressed.layers} "
        f"convolutions\n{compression.plan.certificate}"
    )
    return compression


if __name__ == "__main__":
    main()
