"""Trace a torch model into a `Network`: layers, mergeable segments, barriers, and the reasons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from layermerge.errors import UnsupportedModelError
from layermerge.graph import ExampleInputs, bind_inputs, capture
from layermerge.network import Barrier, InputSpec, Layer, Network, Segment, Size
from layermerge.operations import Kind, Operation, operation
from layermerge.regions import (
    Region,
    conv_padding,
    convolution,
    find_regions,
    layer_nodes,
    pair,
)


def trace(model: nn.Module, example_inputs: ExampleInputs) -> Network:
    """Trace a model: which layers it has, which segments can merge, and what stops the others.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode. Left as it is.
    example_inputs : tensor, tuple or dict
        What the model is called with; shapes are read off a run on it.

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
    captured = capture(model, example_inputs)
    inputs = input_specs(bind_inputs(model, example_inputs))
    return describe(captured, inputs, tuple(find_regions(captured)))


def describe(
    captured: fx.GraphModule, inputs: tuple[InputSpec, ...], regions: tuple[Region, ...]
) -> Network:
    """Describe a captured graph and its regions as a `Network`."""
    nodes = layer_nodes(captured)
    if not nodes:
        raise UnsupportedModelError(
            f"{captured.__class__.__name__} has no 2-D convolution that can be changed"
            + "".join(f"; {reason}" for reason in _conv_barriers(captured))
        )
    owner = _owners(captured, nodes)
    segments = tuple(_segment(captured, region, owner) for region in regions)
    singles = {segment.end: segment for segment in segments if segment.end - segment.start == 1}
    layers = tuple(
        _layer(captured, place, node, singles[place].activation)
        for place, node in enumerate(nodes, start=1)
    )
    return Network(
        captured.__class__.__name__,
        inputs,
        layers,
        segments,
        _barriers(captured, regions, owner),
        tuple(_why_blocked(nodes, regions, position) for position in range(1, len(nodes))),
    )


def input_specs(arguments: dict[str, Any]) -> tuple[InputSpec, ...]:
    """Describe the tensors among named inputs."""
    return tuple(
        InputSpec(name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in arguments.items()
        if isinstance(value, Tensor)
    )


def _layer(captured: fx.GraphModule, index: int, node: fx.Node, activation: str | None) -> Layer:
    conv = convolution(captured, node)
    norms = [user for user in node.users if operation(user).kind is Kind.NORM]
    with torch.no_grad():
        weight_l1 = float(conv.weight.abs().sum(dtype=torch.float64))
    return Layer(
        index,
        str(node.target),
        conv.in_channels,
        conv.out_channels,
        pair(conv.kernel_size),
        pair(conv.stride),
        conv_padding(conv),
        pair(conv.dilation),
        conv.groups,
        _size(node.all_input_nodes[0]),
        _size(node),
        operation(norms[0]).name if norms else None,
        activation,
        weight_l1,
    )


def _segment(captured: fx.GraphModule, region: Region, owner: dict[fx.Node, int]) -> Segment:
    jump = {region.entry: (1, 1)}
    jumps = []
    for node in region.nodes:
        jump[node] = jump[next(source for source in node.all_input_nodes if source in jump)]
        if operation(node).kind is Kind.LAYER:
            conv = convolution(captured, node)
            jumps.append(jump[node])
            jump[node] = (jump[node][0] * conv.stride[0], jump[node][1] * conv.stride[1])
    is_sum, activation, _ = _followers(region, owner)
    return Segment(
        region.start,
        region.end,
        region.entry.name,
        region.exit.name,
        region.entry.meta["shape"][1],
        region.exit.meta["shape"][1],
        _size(region.entry),
        _size(region.exit),
        tuple(jumps),
        is_sum,
        activation,
    )


def _owners(captured: fx.GraphModule, layers: list[fx.Node]) -> dict[fx.Node, int]:
    """For each node, the last layer that it depends on (0 for none)."""
    index = {node: place for place, node in enumerate(layers, start=1)}
    owner: dict[fx.Node, int] = {}
    for node in captured.graph.nodes:
        owner[node] = max([index.get(node, 0), *(owner[source] for source in node.all_input_nodes)])
    return owner


def _followers(region: Region, owner: dict[fx.Node, int]) -> tuple[bool, str | None, list[fx.Node]]:
    """What runs right after the exit and waits for nothing else: an addition, an activation.

    Of the branches that an addition joins, it is counted with the one that comes last.
    """
    followers: list[fx.Node] = []
    node = _next_of_kind(region.exit, Kind.SUM, region.end, owner)
    if node:
        followers.append(node)
    activation = _next_of_kind(node or region.exit, Kind.ACTIVATION, region.end, owner)
    if activation:
        followers.append(activation)
    return bool(node), operation(activation).name if activation else None, followers


def _next_of_kind(
    node: fx.Node, kind: Kind, position: int, owner: dict[fx.Node, int]
) -> fx.Node | None:
    if len(node.users) != 1:
        return None
    (user,) = node.users
    if operation(user).kind is Kind.IDENTITY:
        return _next_of_kind(user, kind, position, owner)
    return user if operation(user).kind is kind and owner[user] == position else None


def _barriers(
    captured: fx.GraphModule, regions: tuple[Region, ...], owner: dict[fx.Node, int]
) -> tuple[Barrier, ...]:
    """Every operation whose cost is in no candidate."""
    covered: set[fx.Node] = set()
    for region in regions:
        covered.update(region.nodes, _followers(region, owner)[2])
    return tuple(
        Barrier(node.name, found.name, owner[node], found.reason or _why_outside(found))
        for node in captured.graph.nodes
        if (found := node.meta.get("operation")) and node not in covered
    )


def _why_outside(found: Operation) -> str:
    return f"{found.name} belongs to no layer"


def _conv_barriers(captured: fx.GraphModule) -> list[str]:
    operations = map(operation, captured.graph.nodes)
    reasons = [found.reason for found in operations if found.name == "conv2d" and found.reason]
    others = (nn.Conv1d, nn.Conv3d)
    found = {type(module).__name__ for module in captured.modules() if isinstance(module, others)}
    return reasons + [f"{name} is not 2-D" for name in sorted(found)]


def _why_blocked(layers: list[fx.Node], regions: tuple[Region, ...], position: int) -> str | None:
    """Why no segment crosses a position, seen from the layer that follows it."""
    if any(region.start < position < region.end for region in regions):
        return None
    node = layers[position].all_input_nodes[0]
    while operation(node).kind not in (Kind.LAYER, Kind.BARRIER):
        if operation(node).kind is Kind.SUM:
            terms = " and ".join(source.name for source in node.all_input_nodes)
            return f"{node.name} adds {terms}, which no segment contains together"
        node = node.all_input_nodes[0]
    if operation(node).kind is Kind.BARRIER:
        return operation(node).reason or f"the value comes from the {node.op} {node.name}"
    return f"the value of {node.name} is also used elsewhere, or its branches grow the kernel alike"


def _size(node: fx.Node) -> Size:
    shape = node.meta["shape"]
    return (shape[2], shape[3])
