"""Small networks to trace, measure and train."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    """A basic block with an identity shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(x + y)


def tiny_classifier(seed: int = 0) -> nn.Sequential:
    """Three convolutions, a pool and a head: 1x8x8 images, 3 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            Residual(4),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 3),
        ).eval()


def striped_images(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy 8x8 images with a bright band at one of three heights, and which."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    images = 0.5 * torch.randn(count, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[:, 1 + 2 * label : 3 + 2 * label] += 1.0
    return images, labels


class ConvNorm(nn.Sequential):
    """A convolution, batch norm and, if asked, an activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *activation: nn.Module, **settings):
        padding = settings.pop("padding", kernel // 2)
        conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False, **settings)
        super().__init__(conv, nn.BatchNorm2d(outputs), *activation)


class Block(nn.Module):
    """A residual block: branch + shortcut, then an activation that works in place."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut or nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.branch(x)
        y += self.shortcut(x)
        return self.relu(y)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; the sum has no activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.conv = nn.Sequential(
            ConvNorm(channels, wide, 1, nn.ReLU6()),
            ConvNorm(wide, wide, 3, nn.ReLU6(), groups=wide),
            ConvNorm(wide, channels, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x)


class PreActivation(nn.Module):
    """Norm and activation in front of each convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.bn1(x)))
        return x + self.conv2(F.relu(self.bn2(y)))


class RepVgg(nn.Module):
    """Parallel 3x3, 1x1 and identity branches, each with its norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dense = ConvNorm(channels, channels, 3)
        self.pointwise = ConvNorm(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.dense(x) + self.pointwise(x) + self.norm(x))


class Functional(nn.Module):
    """Functional forms, in place and not, of what modules do; one activation used throughout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=index % 2 == 0) for index in range(8)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        convs = self.convs
        x = self.relu(torch.add(x, convs[1](F.relu(convs[0](x), inplace=True))))
        y = convs[3](F.relu(convs[2](x), True))
        y += x
        x = self.relu(y)
        x = torch.relu(convs[5](convs[4](x).relu()).add(x))
        y = convs[6](x).relu_()
        return convs[7](y).add_(x)


class Nested(nn.Module):
    """A residual block around a convolution, a residual block and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, 3, nn.ReLU())
        self.inner = Block(nn.Sequential(ConvNorm(channels, channels, 3)))
        self.last = ConvNorm(channels, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.last(self.inner(self.first(x)))


def basic_block(inputs: int, outputs: int, stride: int) -> Block:
    branch = nn.Sequential(
        ConvNorm(inputs, outputs, 3, nn.ReLU(inplace=True), stride=stride),
        ConvNorm(outputs, outputs, 3),
    )
    return Block(branch, shortcut(inputs, outputs, stride))


def bottleneck(inputs: int, outputs: int, stride: int) -> Block:
    branch = nn.Sequential(
        ConvNorm(inputs, 4, 1, nn.ReLU()),
        ConvNorm(4, 4, 3, nn.ReLU(), stride=stride),
        ConvNorm(4, outputs, 1),
    )
    return Block(branch, shortcut(inputs, outputs, stride))


def shortcut(inputs: int, outputs: int, stride: int) -> ConvNorm | None:
    if stride == 1 and inputs == outputs:
        return None
    return ConvNorm(inputs, outputs, 1, stride=stride)


def with_pool_and_head(*body: nn.Module, channels: int) -> nn.Sequential:
    """A stem with a max-pool, a body and a head, for images 3x16x16."""
    return nn.Sequential(
        ConvNorm(3, 8, 5, nn.ReLU(), stride=2),
        nn.MaxPool2d(3, 2, 1),
        *body,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 5),
    )


ZOO = {
    "plain": lambda: nn.Sequential(
        ConvNorm(3, 8, 3, nn.ReLU(), stride=2),
        ConvNorm(8, 8, 3, nn.Hardswish()),
        ConvNorm(8, 8, 5, nn.ReLU(), groups=8),
        nn.Conv2d(8, 6, 1),
    ),
    "basic": lambda: with_pool_and_head(
        basic_block(8, 8, 1), basic_block(8, 12, 2), basic_block(12, 12, 1), channels=12
    ),
    "bottleneck": lambda: with_pool_and_head(
        bottleneck(8, 16, 1), bottleneck(16, 16, 1), bottleneck(16, 8, 2), channels=8
    ),
    "inverted": lambda: nn.Sequential(
        ConvNorm(3, 8, 3, nn.ReLU6(), stride=2), InvertedResidual(8), InvertedResidual(8)
    ),
    "pre_activation": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), PreActivation(4), PreActivation(4), nn.BatchNorm2d(4), nn.ReLU()
    ),
    "rep_vgg": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), RepVgg(4), RepVgg(4), nn.Conv2d(4, 4, 1)),
    "functional": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Functional(4)),
    "nested": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Nested(4), Nested(4)),
}


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in evaluation mode, with weights and running statistics that hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(0, fan_in**-0.5, generator=generator)
            if module.bias is not None:
                module.bias.data.normal_(0, 0.5, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.5, generator=generator)
            module.running_mean.normal_(0, 0.5, generator=generator)
            module.running_var.uniform_(0.3, 2.0, generator=generator)
    return model.eval()


def images(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def zoo(name: str) -> nn.Module:
    """The network of that name, for images of shape (2, 3, 16, 16)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomized(ZOO[name]())


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest |actual - expected| over the largest |expected|, which must not vanish."""
    assert actual.shape == expected.shape
    scale = float(expected.detach().abs().max())
    assert scale > 0
    return float((actual - expected).detach().abs().max()) / scale


@torch.no_grad()
def conditioned(model: nn.Module, image: torch.Tensor) -> nn.Module:
    """The model in evaluation mode, of any library, so that values neither vanish nor explode.

    Random scales and shifts instead of ones and zeros, and the batch statistics of the image.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in model.eval().parameters():
        if parameter.dim() <= 1:
            noise = torch.rand(parameter.shape, generator=generator)
            parameter.copy_(noise + 0.5 if parameter.mean() > 0 else (noise - 0.5) / 5)
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    model(torch.cat([image, image.flip(2)]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
    return model
