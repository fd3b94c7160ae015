"""Rewrite a model to a plan: a trainable network that merges exactly, parameter names kept.

A rewritten segment pads once, at its entry, and convolves without padding. The border that a value
carries in addition to its original extent is its *halo*. It follows from the exit backwards: 0
there, s h + p in front of a convolution of stride s and padding p, and at a fork the largest that
a branch asks for; the other branches crop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from layermerge.errors import InputError, UnsupportedModelError
from layermerge.graph import capture
from layermerge.model_checks import check_model
from layermerge.network import InputSpec, Network, Padding, Size
from layermerge.operations import Kind, operation
from layermerge.plan import Plan, PlannedSegment
from layermerge.regions import Region, conv_padding, convolution, find_regions, pair, region_between
from layermerge.tracing import describe

META_KEY = "layermerge"
_NO_PADDING: Padding = (0, 0, 0, 0)


@dataclass(frozen=True)
class RewrittenSegment:
    """Where a planned segment is in the rewritten graph."""

    planned: PlannedSegment
    entry: str
    exit: str


@dataclass(frozen=True)
class Rewriting:
    """What `merge` needs to know of a rewritten network; kept in its ``meta``."""

    plan: Plan
    segments: tuple[RewrittenSegment, ...]


def rewrite(model: nn.Module, plan: Plan) -> fx.GraphModule:
    """Remove the activations and convolutions that the plan removes.

    Parameters
    ----------
    model : torch.nn.Module
        The model that was traced, in evaluation mode. Left as it is.
    plan : Plan

    Returns
    -------
    torch.fx.GraphModule
        A trainable network in evaluation mode. What is kept has the parameter names of `model`.

    Raises
    ------
    InputError
        If the plan was made for another network, or drops a layer that nothing can replace.
    UnsupportedModelError
        If a segment of the plan cannot merge.

    Notes
    -----
    A residual branch that loses all its convolutions is dropped, so that the block becomes its
    shortcut: keeping the emptied branch would double the value.
    """
    check_model(model)
    if not isinstance(plan, Plan):
        raise InputError(
            f"plan must be a layermerge Plan, got {type(plan).__name__}: solve for one, or read "
            "one from a file with load_plan"
        )
    captured = capture(model, example_tensors(plan.inputs, _device(model)))
    found = tuple(find_regions(captured))
    _check_plan(plan, describe(captured, plan.inputs, found))
    regions = {(region.start, region.end): region for region in found}
    now: dict[fx.Node, fx.Node] = {}
    places = [
        _rewrite_segment(captured, _lookup(regions, segment), segment, now)
        for segment in plan.segments
    ]
    captured.graph.eliminate_dead_code()
    captured.delete_all_unused_submodules()
    captured.graph.lint()
    captured.recompile()
    segments = (
        RewrittenSegment(segment, entry.name, exit.name)
        for segment, (entry, exit) in zip(plan.segments, places, strict=True)
    )
    captured.meta[META_KEY] = Rewriting(plan, tuple(segments))
    return captured


def rewriting_of(rewritten: nn.Module) -> Rewriting:
    """What `rewrite` recorded, or an error if the network does not come from there."""
    found = getattr(rewritten, "meta", {}).get(META_KEY)
    if not isinstance(found, Rewriting):
        raise InputError(
            f"expected a network made by layermerge.rewrite, got {type(rewritten).__name__}: "
            "call rewrite(model, plan) first"
        )
    return found


def example_tensors(
    inputs: Iterable[InputSpec], device: torch.device, *, seed: int | None = None
) -> dict[str, torch.Tensor]:
    """Make inputs of the given shapes: zeros, or normal random numbers from `seed`."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return {spec.name: _example_tensor(spec, generator).to(device) for spec in inputs}


def _example_tensor(spec: InputSpec, generator: torch.Generator | None) -> torch.Tensor:
    dtype = getattr(torch, spec.dtype)
    if generator is None or not dtype.is_floating_point:
        return torch.zeros(spec.shape, dtype=dtype)
    return torch.randn(spec.shape, generator=generator, dtype=torch.float32).to(dtype)


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _check_plan(plan: Plan, network: Network) -> None:
    if network.fingerprint != plan.network_fingerprint:
        raise InputError(
            f"the plan was made for another network: its fingerprint is "
            f"{plan.network_fingerprint}, that of {network.name} is {network.fingerprint}. Give "
            "the model that was traced, in the same configuration"
        )
    dropped = set(range(1, network.num_layers + 1)).difference(plan.convolutions)
    for layer in network.layers:
        if layer.index in dropped and layer.is_irreducible:
            raise InputError(
                f"the plan drops layer {layer.index} ({layer.name!r}), which changes the channels "
                "or the size, so that the identity cannot replace it: keep it in its segment"
            )


