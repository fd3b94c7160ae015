"""Values inside a network: what single nodes of its graph compute on calibration data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from layermerge.errors import InputError

Batches = Iterable[Any]
"""Batches of calibration data: inputs, or tuples that begin with them (labels may follow)."""


class Recorder(fx.Interpreter):
    """Runs a network and keeps the values of some nodes."""

    def __init__(self, network: fx.GraphModule, wanted: Collection[str]) -> None:
        super().__init__(network)
        missing = set(wanted) - {node.name for node in network.graph.nodes}
        if missing:
            raise InputError(f"the network has no nodes {sorted(missing)}")
        self.wanted = frozenset(wanted)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; keep its value if it is wanted."""
        value = super().run_node(n)
        if n.name in self.wanted:
            self.values[n.name] = value
        return value


def record(network: fx.GraphModule, inputs: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """The values of some nodes, by name, for one batch of inputs."""
    recorder = Recorder(network, wanted)
    recorder.run(inputs)
    return recorder.values


def inputs_of(batches: Batches, device: torch.device) -> Iterator[Tensor]:
    """The inputs of each batch, on a device.

    Raises
    ------
    InputError
        If there is no batch, or one does not begin with a tensor.
    """
    found = False
    for batch in batches:
        inputs = batch if isinstance(batch, Tensor) else batch[0]
        if not isinstance(inputs, Tensor):
            raise InputError(
                f"a calibration batch begins with {type(inputs).__name__}; expected a tensor of "
                "inputs, or a tuple that begins with one"
            )
        found = True
        yield inputs.to(device)
    if not found:
        raise InputError("there is no batch of calibration data (is an iterator used up?)")


def device_of(module: nn.Module) -> torch.device:
    """Where the parameters of a network are."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
