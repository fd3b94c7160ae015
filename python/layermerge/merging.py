"""Merge a rewritten network: each segment becomes one convolution, verified against what it was."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

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
from layermerge.errors import TrainingError, VerificationError
from layermerge.graph import graph_arguments
from layermerge.model_checks import check_evaluation_mode
from layermerge.regions import batch_norm, layer_module, region_between
from layermerge.rewriting import Rewriting, example_tensors, rewriting_of
from layermerge.values import (
    annotate,
    channels_of,
    is_channels_last,
    operation,
    side_of,
    sources_of,
)
from layermerge.windows import Padding

VERIFICATION_KEY = "layermerge_verification"
FLOAT64_TOLERANCE = 1e-10
FLOAT32_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Verification:
    """Largest difference between merged and rewritten outputs, relative to the largest output.

    Attributes
    ----------
    float64_error : float
        With both networks in double precision: whether the merge is exact.
    error : float
        In the network's own precision: what rounding adds.
    """

    float64_error: float
    error: float


def merge(rewritten: fx.GraphModule) -> fx.GraphModule:
    """Compose each segment of a rewritten network into one convolution.

    Kernels are composed in float64 and then cast. The result is compared with the rewritten
    network on random inputs, in float64 and in the network's own precision; see `verification`.

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
    merged = merge_unverified(rewritten)
    merged.meta[VERIFICATION_KEY] = verify(rewritten, merged)
    return merged


def verification(merged: fx.GraphModule) -> Verification:
    """How far a merged network is from the rewritten one."""
    found = merged.meta[VERIFICATION_KEY]
    assert isinstance(found, Verification)
    return found


def verify(rewritten: fx.GraphModule, merged: fx.GraphModule) -> Verification:
    """Compare a merged with its rewritten network on random inputs, in two precisions.

    Raises
    ------
    TrainingError
        If the output of the rewritten network is not finite.
    VerificationError
        If they differ by more than rounding explains; names the first segment that does.
    """
    rewriting = rewriting_of(rewritten)
    _check_finite(rewritten, rewriting)
    exact_rewritten = copy.deepcopy(rewritten).double()
    exact_merged = merge_unverified(exact_rewritten)
    result = Verification(
        _difference(exact_rewritten, exact_merged, rewriting),
        _difference(rewritten, merged, rewriting),
    )
    tolerance = _tolerance(rewritten)
    if not (result.float64_error <= FLOAT64_TOLERANCE and result.error <= tolerance):
        raise VerificationError(
            f"the merged network differs from the rewritten one by {result.float64_error:.1e} in "
            f"float64 (expected at most {FLOAT64_TOLERANCE:.0e}) and {result.error:.1e} in its own "
            f"precision (expected at most {tolerance:.0e}); first at "
            f"{_first_difference(exact_rewritten, exact_merged, rewriting)}. Please report this "
            "model: such a plan should not have been offered"
        )
    return result


def _check_finite(rewritten: fx.GraphModule, rewriting: Rewriting) -> None:
    """Refuse a network that computes NaN, which is not to be compared with anything."""
    with torch.no_grad():
        outputs = pytree.tree_leaves(rewritten(*_random_arguments(rewritten, rewriting)))
    if not all(torch.isfinite(out).all() for out in outputs if isinstance(out, Tensor)):
        weights = rewritten.named_parameters()
        bad = [name for name, weight in weights if not torch.isfinite(weight).all()]
        raise TrainingError(
            "the rewritten network computes NaN or infinite values before it is merged"
            + (f", as its parameter {bad[0]!r} holds such values" if bad else "")
            + ": its fine-tuning diverged. Lower the learning rate, and look at what finetune_fn "
            "(or train_fn) does to the network"
        )


def _tolerance(network: nn.Module) -> float:
    """What rounding may add in the network's own precision: 0.25 in bfloat16, 0.03 in float16."""
    return max(FLOAT32_TOLERANCE, 32 * torch.finfo(next(network.parameters()).dtype).eps)


def merge_unverified(rewritten: fx.GraphModule) -> fx.GraphModule:
    """Merge as `merge` does, without the check: where only the architecture is wanted."""
    rewriting = rewriting_of(rewritten)
    check_evaluation_mode(rewritten)
    merged = copy.deepcopy(rewritten)
    nodes = {node.name: node for node in merged.graph.nodes}
    for segment in rewriting.segments:
        exit = nodes[segment.exit]
        nodes[segment.exit] = _merge_segment(merged, nodes[segment.entry], exit)
    merged.delete_all_unused_submodules()
    merged.graph.lint()
    merged.recompile()
    return merged


def _merge_segment(merged: fx.GraphModule, entry: fx.Node, exit: fx.Node) -> fx.Node:
    """Replace the nodes of a segment by one convolution; return the node of its value."""
    if exit is entry:
        return exit
    nodes = region_between(entry, exit)
    layers = [node for node in nodes if operation(node).kind is Kind.LAYER]
    if not layers:
        return exit
    name, dtype = str(layers[-1].target), layer_module(merged, layers[-1]).weight.dtype
    result = _affine_map(merged, entry, nodes)
    value = _Writer(merged, nodes[-1]).convolution(name, entry, result, dtype)
    value.meta.update(exit.meta)
    annotate(value, Operation(Kind.LAYER, "conv2d"), value.all_input_nodes[:1])
    exit.replace_all_uses_with(value)
    merged.graph.eliminate_dead_code()
    return value


