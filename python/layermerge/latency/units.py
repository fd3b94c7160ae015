"""What is timed: the merged convolution of each signature, each barrier, whole networks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from layermerge.activations import activation_module
from layermerge.candidates import Signature
from layermerge.errors import InputError
from layermerge.latency.protocol import Call
from layermerge.network import Network


class MergedConvolution(nn.Module):
    """A convolution of a given signature with random weights, and what runs right after it."""

    def __init__(self, signature: Signature) -> None:
        super().__init__()
        left, right, top, bottom = signature.padding
        is_symmetric = left == right >= 0 and top == bottom >= 0
        self.padding = None if is_symmetric else signature.padding
        self.convolution = nn.Conv2d(
            signature.in_channels,
            signature.out_channels,
            signature.kernel_size,
            stride=signature.stride,
            padding=(top, left) if is_symmetric else 0,
            dilation=signature.dilation,
            groups=signature.groups,
        )
        self.activation = activation_module(signature.activation) if signature.activation else None

    def forward(self, value: Tensor, residual: Tensor | None = None) -> Tensor:
        """Pad, convolve, add the residual, activate."""
        if self.padding is not None:
            value = functional.pad(value, self.padding)
        value = self.convolution(value)
        if residual is not None:
            value = value + residual
        return value if self.activation is None else self.activation(value)


def subject_of(signature: Signature) -> str:
    """The name of a signature in a study."""
    return json.dumps({"convolution": asdict(signature)}, sort_keys=True)


def subject_of_barrier(network: Network, name: str) -> str:
    """The name of a barrier in a study."""
    return json.dumps({"barrier": name, "network": network.fingerprint}, sort_keys=True)


def subject_of_network(network: Network) -> str:
    """The name of a whole network, as it would be deployed, in a study."""
    return json.dumps({"deployed": network.fingerprint})


def convolution_calls(
    signatures: Sequence[Signature], batch: int, device: torch.device
) -> Iterator[Call]:
    """Make a call for each signature, in order.

    Inputs are views of one buffer of random values: their memory is that of the largest, and they
    are as warm in the cache as the output of a previous layer; the weights are not.
    """
    inputs = _Buffer(device, (_input_shape(signature, batch) for signature in signatures))
    residuals = _Buffer(
        device, (_output_shape(signature, batch) for signature in signatures if signature.is_sum)
    )
    for signature in signatures:
        module = MergedConvolution(signature).eval().to(device)
        arguments = [inputs.view(_input_shape(signature, batch))]
        if signature.is_sum:
            arguments.append(residuals.view(_output_shape(signature, batch)))
        yield partial(module, *arguments)


def barrier_calls(
    captured: fx.GraphModule, names: Iterable[str], arguments: tuple[Any, ...]
) -> dict[str, Call]:
    """Make a call for each of the named nodes, with the inputs that it gets in a run."""
    recorder = _InputRecorder(captured, frozenset(names))
    with torch.no_grad():
        recorder.run(*arguments)
    missing = recorder.names - recorder.calls.keys()
    if missing:
        raise InputError(
            f"network has a barrier {min(missing)!r}, which the model does not have: trace the "
            "model that is measured"
        )
    return recorder.calls


class _InputRecorder(fx.Interpreter):
    """Runs a graph and keeps a call of each node of interest."""

    def __init__(self, captured: fx.GraphModule, names: frozenset[str]) -> None:
        super().__init__(captured)
        self.names = names
        self.calls: dict[str, Call] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self.names:
            args, kwargs = pytree.tree_map(_copy, self.fetch_args_kwargs_from_env(n))
            if n.op == "call_module":
                self.calls[n.name] = partial(self.fetch_attr(str(n.target)), *args, **kwargs)
            else:
                self.calls[n.name] = partial(getattr(self, n.op), n.target, args, kwargs)
        return super().run_node(n)


class _Buffer:
    """Random values that tensors of many shapes are views of."""

    def __init__(self, device: torch.device, shapes: Iterable[tuple[int, ...]]) -> None:
        self.values = torch.randn(max(map(math.prod, shapes), default=0)).to(device)

    def view(self, shape: tuple[int, ...]) -> Tensor:
        return self.values[: math.prod(shape)].view(shape)


def _input_shape(signature: Signature, batch: int) -> tuple[int, ...]:
    return (batch, signature.in_channels, *signature.input_size)


def _output_shape(signature: Signature, batch: int) -> tuple[int, ...]:
    return (batch, signature.out_channels, *signature.output_size)


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
