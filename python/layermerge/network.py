"""The intermediate representation: what a traced model offers to merge, free of torch.

Positions 0..L lie between the L layers. A segment (i, j] is a single-entry single-exit region of
the data-flow graph that holds exactly the layers i+1..j and is affine once what is removable in it
is gone. Values of the graph are referred to by node name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from layermerge.dataflow import Node
from layermerge.windows import Padding, Size


@dataclass(frozen=True)
class Layer:
    """A convolution with what belongs to it. A linear layer at every pixel counts as a 1x1 one.

    Attributes
    ----------
    index : int
        Place on the axis, 1..L.
    name : str
        Qualified name of the convolution module.
    padding : (int, int, int, int)
        Its own, and that of a padding right in front of it.
    activation : str or None
        Kind of the activation at the boundary after this layer.
    weight_l1 : float
        L1 norm of the weight, which ranks layers when some must go (the paper's criterion).
    """

    index: int
    name: str
    in_channels: int
    out_channels: int
    kernel_size: Size
    stride: Size
    padding: Padding
    dilation: Size
    groups: int
    input_size: Size
    output_size: Size
    norm: str | None
    activation: str | None
    weight_l1: float

    @property
    def is_irreducible(self) -> bool:
        """Whether the identity cannot stand in for this layer: channels or size change."""
        return (
            self.in_channels != self.out_channels
            or self.input_size != self.output_size
            or self.stride != (1, 1)
        )

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is convolved on its own."""
        return self.groups == self.in_channels == self.out_channels and self.groups > 1

    @property
    def flops(self) -> int:
        """Multiply-adds x 2 for one image (bias left out)."""
        taps = self.kernel_size[0] * self.kernel_size[1]
        weights = taps * self.in_channels // self.groups * self.out_channels
        return 2 * weights * self.output_size[0] * self.output_size[1]


@dataclass(frozen=True)
class Segment:
    """A mergeable segment (start, end].

    Attributes
    ----------
    start, end : int
        The segment holds the layers start+1..end.
    entry, exit : str
        Graph nodes: the one value that enters, and the value that the merged convolution computes.
    nodes : tuple of str
        What lies between, the exit included, in topological order.
    input_size, output_size : (int, int)
        Height and width at entry and exit.
    is_sum : bool
        Whether a residual addition follows the exit.
    activation : str or None
        Kind of the activation that follows (after that addition, if there is one).
    tail : tuple of str
        Removable barriers that a plan with this segment pays for: they lie behind its layers and
        neither inside it nor in another segment of the plan.
    is_droppable : bool
        Whether the identity may stand in for it: no later addition combines its value with one
        that bypasses it.
    """

    start: int
    end: int
    entry: str
    exit: str
    nodes: tuple[str, ...]
    in_channels: int
    out_channels: int
    input_size: Size
    output_size: Size
    is_sum: bool
    activation: str | None
    tail: tuple[str, ...] = ()
    is_droppable: bool = False

    @property
    def indices(self) -> range:
        """Indices of the layers inside."""
        return range(self.start + 1, self.end + 1)


@dataclass(frozen=True)
class Barrier:
    """An operation whose latency is in no candidate's convolution.

    Attributes
    ----------
    name : str
        Graph node.
    kind : str
        What it computes, such as ``max_pool2d``.
    position : int
        The last position that it comes after.
    reason : str
        Why it stops a merge; empty if it does not.
    is_removable : bool
        Whether segments contain it, so that a plan pays for it only where it stays: see
        `Segment.tail`. Otherwise every plan pays.
    unlock : str
        The word of ``remove`` in `trace` that lets segments contain it; empty if there is none.
    settings : str
        All else that its latency depends on: the module or the arguments, and the shape.
    """

    name: str
    kind: str
    position: int
    reason: str
    is_removable: bool = False
    unlock: str = ""
    settings: str = ""


@dataclass(frozen=True)
class InputSpec:
    """Shape and dtype of one example input; `name` is the forward argument."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Network:
    """A traced model: layers on the axis 0..L, its mergeable segments and its barriers.

    Attributes
    ----------
    nodes : tuple of Node
        The operations inside segments, in topological order.
    blocked : tuple of str or None
        For each inner position 1..L-1, why no segment crosses it, or None when one does.
    remove : tuple of str
        What may be removed, of `layermerge.dataflow.REMOVABLE`.
    """

    name: str
    inputs: tuple[InputSpec, ...]
    layers: tuple[Layer, ...]
    nodes: tuple[Node, ...]
    segments: tuple[Segment, ...]
    barriers: tuple[Barrier, ...]
    blocked: tuple[str | None, ...]
    remove: tuple[str, ...] = ("activation",)

    @property
    def num_layers(self) -> int:
        """L, the number of layers and the last position."""
        return len(self.layers)

    def layers_of(self, segment: Segment) -> tuple[Layer, ...]:
        """The layers inside a segment."""
        return self.layers[segment.start : segment.end]

    def nodes_of(self, segment: Segment) -> tuple[Node, ...]:
        """The operations inside a segment, in topological order."""
        return tuple(self._nodes_by_name[name] for name in segment.nodes)

    @cached_property
    def _nodes_by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the structure (not of the weights): equal for networks that share every table."""
        layers = [asdict(replace(layer, weight_l1=0.0)) for layer in self.layers]
        nodes = [
            (node.name, node.kind.value, asdict(node.operation.window), node.operation.channels)
            for node in self.nodes
        ]
        sources = [node.sources for node in self.nodes]
        segments = [(segment.start, segment.end, segment.exit) for segment in self.segments]
        barriers = [(each.name, each.kind, each.settings) for each in self.barriers]
        inputs = [asdict(spec) for spec in self.inputs]
        document = [inputs, layers, nodes, sources, segments, barriers]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]

    def explain(self) -> str:
        """Describe, layer by layer, what can merge and what stops it.

        Returns
        -------
        str
            One line per layer and, where no segment crosses a boundary, the reason.
        """
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        mergeable = sum(segment.end - segment.start > 1 for segment in self.segments)
        yield f"{self.name}: {self.num_layers} layers, {mergeable} segments of two or more layers"
        for layer in self.layers:
            yield describe_layer(layer)
            if layer.index < self.num_layers and (reason := self.blocked[layer.index - 1]):
                yield f"     -- no segment crosses position {layer.index}: {reason}"


def describe_layer(layer: Layer) -> str:
    """One line of text for a layer.

    Examples
    --------
    >>> describe_layer(Layer(1, "stem", 3, 8, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1,
    ...                      (32, 32), (16, 16), "batch_norm", "relu", 1.0))
    '   1 stem: 3x32x32 -> 8x16x16, 3x3, stride 2, relu, irreducible'
    """
    parts = [
        f"{layer.in_channels}x{layer.input_size[0]}x{layer.input_size[1]} -> "
        f"{layer.out_channels}x{layer.output_size[0]}x{layer.output_size[1]}",
        f"{layer.kernel_size[0]}x{layer.kernel_size[1]}",
    ]
    if layer.stride != (1, 1):
        parts.append(f"stride {max(layer.stride)}")
    if layer.is_depthwise:
        parts.append("depthwise")
    elif layer.groups > 1:
        parts.append(f"{layer.groups} groups")
    parts.append(layer.activation or "no activation")
    parts.append("irreducible" if layer.is_irreducible else "removable")
    return f"{layer.index:4d} {layer.name}: {', '.join(parts)}"
