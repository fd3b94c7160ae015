"""Modules as programs: several as one graph, and inputs in the order that `forward` takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from torch import fx, nn


def as_graph(modules: Sequence[nn.Module], num_inputs: int) -> fx.GraphModule:
    """A graph that calls all modules on the same inputs, and returns all that they return."""
    root, graph = nn.ModuleList(modules), fx.Graph()
    inputs = tuple(graph.placeholder(f"input_{place}") for place in range(num_inputs))
    outputs = [graph.call_module(str(place), inputs) for place in range(len(modules))]
    graph.output(tuple(outputs) if len(outputs) > 1 else outputs[0])
    return fx.GraphModule(root, graph).eval()


def positional(module: nn.Module, inputs: Mapping[str, Any]) -> tuple[nn.Module, tuple[Any, ...]]:
    """A module that takes named inputs by position, and those inputs in that order."""
    leading = list(signature(module.forward).parameters)[: len(inputs)]
    if set(leading) == set(inputs):
        return module, tuple(inputs[name] for name in leading)
    return _Named(module, tuple(inputs)), tuple(inputs.values())


class _Named(nn.Module):
    """Passes positional arguments on by name."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *values: Any) -> Any:
        return self.module(**dict(zip(self.names, values, strict=True)))
