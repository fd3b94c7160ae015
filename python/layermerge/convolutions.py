"""What a layer's module computes: its window and the weight that it convolves with."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

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
    """The weight, of four dimensions, that the module convolves with."""
    weight = module.weight.detach()
    return weight[:, :, None, None] if isinstance(module, nn.Linear) else weight


def exact_weight_of(module: LayerModule) -> Tensor:
    """The weight in float64; where a parametrization computes it, computed in float64."""
    if is_parametrized(module):
        module = copy.deepcopy(module).double()
    return weight_of(module).double()


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
