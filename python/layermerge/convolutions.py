"""What a layer's module computes: its window and the weight that it convolves with."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from layermerge.windows import NO_PADDING, Padding, Size, Window

LayerModule = nn.Conv2d | nn.Linear
"""A convolution, or a linear layer that is applied to every pixel of an image (channels last)."""


def window_of(module: LayerModule) -> Window:
    """Which pixels the module sees."""
    if isinstance(module, nn.Linear):
        return Window()
    return Window(
        pair(module.kernel_size), pair(module.stride), conv_padding(module), pair(module.dilation)
    )


def weight_of(module: LayerModule) -> Tensor:
    """The weight, of four dimensions, that the module convolves with.

    A module with a forward of its own may derive it, as weight standardisation does: it is then
    read off a call.
    """
    if isinstance(module, nn.Linear):
        return module.weight.detach()[:, :, None, None]
    if type(module).forward is nn.Conv2d.forward:
        weight: Tensor = module.weight.detach()
        return weight
    size = [d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    with torch.no_grad(), _Convolved() as seen:
        module(module.weight.new_zeros(1, module.in_channels, *size))
    derived: Tensor = seen.weight.detach()
    return derived


def exact_weight_of(module: LayerModule) -> Tensor:
    """The weight in float64; where it is computed from others, computed in float64."""
    is_plain = isinstance(module, nn.Linear) or type(module).forward is nn.Conv2d.forward
    if is_parametrized(module) or not is_plain:
        module = copy.deepcopy(module).double()
    return weight_of(module).double()


class _Convolved(TorchFunctionMode):
    """Keeps the weight of the convolution that runs."""

    weight: Tensor

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        keywords = kwargs or {}
        if func in (functional.conv2d, torch.conv2d):
            self.weight = keywords["weight"] if "weight" in keywords else args[1]
        return func(*args, **keywords)


def conv_padding(conv: nn.Conv2d) -> Padding:
    """The (left, right, top, bottom) padding of a convolution, ``"same"`` and ``"valid"`` too."""
    if conv.padding == "valid":
        return NO_PADDING
    if conv.padding == "same":
        total_h, total_w = (
            d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)
        )
        return (total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2)
    height, width = int(conv.padding[0]), int(conv.padding[1])
    return (width, width, height, height)


def pair(values: int | tuple[int, ...]) -> Size:
    """A (height, width) pair out of a module's settings."""
    return (values, values) if isinstance(values, int) else (int(values[0]), int(values[1]))
