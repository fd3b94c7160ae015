"""Merge a rewritten network: each segment becomes one convolution, verified against what it was."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from layermerge.arithmetic import (
    SCALE,
    TO_CHANNELS_FIRST,
    TO_CHANNELS_LAST,
    device_of,
    scale_and_shift,
)
from layermerge.channels import follow_channels
from layermerge.composition import (
    AffineMap,
    add,
    add_side,
    average,
    compose,
    concatenate,
    from_batch_norm,
    from_convolution,
    identity,
    pad,
    regroup,
    scale,
    select,
)
from layermerge.convolutions import pair
from layermerge.dataflow import Kind, Node, Operation
from layermerge.errors import InputError
from layermerge.model_checks import check_evaluation_mode
from layermerge.regions import batch_norm, layer_module, region_between
from layermerge.rewriting import META_KEY, rewriting_of
from layermerge.unused import delete_unused
from layermerge.values import (
    annotate,
    channels_of,
    is_channels_last,
    operation,
    set_channels_last,
    side_of,
    sources_of,
)
from layermerge.verification import finite_sample, record_verification, segment_error, verify
from layermerge.windows import Padding


def merge(rewritten: fx.GraphModule) -> fx.GraphModule:
    """Compose each segment of a rewritten network into one convolution.

    Kernels are composed in float64 and then cast. Each segment is compared with its convolution
    in float64, and the whole result with the rewritten network in its own precision, on random
    inputs; see `verification`.

    Parameters
    ----------
    rewritten : torch.fx.GraphModule
        Made by `rewrite`, usually fine-tuned since; in evaluation mode. Left as it is.

    Returns
    -------
    torch.fx.GraphModule
        A network of plain convolutions. Each merged convolution has the name of the last layer
        that it was made of.

    Raises
    ------
    InputError
        If the network was not made by `rewrite`, or has batch norm in training mode.
    TrainingError
        If the output of the rewritten network is not finite: its training diverged.
    VerificationError
        If the merged network computes something else than the rewritten one.
    """
    _check(rewritten)
    sample = finite_sample(rewritten)
    errors: dict[str, float] = {}
    merged = _merge(rewritten, errors)
    record_verification(merged, verify(rewritten, merged, errors, sample))
    return merged


def merge_unverified(rewritten: fx.GraphModule) -> fx.GraphModule:
    """Merge as `merge` does, without the check: where only the architecture is wanted."""
    _check(rewritten)
    return _merge(rewritten, None)


def _check(rewritten: fx.GraphModule) -> None:
    if rewriting_of(rewritten).is_merged:
        raise InputError(
            "this network is merged already: train and merge the one that rewrite returned"
        )
    check_evaluation_mode(rewritten)


def _merge(rewritten: fx.GraphModule, errors: dict[str, float] | None) -> fx.GraphModule:
    """Merge every segment, and note by how much each differs, in float64, if that is asked for."""
    rewriting = rewriting_of(rewritten)
    merged = copy.deepcopy(rewritten)
    merged.meta[META_KEY] = replace(rewriting, is_merged=True)
    nodes = {node.name: node for node in merged.graph.nodes}
    for planned in rewriting.segments:
        entry, exit = nodes[planned.entry], nodes[planned.exit]
        segment = _Segment(merged, entry, exit) if entry is not exit else None
        if segment is None or not segment.name:
            continue
        segment.write()
        if errors is not None and not planned.planned.is_original:
            errors[f"segment {planned.planned.start}..{planned.planned.end}"] = segment.error()
        nodes[planned.exit] = segment.replace()
    merged.graph.eliminate_dead_code()
    delete_unused(merged)
    merged.graph.lint()
    merged.recompile()
    return merged


class _Segment:
    """A segment of a rewritten graph, and the convolution that takes its place."""

    def __init__(self, merged: fx.GraphModule, entry: fx.Node, exit: fx.Node) -> None:
        self.merged = merged
        self.entry = entry
        self.exit = exit
        self.nodes = region_between(entry, exit)
        layers = [node for node in self.nodes if operation(node).kind is Kind.LAYER]
        self.name = str(layers[-1].target) if layers else ""
        self.written: list[fx.Node] = []
        self.modules: dict[str, nn.Module] = {}
        """What the written nodes call, in float64."""

    def write(self) -> None:
        """Pad, convolve and add the side inputs; images with channels last are turned."""
        result = _affine_map(self.merged, self.entry, self.nodes)
        value = self.entry
        if is_channels_last(value):
            value = self._call(torch.permute, value, TO_CHANNELS_FIRST)
        conv, padding = _to_convolution(result)
        if padding:
            value = self._call(F.pad, value, padding)
        value = self._call_module(self.name, conv, value)
        for place, (side, matrix) in enumerate(result.sides.items()):
            source = next(node for node in self.merged.graph.nodes if node.name == side)
            term = self._call_module(f"{self.name}_side_{place}", _pointwise(matrix), source)
            value = self._call(operator.add, value, term)
        if is_channels_last(self.exit):
            self._call(torch.permute, value, TO_CHANNELS_LAST)

    def error(self) -> float:
        """By how much the convolution differs from the segment, in float64."""
        return segment_error(self.merged, self.entry, self.nodes, self.written, self.modules)

    def replace(self) -> fx.Node:
        """Let the convolution, in the precision of the network, take the segment's place."""
        old = self.merged.get_submodule(self.name)
        dtype = next(old.parameters()).dtype
        for name, module in self.modules.items():
            parent, _, own = name.rpartition(".")
            self.merged.get_submodule(parent).add_module(own, _cast(module, dtype))
        value = self.written[-1]
        value.meta.update(self.exit.meta)
        set_channels_last(value, is_channels_last(self.exit))
        annotate(value, Operation(Kind.LAYER, "conv2d"), value.all_input_nodes[:1])
        self.exit.replace_all_uses_with(value)
        for node in reversed(self.nodes):
            self.merged.graph.erase_node(node)
        return value

    def _call(self, function: Callable[..., Any], *args: Any) -> fx.Node:
        with self.merged.graph.inserting_before(self.exit):
            self.written.append(self.merged.graph.call_function(function, args))
        return self.written[-1]

    def _call_module(self, name: str, module: nn.Module, value: fx.Node) -> fx.Node:
        self.modules[name] = module.eval()
        with self.merged.graph.inserting_before(self.exit):
            self.written.append(self.merged.graph.create_node("call_module", name, (value,)))
        return self.written[-1]


