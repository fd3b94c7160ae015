"""Compress a segmentation network through callbacks: any task works that can be scored.

    python examples/segmentation.py

The network marks the ink of noisy handwritten digits. Two functions are all that the search needs:
`score`, higher is better, on data that training does not see, and `train`, a short fine-tune in
place. They are at the top level of a file, so that `--executor processes` or a cluster could be
sent them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import layermerge as lm

SCANS = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16
INK = (SCANS > 0.4).float()
TRAIN, HELD_OUT = slice(0, 1200), slice(1200, None)


def noisy(images: Tensor) -> Tensor:
    """The scans as the network sees them."""
    return images + 0.3 * torch.randn_like(images)


def layer(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution with norm and activation."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def network() -> nn.Sequential:
    """Six convolutions; the output is the logit of ink at each pixel."""
    return nn.Sequential(layer(1, 16), *(layer(16, 16) for _ in range(4)), nn.Conv2d(16, 1, 1))


def train(module: nn.Module, steps: int = 20) -> None:
    """Fine-tune in place on binary cross-entropy."""
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    for _ in range(steps):
        batch = torch.randint(TRAIN.stop, (64,))
        loss = F.binary_cross_entropy_with_logits(module(noisy(SCANS[batch])), INK[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()


@torch.inference_mode()
def score(module: nn.Module) -> float:
    """Intersection over union of the ink, on held-out scans with fixed noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = module(noisy(SCANS[HELD_OUT])) > 0
    wanted = INK[HELD_OUT] > 0
    return float((found & wanted).sum() / (found | wanted).sum())


def main() -> lm.Compression:
    """Train the network, make it faster, print what that costs."""
    torch.manual_seed(0)
    model = network()
    train(model, 150)
    compression = lm.compress(
        model,
        torch.zeros(64, 1, 8, 8),
        fraction=0.8,
        score_fn=score,
        train_fn=train,
        calibration=[noisy(SCANS[:256])],
        options=lm.Options(
            space=lm.SearchSpace(max_kernel=5),
            latency=lm.LatencyOptions(threads=1, target_rsd=0.1, max_seconds=2),
        ),
    )
    result = compression.result
    print(
        f"intersection over union {result.base.score:.3f} -> {result.compressed.score:.3f}, "
        f"{result.speedup:.2f} times as fast, {result.base.layers} -> {result.compressed.layers} "
        f"convolutions\n{compression.plan.certificate}"
    )
    return compression


if __name__ == "__main__":
    main()
