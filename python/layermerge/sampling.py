"""Average pooling and zero padding, as operations."""

from __future__ import annotations

from typing import Any

from torch import fx

from layermerge.convolutions import pair
from layermerge.dataflow import Kind, Operation
from layermerge.values import is_channels_last, shape_of
from layermerge.windows import Padding, Window


def classify_pool(
    node: fx.Node,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    *,
    is_plain: bool,
    ceil_mode: bool,
) -> Operation:
    """An average pooling: affine where it drops what its window does not fill.

    Parameters
    ----------
    node : torch.fx.Node
    kernel_size, stride, padding
        As `torch.nn.AvgPool2d` takes them.
    is_plain : bool
        Whether it divides by the number of taps.
    ceil_mode : bool
        Whether it goes on beyond the image, where the size is no multiple of the stride.
    """
    name = "avg_pool2d"
    image = node.all_input_nodes[0]
    if shape_of(image) is None or shape_of(node) is None or is_channels_last(node):
        return Operation(Kind.BARRIER, name, "average pooling of what is no image")
    if not is_plain:
        return Operation(Kind.BARRIER, name, "average pooling with a divisor of its own")
    window = _window(kernel_size, stride, padding)
    if ceil_mode and max(window.stride) > 1:
        return Operation(
            Kind.BARRIER,
            name,
            f"ceil_mode=True at {node.name}: what it averages depends on the image's size; if "
            "yours are multiples of the stride, ceil_mode=False computes the same",
        )
    return Operation(Kind.POOL, name, window=window)


def padding_operation(padding: Padding) -> Operation:
    """Zero padding; cropping stops a merge."""
    if min(padding) < 0:
        return Operation(Kind.BARRIER, "pad", "cropping")
    return Operation(Kind.PAD, "pad", window=Window(padding=padding))


def _window(kernel_size: Any, stride: Any, padding: Any) -> Window:
    height, width = pair(padding)
    taps = pair(kernel_size)
    return Window(taps, pair(stride) if stride else taps, (width, width, height, height))