class _Writer:
    """Writes a merged convolution into a graph, in front of the node that it replaces."""

    def __init__(self, merged: fx.GraphModule, place: fx.Node) -> None:
        self.merged = merged
        self.place = place

    def convolution(
        self, name: str, entry: fx.Node, result: AffineMap, dtype: torch.dtype
    ) -> fx.Node:
        """Pad, convolve and add the side inputs; images with channels last are turned."""
        value = entry
        if is_channels_last(entry):
            value = self._call(torch.permute, value, TO_CHANNELS_FIRST)
        conv, padding = _to_convolution(result)
        if padding:
            value = self._call(F.pad, value, padding)
        self.merged.set_submodule(name, conv.to(dtype=dtype))
        with self.merged.graph.inserting_before(self.place):
            value = self.merged.graph.call_module(name, (value,))
        for place, (side, matrix) in enumerate(result.sides.items()):
            value = self._add_side(f"{name}_side_{place}", value, side, matrix.to(dtype))
        if is_channels_last(self.place):
            value = self._call(torch.permute, value, TO_CHANNELS_LAST)
        return value

    def _add_side(self, name: str, value: fx.Node, side: str, matrix: Tensor) -> fx.Node:
        conv = nn.Conv2d(matrix.shape[1], matrix.shape[0], 1, bias=False).to(matrix)
        with torch.no_grad():
            conv.weight.copy_(matrix[:, :, None, None])
        self.merged.add_submodule(name, conv.eval())
        source = next(node for node in self.merged.graph.nodes if node.name == side)
        with self.merged.graph.inserting_before(self.place):
            term = self.merged.graph.call_module(name, (source,))
        return self._call(operator.add, value, term)

    def _call(self, function: Callable[..., Any], *args: Any) -> fx.Node:
        with self.merged.graph.inserting_before(self.place):
            return self.merged.graph.call_function(function, args)


def _affine_map(merged: fx.GraphModule, entry: fx.Node, nodes: tuple[fx.Node, ...]) -> AffineMap:
    """Follow the value of `entry` through a rewritten segment."""
    channels = channels_of(entry)
    maps = {entry: identity(channels, device_of(merged))}
    for node in nodes:
        maps[node] = _follow(merged, node, [maps[source] for source in sources_of(node)])
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
        case _:
            return sources[0]


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
        device=result.kernel.device,
        dtype=torch.float64,
    )
    with torch.no_grad():
        conv.weight.copy_(result.kernel)
        cast(Tensor, conv.bias).copy_(result.bias)
    return conv.eval(), None if is_even else result.padding


def _difference(first: fx.GraphModule, second: fx.GraphModule, rewriting: Rewriting) -> float:
    arguments = _random_arguments(first, rewriting)
    with torch.no_grad():
        return _relative_difference(first(*arguments), second(*arguments))


def _random_arguments(network: fx.GraphModule, rewriting: Rewriting) -> tuple[Any, ...]:
    weight = next(network.parameters())
    named = example_tensors(rewriting.plan.inputs, weight.device, seed=0)
    typed = {
        name: value.to(weight.dtype) if value.is_floating_point() else value
        for name, value in named.items()
    }
    return graph_arguments(network, typed)


def _relative_difference(expected: Any, actual: Any) -> float:
    """Largest |expected - actual| / max |expected| over all tensors; infinite if not comparable."""
    worst = 0.0
    for wanted, got in zip(pytree.tree_leaves(expected), pytree.tree_leaves(actual), strict=True):
        if isinstance(wanted, Tensor):
            scale = wanted.abs().max().clamp_min(torch.finfo(wanted.dtype).tiny)
            error = float((wanted - got).abs().max() / scale) if wanted.numel() else 0.0
            worst = max(worst, error if math.isfinite(error) else math.inf)
    return worst


class _Recorder(fx.Interpreter):
    """Runs a network and keeps the value of every node."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n.name] = super().run_node(n)
        return self.values[n.name]


def _first_difference(
    rewritten: fx.GraphModule, merged: fx.GraphModule, rewriting: Rewriting
) -> str:
    """The first segment after which the two networks part, judged by what follows its exit."""
    arguments = _random_arguments(rewritten, rewriting)
    before, after = _Recorder(rewritten), _Recorder(merged)
    with torch.no_grad():
        before.run(*arguments)
        after.run(*arguments)
    followers = {node.name: node for node in rewritten.graph.nodes}
    for segment in rewriting.segments:
        for user in followers[segment.exit].users:
            shared = user.name in after.values
            if (
                shared
                and _relative_difference(before.values[user.name], after.values[user.name])
                > FLOAT64_TOLERANCE
            ):
                return f"segment {segment.planned.start}..{segment.planned.end}"
    return "the output"