def _lookup(regions: dict[tuple[int, int], Region], segment: PlannedSegment) -> Region:
    try:
        return regions[segment.start, segment.end]
    except KeyError:
        raise UnsupportedModelError(
            f"segment {segment.start}..{segment.end} of the plan cannot merge in this network"
        ) from None


def _rewrite_segment(
    captured: fx.GraphModule,
    region: Region,
    planned: PlannedSegment,
    now: dict[fx.Node, fx.Node],
) -> tuple[fx.Node, fx.Node]:
    """Rewrite one segment; return its entry and exit. `now` says what erased nodes became."""
    entry = now.get(region.entry, region.entry)
    if planned.is_original:
        return entry, region.exit
    layers = [node for node in region.nodes if operation(node).kind is Kind.LAYER]
    kept = {layers[index - region.start - 1] for index in planned.kept}
    now.update(_removals(entry, region.nodes, kept))
    for node in reversed(region.nodes):
        if node in now:
            node.replace_all_uses_with(now[node])
            captured.graph.erase_node(node)
    exit = now.get(region.exit, region.exit)
    _move_padding(captured, entry, region_between(entry, exit))
    return entry, exit


def _removals(
    entry: fx.Node, nodes: tuple[fx.Node, ...], kept: set[fx.Node]
) -> dict[fx.Node, fx.Node]:
    """What stands in for each node that goes.

    Activations go, and so do layers that are not kept, with their norms, and the terms of
    additions that lost all their layers: those lead back to the fork of the branches.
    """
    became: dict[fx.Node, fx.Node] = {}
    upstream: dict[fx.Node, set[fx.Node]] = {entry: {entry}}
    for node in nodes:
        sources = node.all_input_nodes
        upstream[node] = {node}.union(*(upstream[source] for source in sources))
        if operation(node).kind is Kind.SUM and len(sources) == 2:
            left = [
                term
                for term, other in (sources, sources[::-1])
                if not _is_emptied(upstream[term] - upstream[other], became)
            ]
            if len(left) < 2:
                survivor = (left or sources)[-1]
                became[node] = became.get(survivor, survivor)
        elif _is_removed(node, kept):
            became[node] = became.get(sources[0], sources[0])
    return became


def _is_removed(node: fx.Node, kept: set[fx.Node]) -> bool:
    kind = operation(node).kind
    if kind is Kind.NORM:
        source = node.all_input_nodes[0]
        return operation(source).kind is Kind.LAYER and source not in kept
    return kind is Kind.ACTIVATION or (kind is Kind.LAYER and node not in kept)


def _is_emptied(branch: set[fx.Node], became: dict[fx.Node, fx.Node]) -> bool:
    """Whether a branch, the nodes between a fork and an addition, lost all its layers."""
    return any(operation(node).kind is Kind.LAYER for node in branch) and all(
        node in became or operation(node).kind is Kind.IDENTITY for node in branch
    )


def _move_padding(captured: fx.GraphModule, entry: fx.Node, nodes: tuple[fx.Node, ...]) -> None:
    """Pad at the entry, convolve without padding, crop where a branch needs less."""
    needs = _halo_needs(captured, nodes)
    halo = {
        source: _largest(need for (_, used), need in needs.items() if used is source)
        for source in nodes[:-1]
    }
    for node in nodes:
        if operation(node).kind is Kind.LAYER:
            convolution(captured, node).padding = (0, 0)
    for (user, source), need in needs.items():
        border = need if source is entry else _minus(need, halo[source])
        if border != _NO_PADDING:
            with captured.graph.inserting_before(user):
                padded = captured.graph.call_function(F.pad, (source, border))
            user.replace_input_with(source, padded)


def _halo_needs(
    captured: fx.GraphModule, nodes: tuple[fx.Node, ...]
) -> dict[tuple[fx.Node, fx.Node], Padding]:
    """The halo that each node needs of each of its inputs."""
    needs: dict[tuple[fx.Node, fx.Node], Padding] = {}
    for node in reversed(nodes):
        halo = _largest(needs[user, node] for user in node.users if (user, node) in needs)
        if operation(node).kind is Kind.LAYER:
            conv = convolution(captured, node)
            halo = _through(halo, pair(conv.stride), conv_padding(conv))
        for source in node.all_input_nodes:
            needs[node, source] = halo
    return needs


def _through(halo: Padding, stride: Size, padding: Padding) -> Padding:
    left, right, top, bottom = halo
    height, width = stride
    return (
        left * width + padding[0],
        right * width + padding[1],
        top * height + padding[2],
        bottom * height + padding[3],
    )


def _largest(halos: Iterable[Padding]) -> Padding:
    left, right, top, bottom = (max(side) for side in zip(_NO_PADDING, *halos, strict=True))
    return (left, right, top, bottom)


def _minus(need: Padding, halo: Padding) -> Padding:
    left, right, top, bottom = (n - h for n, h in zip(need, halo, strict=True))
    return (left, right, top, bottom)
