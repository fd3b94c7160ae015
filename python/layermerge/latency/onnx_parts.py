"""Parts of a network as ONNX Runtime runs them there: in its own layout of channels.

On a CPU, ONNX Runtime rearranges an image into blocks of channels before its convolutions and back
behind them. Within a network that is done at either end, in a part alone around every layer, which
for small ones takes longer than the layer. So a part is framed by poolings of 1x1, which do nothing
in either layout, and both frames and the rearranging at the ends are cut off the optimised graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

Model = Any
"""An `onnx.ModelProto`, which is imported where it is made."""


class Framed(nn.Module):
    """A module whose images pass poolings of 1x1 before and behind it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *values: Any) -> Any:
        """What the module gives."""
        return pytree.tree_map(_pooled, self.module(*map(_pooled, values)))


def _pooled(value: Any) -> Any:
    is_image = isinstance(value, Tensor) and value.dim() == 4 and value.is_floating_point()
    return functional.max_pool2d(value, 1) if is_image else value


def cut_frames(model: Model) -> dict[str, int]:
    """Cut the frames off an optimised model; return the channels of inputs in blocks, by name."""
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    channels = {}
    for value in graph.input:
        name, is_blocked = _cut_before(graph, value.name)
        if is_blocked:
            size = value.type.tensor_type.shape.dim[1]
            size.dim_value = max([size.dim_value, *_channels_read(graph, name, weights)])
            channels[value.name] = size.dim_value
        for node in graph.node:
            node.input[:] = [value.name if read == name else read for read in node.input]
    for value in graph.output:
        name = _cut_behind(graph, value.name)
        if name != value.name:
            value.name = name
            value.type.tensor_type.ClearField("shape")
    return channels


def _cut_before(graph: Any, name: str) -> tuple[str, bool]:
    """Cut what only frames a value that enters; return what it is then, and if it is in blocks."""
    outputs = {value.name for value in graph.output}
    is_blocked = False
    while node := _frame([n for n in graph.node if name in n.input], "ReorderInput"):
        if node.output[0] in outputs:
            break
        is_blocked |= node.op_type == "ReorderInput"
        name = node.output[0]
        graph.node.remove(node)
    return name, is_blocked


def _cut_behind(graph: Any, name: str) -> str:
    """Cut what only frames a value that leaves; return what it was before."""
    inputs = {value.name for value in graph.input}
    while node := _frame([n for n in graph.node if name in n.output], "ReorderOutput"):
        if node.input[0] in inputs or any(name in other.input for other in graph.node):
            break
        name = str(node.input[0])
        graph.node.remove(node)
    return name


def _frame(nodes: list[Any], reorder: str) -> Any:
    """The node, if there is one only, and it rearranges or does nothing."""
    if len(nodes) != 1:
        return None
    (node,) = nodes
    sizes = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    does_nothing = (
        node.op_type == "MaxPool"
        and sizes.get("kernel_shape") == [1, 1]
        and sizes.get("strides", [1, 1]) == [1, 1]
    )
    return node if node.op_type == reorder or does_nothing else None


def _channels_read(graph: Any, name: str, weights: dict[str, Any]) -> Iterator[int]:
    """How many channels, in whole blocks, the convolutions have weights for that read a value."""
    for node in graph.node:
        if node.op_type == "Conv" and name in node.input and node.input[1] in weights:
            outputs, inputs = weights[node.input[1]].dims[:2]
            groups = [attribute.i for attribute in node.attribute if attribute.name == "group"]
            yield inputs * (groups or [1])[0] if node.input[0] == name else outputs
