"""What is timed: the merged convolution of each signature, each barrier, whole networks."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from layermerge.activations import activation_module
from layermerge.candidates import Signature
from layermerge.errors import InputError
from layermerge.latency.placement import Placement
from layermerge.network import Network
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


def subject_of_network(network: Network) -> str:
    """The name of a whole network, as it would be deployed, in a study."""
    return json.dumps({"deployed": network.fingerprint})


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
        tensors = {source: v for source, v in values.items() if isinstance(v, Tensor)}
        module = self._cut_out(n, {s: v for s, v in values.items() if s not in tensors}, tensors)
        self.units[n.name] = BarrierUnit(
            self._subject(n, values),
            module,
            tuple(tensors.values()),
            any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)),
        )
        return result

    def _cut_out(
        self, node: fx.Node, constants: dict[fx.Node, Any], tensors: Iterable[fx.Node]
    ) -> fx.GraphModule:
        """A graph of the node alone: tensors are its inputs, other values are written into it."""
        graph = fx.Graph()
        places = {source: graph.placeholder(source.name) for source in tensors}
        graph.output(
            graph.node_copy(node, lambda source: places.get(source, constants.get(source)))
        )
        return fx.GraphModule(self.module, graph)

    def _subject(self, node: fx.Node, values: dict[fx.Node, Any]) -> str:
        """What decides the node's cost: operation, configuration, shapes and other arguments."""
        if node.op == "call_module":
            module = self.fetch_attr(str(node.target))
            operation = f"{type(module).__module__}.{type(module).__qualname__} {module!r}"
        else:
            operation = f"{node.op} {torch.typename(node.target)} {_name_of(node.target)}"
        described: dict[fx.Node, Any] = {source: _Shape(v) for source, v in values.items()}
        arguments = fx.node.map_arg((node.args, node.kwargs), described.__getitem__)
        subject = {"barrier": lasting(operation), "arguments": lasting(repr(arguments))}
        return json.dumps(subject, sort_keys=True)


class _Shape:
    """A tensor in a subject: its shape and type; other values as they are."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        is_tensor = isinstance(self.value, Tensor)
        return f"{self.value.dtype}{list(self.value.shape)}" if is_tensor else repr(self.value)


def _name_of(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__qualname__", repr(target))


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
