"""Trace a torch model into a `Network`: layers, mergeable segments, barriers, and the reasons."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from layermerge.dataflow import REMOVABLE
from layermerge.description import describe
from layermerge.graph import ExampleInputs, bind_inputs, capture
from layermerge.network import InputSpec, Network
from layermerge.operations import classify
from layermerge.ordering import keep_branches_together
from layermerge.regions import Region, find_regions
from layermerge.slicing import narrow_slices


def trace(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    remove: Collection[str] = ("activation",),
) -> Network:
    """Trace a model: which layers it has, which segments can merge, and what stops the others.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode. Left as it is.
    example_inputs : tensor, tuple or dict
        What the model is called with; shapes are read off a run on it.
    remove : collection of str
        What may be removed inside a segment besides convolutions: any of ``"activation"``,
        ``"gate"`` (squeeze-excite and its like) and ``"norm"`` (group norm, layer norm).

    Returns
    -------
    Network

    Raises
    ------
    InputError
        If the model is in training mode or does not run on the example.
    UnsupportedModelError
        If the model cannot be traced, or has no convolution that can be changed.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
    >>> network = trace(model, torch.zeros(1, 3, 8, 8))
    >>> [(segment.start, segment.end) for segment in network.segments]
    [(0, 1), (0, 2), (1, 2)]
    """
    traced = trace_graph(model, example_inputs, remove, borrow_weights=True)
    return traced.network


@dataclass(frozen=True)
class TracedGraph:
    """A captured graph, its regions and their description."""

    captured: fx.GraphModule
    regions: tuple[Region, ...]
    network: Network


def trace_graph(
    model: nn.Module,
    example_inputs: ExampleInputs,
    remove: Collection[str],
    *,
    borrow_weights: bool = False,
) -> TracedGraph:
    """Trace as `trace` does, and keep the graph, which belongs to the caller, weights or not."""
    captured = capture(model, example_inputs, borrow_weights=borrow_weights)
    keep_branches_together(captured)
    narrow_slices(captured)
    classify(captured, remove)
    regions = tuple(find_regions(captured))
    inputs = input_specs(bind_inputs(model, example_inputs))
    ordered = tuple(word for word in REMOVABLE if word in remove)
    return TracedGraph(captured, regions, describe(captured, inputs, regions, ordered))


def input_specs(arguments: dict[str, Any]) -> tuple[InputSpec, ...]:
    """Describe the tensors among named inputs."""
    return tuple(
        InputSpec(name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in arguments.items()
        if isinstance(value, Tensor)
    )
