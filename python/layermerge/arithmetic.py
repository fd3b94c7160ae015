"""Classify functions and methods: sums, scales, concatenations, slices, padding, layout changes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from layermerge.activations import ACTIVATION_NAMES
from layermerge.dataflow import Kind, Operation
from layermerge.sampling import classify_pool, padding_operation
from layermerge.values import channels_of, is_channels_last, set_channels_last, shape_of

Classified = tuple[Operation, Sequence[fx.Node]] | tuple[Operation, Sequence[fx.Node], fx.Node]

TO_CHANNELS_LAST, TO_CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_UNCHANGED = frozenset({"contiguous", "clone", "detach", "dropout", "dropout2d", "alpha_dropout"})
SCALE = "scale"
"""Name of an operation with a number or one constant for each channel: y = factor x + shift."""


def classify_function(captured: fx.GraphModule, node: fx.Node) -> Classified:
    """What a `call_function` or `call_method` node means, and the values that it merges."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
    sources = [source for source in node.all_input_nodes if shape_of(source)]
    if not sources or shape_of(node) is None:
        return _barrier(name, node, f"{name} gives no image")
    if name in ACTIVATION_NAMES and len(sources) == 1:
        return Operation(Kind.ACTIVATION, name), sources
    if name in _UNCHANGED:
        return Operation(Kind.IDENTITY, name), sources
    classify = _BY_NAME.get(name)
    found = classify(captured, node) if classify else None
    return found or _barrier(name, node, f"{name} is not affine with one input and one output")


def _barrier(name: str, node: fx.Node, reason: str) -> Classified:
    return Operation(Kind.BARRIER, name, reason), node.all_input_nodes


def _add(captured: fx.GraphModule, node: fx.Node) -> Classified | None:
    if len(node.args) != 2 or node.kwargs:
        return None
    first, second = node.args
    if isinstance(first, fx.Node) and isinstance(second, fx.Node):
        found = _add_values(captured, node, first, second)
        if found:
            return found
        reason = "addition of values of different shapes"
        return Operation(Kind.BARRIER, "add", reason), node.all_input_nodes
    return _per_channel(captured, node)


def _add_values(
    captured: fx.GraphModule, node: fx.Node, first: fx.Node, second: fx.Node
) -> Classified | None:
    if is_constant(first) or is_constant(second):
        return _per_channel(captured, node)
    if shape_of(first) == shape_of(second) and is_channels_last(first) == is_channels_last(second):
        return Operation(Kind.SUM, "add"), [first, second]
    for value, side in ((first, second), (second, first)):
        if shape_of(value) == shape_of(node) and _is_constant_in_space(side, value):
            return Operation(Kind.SIDE, "add"), [value], side
    return None


def _is_constant_in_space(side: fx.Node, value: fx.Node) -> bool:
    """Whether a value is one number for each image and channel, which is added to every pixel."""
    shape = shape_of(side)
    if shape is None or is_channels_last(value) or shape[2:] != (1, 1):
        return False
    return shape[1] in (1, channels_of(value))


def _scale(captured: fx.GraphModule, node: fx.Node) -> Classified | None:
    if len(node.args) != 2 or node.kwargs:
        return None
    divisor = node.args[1] if "div" in str(node.target) else None
    if isinstance(divisor, fx.Node) and not is_constant(divisor):
        return None
    return _per_channel(captured, node)


def _per_channel(captured: fx.GraphModule, node: fx.Node) -> Classified | None:
    """An operation with a number, or with one constant for each channel."""
    values = [arg for arg in node.args if isinstance(arg, fx.Node) and not is_constant(arg)]
    if len(values) != 1 or shape_of(values[0]) != shape_of(node):
        return None
    (other,) = [arg for arg in node.args if arg is not values[0]] or [None]
    if not isinstance(other, fx.Node):
        is_number = isinstance(other, (int, float)) and not isinstance(other, bool)
        return (Operation(Kind.NORM, SCALE), values) if is_number else None
    constant = constant_value(captured, other)
    if not isinstance(constant, Tensor) or not _fits_channels(constant, values[0]):
        return None
    return Operation(Kind.NORM, SCALE), values


def _fits_channels(constant: Tensor, value: fx.Node) -> bool:
    place = 3 if is_channels_last(value) else 1
    shape = (1,) * (4 - constant.ndim) + tuple(constant.shape)
    return len(shape) == 4 and all(
        size == 1 or (axis == place and size == channels_of(value))
        for axis, size in enumerate(shape)
    )


def is_constant(node: fx.Node) -> bool:
    """Whether a value depends on parameters and buffers alone."""
    if "constant" not in node.meta:
        inputs = node.all_input_nodes
        node.meta["constant"] = node.op == "get_attr" or (
            node.op.startswith("call_")
            and node.op != "call_module"
            and bool(inputs)
            and all(map(is_constant, inputs))
        )
    return bool(node.meta["constant"])