@torch.no_grad()
def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """To the precision of the network, with zeros in place of subnormal weights.

    Those of float32 and bfloat16, below 1.2e-38, change no output and are slow on processors that
    compute them in microcode. In float16 they begin at 6.1e-5, where they matter, and are kept.
    """
    if dtype != torch.float16:
        for parameter in module.parameters():
            parameter[parameter.abs() < torch.finfo(dtype).tiny] = 0
    return module.to(dtype)


def _pointwise(matrix: Tensor) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    conv = nn.Conv2d(matrix.shape[1], matrix.shape[0], 1, bias=False, device="meta")
    conv.weight = nn.Parameter(matrix[:, :, None, None])
    return conv


def _affine_map(merged: fx.GraphModule, entry: fx.Node, nodes: tuple[fx.Node, ...]) -> AffineMap:
    """Follow the value of `entry` through a rewritten segment."""
    channels = channels_of(entry)
    maps = {entry: identity(channels, device_of(merged))}
    last_use = {source: node for node in nodes for source in sources_of(node)}
    for node in nodes:
        sources = sources_of(node)
        maps[node] = _follow(merged, node, [maps[source] for source in sources])
        # A segment's kernels may together take many times the memory of the model.
        for source in {source for source in sources if last_use[source] is node}:
            del maps[source]
    described = [_node(node) for node in nodes]
    support = follow_channels(described, entry.name, channels)[nodes[-1].name]
    return regroup(maps[nodes[-1]], support.groups(channels))


def _node(node: fx.Node) -> Node:
    sources = tuple(source.name for source in sources_of(node))
    return Node(node.name, operation(node), sources, channels_of(node), (0, 0))


def _follow(merged: fx.GraphModule, node: fx.Node, sources: list[AffineMap]) -> AffineMap:
    found = operation(node)
    match found.kind:
        case Kind.LAYER:
            return compose(sources[0], from_convolution(layer_module(merged, node)))
        case Kind.NORM:
            return compose(sources[0], _norm_map(merged, node))
        case Kind.SUM:
            return add(sources[0], sources[-1])
        case Kind.CONCAT:
            return concatenate(sources)
        case Kind.SLICE:
            return select(sources[0], *found.channels)
        case Kind.POOL:
            device = sources[0].kernel.device
            return compose(sources[0], average(channels_of(node), found.window, device))
        case Kind.PAD:
            return pad(sources[0], found.window.padding)
        case Kind.SIDE:
            side = side_of(node)
            assert side is not None
            return add_side(sources[0], side.name, channels_of(side))
        case Kind.IDENTITY:
            return sources[0]
        case _:
            raise AssertionError(f"{node.name} is not affine: {found}")


def _norm_map(merged: fx.GraphModule, node: fx.Node) -> AffineMap:
    if operation(node).name == SCALE:
        return scale(*scale_and_shift(merged, node, channels_of(node)))
    return from_batch_norm(batch_norm(merged, node))


def _to_convolution(result: AffineMap) -> tuple[nn.Conv2d, Padding | None]:
    """A convolution that computes the map, and the padding it needs in front if it is uneven."""
    left, right, top, bottom = result.padding
    is_even = left == right >= 0 and top == bottom >= 0
    conv = nn.Conv2d(
        result.in_channels,
        result.out_channels,
        pair(tuple(result.kernel.shape[2:])),
        result.stride,
        (top, left) if is_even else 0,
        result.dilation,
        result.groups,
        device="meta",  # so that no other weights are drawn first
    )
    conv.weight, conv.bias = nn.Parameter(result.kernel), nn.Parameter(result.bias)
    return conv.eval(), None if is_even else result.padding
