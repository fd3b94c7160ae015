"""What is timed: the merged convolution of each signature, each barrier, whole networks."""

from __future__ import annotations

import copy
import json
import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from layermerge.activations import activation_module
from layermerge.candidates import Signature
from layermerge.errors import InputError
from layermerge.fingerprints import structure
from layermerge.latency.placement import Placement, tensors_of
from layermerge.values import lasting

IDENTITY = (0, 0)
"""The kernel size of a signature without a convolution."""


class MergedConvolution(nn.Module):
    """A convolution of a given signature with random weights, and what runs right after it."""

    def __init__(self, signature: Signature) -> None:
        super().__init__()
        is_identity = signature.kernel_size == IDENTITY
        left, right, top, bottom = signature.padding
        is_symmetric = left == right >= 0 and top == bottom >= 0
        self.padding = None if is_symmetric or is_identity else signature.padding
        self.convolution = None if is_identity else _convolution(signature, is_symmetric)
        self.activation = activation_module(signature.activation) if signature.activation else None

    def forward(self, value: Tensor, residual: Tensor | None = None) -> Tensor:
        """Pad, convolve, add the residual, activate."""
        if self.padding is not None:
            value = functional.pad(value, self.padding)
        if self.convolution is not None:
            value = self.convolution(value)
        if residual is not None:
            value = value + residual
        return value if self.activation is None else self.activation(value)


def _convolution(signature: Signature, is_symmetric: bool) -> nn.Conv2d:
    left, _, top, _ = signature.padding
    return nn.Conv2d(
        signature.in_channels,
        signature.out_channels,
        signature.kernel_size,
        stride=signature.stride,
        padding=(top, left) if is_symmetric else 0,
        dilation=signature.dilation,
        groups=signature.groups,
    )


@dataclass(frozen=True)
class BarrierUnit:
    """A barrier: a module of its one operation, and the inputs that it gets in a run.

    Attributes
    ----------
    subject : str
        Equal for barriers that do the same on inputs of the same shapes, in any network.
    does_compute : bool
        Whether a tensor comes out that is not one of the inputs.
    """

    subject: str
    module: fx.GraphModule
    inputs: tuple[Any, ...]
    does_compute: bool

    def make(self) -> nn.Module:
        """A module with weights of its own."""
        return copy.deepcopy(self.module)

    def get_inputs(self) -> tuple[Any, ...]:
        """The inputs."""
        return self.inputs


def is_free(signature: Signature) -> bool:
    """Whether nothing runs at all: the identity, and nothing after it."""
    nothing_follows = not signature.is_sum and signature.activation is None
    return signature.kernel_size == IDENTITY and nothing_follows


def subject_of(signature: Signature) -> str:
    """The name of a signature in a study."""
    return json.dumps({"convolution": asdict(signature)}, sort_keys=True)


def subject_of_whole(name: str, module: nn.Module, inputs: Mapping[str, Any]) -> str:
    """The name of a whole network in a study: one of another structure has another."""
    parts = {"whole": name, "structure": structure(module), "inputs": repr(_shapes(inputs))}
    return json.dumps(parts, sort_keys=True)


class Buffers:
    """Inputs of units: views of two buffers of random values.

    Their memory is that of the largest, and they are as warm in the cache as the output of a
    previous layer; the weights are not.
    """

    def __init__(self, signatures: Collection[Signature], batch: int, placement: Placement) -> None:
        self.batch = batch
        self._placement = placement
        self._inputs = self._buffer(input_shape(s, batch) for s in signatures)
        self._residuals = self._buffer(output_shape(s, batch) for s in signatures if s.is_sum)

    def inputs_of(self, signature: Signature) -> tuple[Tensor, ...]:
        """What a unit of this signature is called with."""
        value = self._view(self._inputs, input_shape(signature, self.batch))
        if not signature.is_sum:
            return (value,)
        return value, self._view(self._residuals, output_shape(signature, self.batch))

    def _buffer(self, shapes: Iterable[tuple[int, ...]]) -> Tensor:
        size = max(map(math.prod, shapes), default=0)
        buffer: Tensor = self._placement.values(torch.randn(size, device=self._placement.device))
        return buffer

    def _view(self, buffer: Tensor, shape: tuple[int, ...]) -> Tensor:
        flat = buffer[: math.prod(shape)]
        if not self._placement.channels_last:
            return flat.view(shape)
        batch, channels, height, width = shape
        return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)


