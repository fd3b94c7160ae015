"""Average pooling and zero padding, as operations."""

from __future__ import annotations

from typing import Any

from torch import fx

from layermerge.convolutions import pair
from layermerge.dataflow import Kind, Operation
from layermerge.values import is_channels_last, shape_of
from layermerge.windows import Padding, Window


def classify_pool(
    node: fx.Node, kernel_size: Any, stride: Any, padding: Any, *, is_plain: bool
) -> Operation:
    """An average pooling: affine where it drops what its window does not fill.

    Parameters
    ----------
    node : torch.fx.Node
    kernel_size, stride, padding
        As `torch.nn.AvgPool2d` takes them.
    is_plain : bool
        Whether it divides by the number of taps.
    """
    name = "avg_pool2d"
    source, result = shape_of(node.all_input_nodes[0]), shape_of(node)
    if source is None or result is None or is_channels_last(node):
        return Operation(Kind.BARRIER, name, "average pooling of what is no image")
    if not is_plain:
        return Operation(Kind.BARRIER, name, "average pooling with a divisor of its own")
    window = _window(kernel_size, stride, padding)
    if window.output_size((source[2], source[3])) != (result[2], result[3]):
        return Operation(Kind.BARRIER, name, f"ceil_mode at {node.name}")
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
