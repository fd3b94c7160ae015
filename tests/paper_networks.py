"""The networks of the paper, written plainly; of any width, so that tests can be quick."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from networks import Block, ConvNorm, basic_block, shortcut

RESNET_DEPTHS = (3, 4, 6, 3)


def resnet34(width: int = 64) -> nn.Sequential:
    """Basic blocks; `width` channels behind the stem, eight times as many at the end."""
    body, channels = [], width
    for stage, depth in enumerate(RESNET_DEPTHS):
        outputs = width << stage
        for place in range(depth):
            body.append(basic_block(channels, outputs, 2 if stage and not place else 1))
            channels = outputs
    return _classifier(_stem(width), *body, channels=channels)


def resnet50(width: int = 64) -> nn.Sequential:
    """Bottleneck blocks, which stride in the 3x3 convolution."""
    body, channels = [], width
    for stage, depth in enumerate(RESNET_DEPTHS):
        inner = width << stage
        for place in range(depth):
            stride = 2 if stage and not place else 1
            branch = nn.Sequential(
                ConvNorm(channels, inner, 1, nn.ReLU()),
                ConvNorm(inner, inner, 3, nn.ReLU(), stride=stride),
                ConvNorm(inner, 4 * inner, 1),
            )
            body.append(Block(branch, shortcut(channels, 4 * inner, stride)))
            channels = 4 * inner
    return _classifier(_stem(width), *body, channels=channels)


class _Inverted(nn.Module):
    """Expand (unless the ratio is 1), depthwise, project; added to its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, ratio: int) -> None:
        super().__init__()
        inner = ratio * inputs
        self.conv = nn.Sequential(
            *([ConvNorm(inputs, inner, 1, nn.ReLU6())] if ratio > 1 else []),
            ConvNorm(inner, inner, 3, nn.ReLU6(), stride=stride, groups=inner),
            ConvNorm(inner, outputs, 1),
        )
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return x + y if self.is_residual else y


def mobilenet_v2(multiplier: float = 1.0) -> nn.Sequential:
    """Inverted residual blocks: expansion, channels, blocks and stride of each stage."""

    def scaled(channels: int) -> int:
        rounded = max(8, int(channels * multiplier + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * channels * multiplier else rounded

    channels = scaled(32)
    body: list[nn.Module] = [ConvNorm(3, channels, 3, nn.ReLU6(), stride=2)]
    for ratio, wanted, depth, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for place in range(depth):
            body.append(_Inverted(channels, scaled(wanted), 1 if place else stride, ratio))
            channels = scaled(wanted)
    last = max(1280, scaled(1280))
    return _classifier(*body, ConvNorm(channels, last, 1, nn.ReLU6()), channels=last)


def vgg19(width: int = 64) -> nn.Sequential:
    """Five stages of 3x3 convolutions, each with a max-pool behind it."""
    body, channels = [], 3
    for stage, depth in enumerate((2, 2, 4, 4, 4)):
        for _ in range(depth):
            body.append(ConvNorm(channels, width << min(stage, 3), 3, nn.ReLU()))
            channels = width << min(stage, 3)
        body.append(nn.MaxPool2d(2))
    return _classifier(*body, channels=channels)


class _Resnet(nn.Module):
    """A residual block of the U-Net: group norms, and a bias from the embedded time."""

    def __init__(self, inputs: int, outputs: int, embedded: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, inputs), nn.GroupNorm(4, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(embedded, outputs)
        self.dropout = nn.Dropout(0.1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        y = self.conv2(self.dropout(F.silu(self.norm2(y))))
        return self.shortcut(x) + y


class _Attention(nn.Module):
    """Self-attention between all pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.query, self.key, self.value, self.out = (
            nn.Linear(channels, channels) for _ in range(4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.norm(x).flatten(2).transpose(1, 2)
        rows = F.scaled_dot_product_attention(self.query(rows), self.key(rows), self.value(rows))
        return x + self.out(rows).transpose(1, 2).reshape(x.shape)


class DiffusionUnet(nn.Module):
    """The U-Net of DDPM for 32x32 images: two blocks a level, attention at 16x16 pixels."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        widths, embedded = (width, 2 * width, 2 * width, 2 * width), 4 * width
        self.embed = nn.Linear(1, embedded)
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, channels = [width], width
        for level, outputs in enumerate(widths):
            for _ in range(2):
                self.down.append(self._block(channels, outputs, embedded, attends=level == 1))
                channels = outputs
                skips.append(channels)
            if level < 3:
                self.down.append(nn.Conv2d(channels, channels, 3, stride=2))
                skips.append(channels)
        first, last = (_Resnet(channels, channels, embedded) for _ in range(2))
        self.middle = nn.ModuleList([first, _Attention(channels), last])
        for level, outputs in reversed(list(enumerate(widths))):
            for _ in range(3):
                inputs = channels + skips.pop()
                self.up.append(self._block(inputs, outputs, embedded, attends=level == 1))
                channels = outputs
            if level:
                self.up.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.norm = nn.GroupNorm(4, channels)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    @staticmethod
    def _block(inputs: int, outputs: int, embedded: int, *, attends: bool) -> nn.ModuleList:
        attention = [_Attention(outputs)] if attends else []
        return nn.ModuleList([_Resnet(inputs, outputs, embedded), *attention])

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        time = self.embed(time[:, None])
        x = self.conv_in(x)
        skips = [x]
        for part in self.down:
            if isinstance(part, nn.Conv2d):
                x = part(F.pad(x, (0, 1, 0, 1)))
            else:
                x = self._run(part, x, time)
            skips.append(x)
        x = self._run(self.middle, x, time)
        for part in self.up:
            if isinstance(part, nn.Conv2d):
                x = part(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            else:
                x = self._run(part, torch.cat([x, skips.pop()], dim=1), time)
        return self.conv_out(F.silu(self.norm(x)))

    @staticmethod
    def _run(parts: nn.ModuleList, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        for part in parts:
            x = part(x, time) if isinstance(part, _Resnet) else part(x)
        return x


def _stem(width: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNorm(3, width, 7, nn.ReLU(), stride=2), nn.MaxPool2d(3, stride=2, padding=1)
    )


def _classifier(*body: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