def input_shape(signature: Signature, batch: int) -> tuple[int, ...]:
    """Shape of the value that a convolution gets."""
    return (batch, signature.in_channels, *signature.input_size)


def output_shape(signature: Signature, batch: int) -> tuple[int, ...]:
    """Shape of what a convolution makes."""
    if signature.kernel_size == IDENTITY:
        return input_shape(signature, batch)
    return (batch, signature.out_channels, *signature.output_size)


def barrier_units(
    captured: fx.GraphModule, names: Iterable[str], arguments: tuple[Any, ...]
) -> dict[str, BarrierUnit]:
    """Cut out each of the named nodes, with the inputs that it gets in a run."""
    recorder = _BarrierRecorder(captured, frozenset(names))
    recorder.run(*arguments)
    missing = recorder.names - recorder.units.keys()
    if missing:
        raise InputError(
            f"network has a barrier {min(missing)!r}, which the model does not have: trace the "
            "model that is measured"
        )
    return recorder.units


class _BarrierRecorder(fx.Interpreter):
    """Runs a graph and makes a unit of each node of interest."""

    def __init__(self, captured: fx.GraphModule, names: frozenset[str]) -> None:
        super().__init__(captured)
        self.names = names
        self.units: dict[str, BarrierUnit] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.name not in self.names:
            return super().run_node(n)
        values = {source: _copied(self.env[source]) for source in n.all_input_nodes}
        result = super().run_node(n)
        module, inputs = self._cut_out(n, values)
        takes_a_part = n.target is operator.getitem and not isinstance(
            values[n.all_input_nodes[0]], Tensor
        )
        does_compute = not takes_a_part and bool(tensors_of(result))
        self.units[n.name] = BarrierUnit(self._subject(n, values), module, inputs, does_compute)
        return result

    def _cut_out(
        self, node: fx.Node, values: Mapping[fx.Node, Any]
    ) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
        """A graph of the node alone: tensors are its inputs, other values are written into it."""
        graph, inputs = fx.Graph(), []

        def placed(value: Any) -> Any:
            if isinstance(value, Tensor):
                inputs.append(value)
                return graph.placeholder(f"input_{len(inputs)}")
            return _rebuilt(value, placed)

        arguments = {source: placed(value) for source, value in values.items()}
        graph.output(graph.node_copy(node, arguments.__getitem__))
        return fx.GraphModule(self.module, graph), tuple(inputs)

    def _subject(self, node: fx.Node, values: dict[fx.Node, Any]) -> str:
        """What decides the node's cost: operation, configuration, shapes and other arguments."""
        if node.op == "call_module":
            module = self.fetch_attr(str(node.target))
            operation = f"{lasting(repr(module))} {structure(module)}"
        else:
            operation = f"{node.op} {torch.typename(node.target)} {_name_of(node.target)}"
        described: dict[fx.Node, Any] = {source: _shapes(v) for source, v in values.items()}
        arguments = fx.node.map_arg((node.args, node.kwargs), described.__getitem__)
        subject = {"barrier": lasting(operation), "arguments": lasting(repr(arguments))}
        return json.dumps(subject, sort_keys=True)


class _Shape:
    """A tensor in a subject: its shape and type."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __repr__(self) -> str:
        return f"{self.tensor.dtype}{list(self.tensor.shape)}"


def _shapes(value: Any) -> Any:
    return _Shape(value) if isinstance(value, Tensor) else _rebuilt(value, _shapes)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return _rebuilt(value, _copied)


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """A container of changed elements, of a kind that code can be written of; else the value."""
    if isinstance(value, Mapping):
        return {key: change(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        kind = list if isinstance(value, list) else tuple
        return kind(change(each) for each in value)
    return value


def _name_of(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__qualname__", repr(target))
