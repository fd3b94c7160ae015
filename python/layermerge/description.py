"""Describe a captured graph and its regions in terms of layers, segments and barriers."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import fx, nn

from layermerge.accounting import Accounts, Bypasses
from layermerge.convolutions import weight_of
from layermerge.dataflow import Kind, Node
from layermerge.errors import NoLayersError
from layermerge.network import InputSpec, Layer, Network, Segment
from layermerge.regions import Region, layer_input, layer_module, layer_nodes
from layermerge.values import channels_of, operation, size_of, sources_of
from layermerge.windows import compose

_SHOWN = 3
"""Reasons that a message names, of many."""


def describe(
    captured: fx.GraphModule,
    inputs: tuple[InputSpec, ...],
    regions: tuple[Region, ...],
    remove: tuple[str, ...] = ("activation",),
) -> Network:
    """Describe a captured graph and its regions as a `Network`."""
    if not layer_nodes(captured):
        name = captured.__class__.__name__
        reasons = [f"{name} has no 2-D convolution that can be changed", *_conv_barriers(captured)]
        more = len(reasons) - 1 - _SHOWN
        shown = reasons[: _SHOWN + 1] + ([f"and {more} more"] if more > 0 else [])
        raise NoLayersError("; ".join(shown))
    return _Description(captured, regions).network(inputs, remove)


class _Description:
    def __init__(self, captured: fx.GraphModule, regions: tuple[Region, ...]) -> None:
        self.captured = captured
        self.regions = regions
        self.layers = layer_nodes(captured)
        self.index = {node: place for place, node in enumerate(self.layers, start=1)}
        self.accounts = Accounts(captured, regions)
        self.bypasses = Bypasses(captured)

    def network(self, inputs: tuple[InputSpec, ...], remove: tuple[str, ...]) -> Network:
        inside = {node for region in self.regions for node in region.nodes}
        return Network(
            self.captured.__class__.__name__,
            inputs,
            tuple(map(self._layer, self.layers)),
            tuple(self._node(node) for node in self.captured.graph.nodes if node in inside),
            self.segments,
            tuple(self.accounts.barriers()),
            tuple(map(self._why_blocked, range(1, len(self.layers)))),
            remove,
        )

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        return tuple(map(self._segment, range(len(self.regions))))

    @cached_property
    def _activations(self) -> dict[int, str | None]:
        return {s.end: s.activation for s in self.segments if s.end - s.start == 1}

    def _layer(self, node: fx.Node) -> Layer:
        source = layer_input(node)
        window = operation(node).window
        padded = sources_of(node)[0]
        while padded is not source:
            window = compose(operation(padded).window, window)
            padded = sources_of(padded)[0]
        norms = [user for user in node.users if operation(user).kind is Kind.NORM]
        index = self.index[node]
        return Layer(
            index,
            str(node.target),
            channels_of(source),
            channels_of(node),
            window.kernel_size,
            window.stride,
            window.padding,
            window.dilation,
            operation(node).groups,
            size_of(source),
            size_of(node),
            operation(norms[0]).name if norms else None,
            self._activations[index],
            self._weight_l1(node),
        )

    def _weight_l1(self, node: fx.Node) -> float:
        weight = weight_of(layer_module(self.captured, node))
        return float(torch.linalg.vector_norm(weight, 1, dtype=torch.float64))

    def _node(self, node: fx.Node) -> Node:
        return Node(
            node.name,
            operation(node),
            tuple(source.name for source in sources_of(node)),
            channels_of(node),
            size_of(node),
            self.index.get(node, 0),
        )

    def _segment(self, place: int) -> Segment:
        region, followers = self.regions[place], self.accounts.followers[place]
        kinds = {operation(node).kind: operation(node).name for node in followers}
        return Segment(
            region.start,
            region.end,
            region.entry.name,
            region.exit.name,
            tuple(node.name for node in region.nodes),
            channels_of(region.entry),
            channels_of(region.exit),
            size_of(region.entry),
            size_of(region.exit),
            Kind.SUM in kinds,
            kinds.get(Kind.ACTIVATION),
            self.accounts.tail(place),
            not self.bypasses.exist_around(region),
        )

    def _why_blocked(self, position: int) -> str | None:
        """Why no segment crosses a position, seen from the layer that follows it."""
        if any(region.start < position < region.end for region in self.regions):
            return None
        node = layer_input(self.layers[position])
        while operation(node).kind not in (Kind.LAYER, Kind.BARRIER, Kind.PART):
            if operation(node).kind in (Kind.SUM, Kind.CONCAT):
                terms = " and ".join(source.name for source in sources_of(node))
                return f"{node.name} joins {terms}, which no segment contains together"
            node = sources_of(node)[0]
        if operation(node).kind is Kind.BARRIER:
            return operation(node).reason or f"the value comes from the {node.op} {node.name}"
        return f"the value of {node.name} is also used elsewhere"


def _conv_barriers(captured: fx.GraphModule) -> list[str]:
    """Why the convolutions of a model are no layers; parts of gates last."""
    convolutions = [node for node in captured.graph.nodes if _is_convolution(captured, node)]
    found = [operation(node) for node in convolutions]
    found.sort(key=lambda operation: operation.kind is Kind.PART)
    others = (nn.Conv1d, nn.Conv3d)
    names = {type(module).__name__ for module in captured.modules() if isinstance(module, others)}
    reasons = [part.reason for part in found if part.reason]
    return list(dict.fromkeys([*reasons, *(f"{name} is not 2-D" for name in sorted(names))]))


def _is_convolution(captured: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a convolution, or a TorchScript module, which may hold some."""
    if node.op == "call_module":
        module = captured.get_submodule(str(node.target))
        return isinstance(module, (nn.Conv2d, torch.jit.ScriptModule))
    return operation(node).name == "conv2d"