@torch.no_grad()
def scale_and_shift(
    captured: fx.GraphModule, node: fx.Node, channels: int
) -> tuple[Tensor, Tensor]:
    """The factor and the shift of each channel, in float64: f(1) - f(0) and f(0)."""
    place = 3 if is_channels_last(node) else 1
    shape = [1, 1, 1, 1]
    shape[place] = channels

    def apply(value: float) -> Tensor:
        def fill(source: fx.Node) -> Tensor:
            if not is_constant(source):
                return torch.full(shape, value, dtype=torch.float64, device=device_of(captured))
            constant: Tensor = constant_value(captured, source)
            return constant.double()

        assert callable(node.target)
        result: Tensor = node.target(*fx.map_arg(node.args, fill))
        return result.expand(shape).flatten()

    shift = apply(0.0)
    return apply(1.0) - shift, shift


def device_of(captured: fx.GraphModule) -> torch.device:
    """Where the parameters are."""
    return next((parameter.device for parameter in captured.parameters()), torch.device("cpu"))


@torch.no_grad()
def constant_value(captured: fx.GraphModule, node: fx.Node) -> Any:
    """Compute a value that depends on parameters and buffers alone."""
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(captured)
    args, kwargs = fx.map_arg(
        (node.args, node.kwargs), lambda source: constant_value(captured, source)
    )
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _cat(captured: fx.GraphModule, node: fx.Node) -> Classified | None:
    terms = node.args[0] if node.args else node.kwargs.get("tensors")
    axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if not isinstance(terms, (tuple, list)) or not isinstance(axis, int):
        return None
    images = [term for term in terms if isinstance(term, fx.Node) and shape_of(term)]
    same_layout = len({is_channels_last(image) for image in images}) == 1
    if len(images) != len(terms) or not same_layout or axis % 4 != _channel_axis(images[0]):
        return None
    return Operation(Kind.CONCAT, "cat"), images


def _channel_axis(node: fx.Node) -> int:
    return 3 if is_channels_last(node) else 1


def _narrow(captured: fx.GraphModule, node: fx.Node) -> Classified | None:
    source, axis, start, length = (*node.args, None, None, None, None)[:4]
    if not isinstance(source, fx.Node) or not isinstance(axis, int):
        return None
    if axis % 4 != _channel_axis(source) or not isinstance(start, int):
        return None
    assert isinstance(length, int)
    channels = (start, start + length)
    return Operation(Kind.SLICE, "slice", channels=channels), [source]


def _pad(captured: fx.GraphModule, node: fx.Node) -> Classified | None:
    names = ("input", "pad", "mode", "value")
    settings = dict(zip(names, node.args, strict=False)) | node.kwargs
    padding, source = settings.get("pad"), settings["input"]
    if settings.get("mode", "constant") != "constant" or settings.get("value"):
        return None
    if not isinstance(source, fx.Node) or is_channels_last(source):
        return None
    if not isinstance(padding, (tuple, list)) or not all(isinstance(p, int) for p in padding):
        return None
    left, right, top, bottom = (*padding, 0, 0, 0, 0)[:4]
    if len(padding) > 4 and any(padding[4:]):
        return None
    return padding_operation((left, right, top, bottom)), [source]


def _avg_pool2d(captured: fx.GraphModule, node: fx.Node) -> Classified | None:
    names = (
        "input",
        "kernel_size",
        "stride",
        "padding",
        "ceil_mode",
        "count_include_pad",
        "divisor_override",
    )
    settings = (
        {"stride": None, "padding": 0} | dict(zip(names, node.args, strict=False)) | node.kwargs
    )
    source = settings["input"]
    assert isinstance(source, fx.Node)
    window = (settings["kernel_size"], settings["stride"], settings["padding"])
    plain, ceil_mode = not settings.get("divisor_override"), bool(settings.get("ceil_mode"))
    return classify_pool(node, *window, is_plain=plain, ceil_mode=ceil_mode), [source]


def _conv2d(captured: fx.GraphModule, node: fx.Node) -> Classified:
    reason = "conv2d is called as a function: only a module torch.nn.Conv2d is replaced"
    return _barrier("conv2d", node, reason)


def _permute(captured: fx.GraphModule, node: fx.Node) -> Classified | None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    given = node.args[1:] or (node.kwargs.get("dims"),)
    axes = given[0] if len(given) == 1 else given
    if not isinstance(axes, (tuple, list)):
        return None
    order = tuple(axis % 4 for axis in axes if isinstance(axis, int))
    turns = TO_CHANNELS_FIRST if is_channels_last(source) else TO_CHANNELS_LAST
    if order != turns:
        return None
    set_channels_last(node, order == TO_CHANNELS_LAST)
    return Operation(Kind.IDENTITY, "permute"), [source]


_BY_NAME = {
    "add": _add,
    "sub": _scale,
    "mul": _scale,
    "truediv": _scale,
    "div": _scale,
    "cat": _cat,
    "narrow": _narrow,
    "pad": _pad,
    "_pad": _pad,
    "avg_pool2d": _avg_pool2d,
    "conv2d": _conv2d,
    "permute": _permute,
}
