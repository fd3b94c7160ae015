"""Modules that random networks are made of: each takes an image and the network's side input."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Chain(nn.ModuleList):
    """One after the other."""

    def forward(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        for item in self:
            x = item(x, side)
        return x


class Net(Chain):
    """A network of one input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class SideNet(Chain):
    """A network of two inputs: an image, and one number for each image and channel."""

    def forward(self, x: Tensor, side: Tensor) -> Tensor:
        return super().forward(x, side)


class Unit(nn.Module):
    """A convolution, perhaps with padding in front, a norm and an activation."""

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.Module | None,
        activation: nn.Module | None,
        pad: nn.ZeroPad2d | None = None,
    ) -> None:
        super().__init__()
        self.pad, self.conv, self.norm, self.activation = pad, conv, norm, activation

    def forward(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        x = self.conv(x if self.pad is None else self.pad(x))
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


class Pool(nn.Module):
    """Average pooling, perhaps with uneven padding in front."""

    def __init__(self, pad: tuple[int, ...] | None, pool: nn.AvgPool2d) -> None:
        super().__init__()
        self.pad, self.pool = pad, pool

    def forward(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        return self.pool(x if self.pad is None else F.pad(x, self.pad))


class Scale(nn.Module):
    """x times a number or one of each channel, plus one of each channel."""

    def __init__(self, channels: int, by_number: bool) -> None:
        super().__init__()
        self.factor = None if by_number else nn.Parameter(torch.rand(1, channels, 1, 1) + 0.5)
        self.shift = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        return x * (1.5 if self.factor is None else self.factor) + self.shift


class AddSide(nn.Module):
    """x plus the side input, of as many channels."""

    def forward(self, x: Tensor, side: Tensor) -> Tensor:
        return x + side


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        y = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(y)


class Norm(nn.Module):
    """Group norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, channels)

    def forward(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        return self.norm(x)


class Parallel(nn.Module):
    """Branches of one value, or of parts of its channels, that are added or concatenated."""

    def __init__(
        self,
        branches: Iterable[Chain],
        join: str,
        split: str | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.branches, self.join, self.split = nn.ModuleList(branches), join, split
        self.activation = activation

    def parts(self, x: Tensor) -> list[Tensor]:
        """What each branch starts from."""
        count = len(self.branches)
        width = x.shape[1] // count
        if self.split is None:
            return [x] * count
        if self.split == "chunk":
            return list(x.chunk(count, 1))
        if self.split == "split":
            return list(torch.split(x, width, dim=1))
        return [x[:, place * width : (place + 1) * width] for place in range(count)]

    def forward(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        parts = self.parts(x)
        terms = [branch(part, side) for branch, part in zip(self.branches, parts, strict=True)]
        x = terms[0] + terms[1] if self.join == "sum" else torch.cat(terms, 1)
        return x if self.activation is None else self.activation(x)
