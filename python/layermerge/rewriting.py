"""Rewrite a model to a plan: a trainable network that merges exactly, parameter names kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import fx, nn

from layermerge.activations import activation_module
from layermerge.arithmetic import TO_CHANNELS_FIRST, TO_CHANNELS_LAST
from layermerge.dataflow import Kind, Node, Operation, Survivors, survivors
from layermerge.errors import InputError, UnsupportedModelError
from layermerge.halo import move_padding
from layermerge.model_checks import check_model
from layermerge.network import InputSpec, Network, Segment
from layermerge.plan import Plan, PlannedSegment
from layermerge.probing import noise
from layermerge.regions import region_between
from layermerge.tracing import trace_graph
from layermerge.unused import delete_unused
from layermerge.values import annotate, is_channels_last, operation, set_channels_last

META_KEY = "layermerge"


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
    is_merged: bool = False


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
    shortcut: keeping the emptied branch would double the value. Whether a plan that drops layers
    keeps every shape is checked by a run on the example.
    """
    check_model(model)
    if not isinstance(plan, Plan):
        raise InputError(
            f"plan must be a layermerge Plan, got {type(plan).__name__}: solve for one, or read "
            "one from a file with load_plan"
        )
    inputs = example_tensors(plan.inputs, _device(model))
    traced = trace_graph(model, inputs, plan.remove)
    _check_plan(plan, traced.network)
    captured = traced.captured
    writer = _Writer(captured, traced.network)
    places = [writer.rewrite(segment) for segment in plan.segments]
    captured.graph.eliminate_dead_code()
    delete_unused(captured)
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
        if isinstance(rewritten, fx.GraphModule):
            raise InputError(
                "this graph module carries no plan: rewrite(model, plan) makes one that does, and "
                "pickling, as in torch.save(network), loses it. Save plan and state_dict instead, "
                "and load them by rewrite(model, load_plan(path)).load_state_dict(...); a merged "
                "network by layermerge.save and load"
            )
        raise InputError(
            f"expected a network made by layermerge.rewrite, got {type(rewritten).__name__}: "
            "call rewrite(model, plan) first"
        )
    return found


def example_tensors(
    inputs: Iterable[InputSpec],
    device: torch.device,
    *,
    seed: int | None = None,
    is_positive: bool = False,
) -> dict[str, torch.Tensor]:
    """Make inputs of the given shapes: zeros, or random numbers from `seed`.

    Those are normal, and 0 where integers are wanted; or between 1/2 and 3/2, and 1, for networks
    that are not defined elsewhere, as those that begin with a logarithm.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return {
        spec.name: _example_tensor(spec, generator, is_positive=is_positive).to(device)
        for spec in inputs
    }


def _example_tensor(
    spec: InputSpec, generator: torch.Generator | None, *, is_positive: bool
) -> torch.Tensor:
    dtype = getattr(torch, spec.dtype)
    if generator is None or not dtype.is_floating_point:
        return torch.full(spec.shape, int(is_positive), dtype=dtype)
    return noise(spec.shape, generator, is_positive=is_positive).to(dtype)


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _check_plan(plan: Plan, network: Network) -> None:
    if network.fingerprint != plan.network_fingerprint:
        raise InputError(
            "the plan, or the profile it rests on, was made for another network: its fingerprint "
            f"is {plan.network_fingerprint}, that of {network.name} is {network.fingerprint}. Give "
            "the model that was traced, in the same configuration"
        )


class _Writer:
    """Rewrites segment after segment of one captured graph."""

    def __init__(self, captured: fx.GraphModule, network: Network) -> None:
        self.captured = captured
        self.network = network
        self.segments = {(segment.start, segment.end): segment for segment in network.segments}
        self.nodes = {node.name: node for node in captured.graph.nodes}
        """The node that computes each value now: a removed node's stand-in."""

    def rewrite(self, planned: PlannedSegment) -> tuple[fx.Node, fx.Node]:
        """Rewrite one segment; return its entry and exit."""
        segment = self._lookup(planned)
        entry = self.nodes[segment.entry]
        if planned.is_original:
            return entry, self.nodes[segment.exit]
        nodes = self.network.nodes_of(segment)
        left = survivors(nodes, segment.entry, planned.kept)
        self._check_survivors(segment, planned, left)
        norm = self._norm(planned)
        is_last = norm is not None and is_channels_last(norm)
        self._remove(nodes, left)
        exit = self.nodes[segment.exit]
        remaining = region_between(entry, exit) if exit is not entry else ()
        exit = move_padding(self.captured, entry, remaining)
        if exit is not entry:
            last = self._append(exit, planned, norm, norm_is_channels_last=is_last)
            self.nodes[segment.exit] = last
        return entry, exit

    def _lookup(self, planned: PlannedSegment) -> Segment:
        found = self.segments.get((planned.start, planned.end))
        if found is None:
            raise UnsupportedModelError(
                f"segment {planned.start}..{planned.end} of the plan cannot merge in this network"
            )
        return found

    def _check_survivors(self, segment: Segment, planned: PlannedSegment, left: Survivors) -> None:
        """Refuse a plan that takes away a layer which nothing can stand in for."""
        if not planned.kept and not segment.is_droppable:
            raise InputError(
                f"the plan drops segment {segment.start}..{segment.end} whole, but a later "
                "addition would then count its input twice: keep one of its layers"
            )
        by_name = {node.name: node for node in self.network.nodes_of(segment)}
        shapes = {name: (node.channels, node.size) for name, node in by_name.items()}
        shapes[segment.entry] = (segment.in_channels, segment.input_size)
        read = [(segment.exit, left.exit)]
        for node in left.nodes:
            read += zip(by_name[node.name].sources, node.sources, strict=False)
        if any(shapes[was] != shapes[now] for was, now in read):
            layer = next(
                layer
                for layer in self.network.layers_of(segment)
                if layer.is_irreducible and layer.index not in planned.kept
            )
            raise InputError(
                f"the plan drops layer {layer.index} ({layer.name!r}), which changes the channels "
                "or the size, so that the identity cannot replace it: keep it in its segment"
            )

    def _remove(self, nodes: tuple[Node, ...], left: Survivors) -> None:
        for node in reversed(nodes):
            if node.name in left.stand_ins:
                gone, stand_in = self.nodes[node.name], self.nodes[left.stand_ins[node.name]]
                gone.replace_all_uses_with(stand_in)
                self.nodes[node.name] = stand_in
        self.captured.graph.eliminate_dead_code()

    def _append(
        self,
        exit: fx.Node,
        planned: PlannedSegment,
        norm: fx.Node | None,
        *,
        norm_is_channels_last: bool,
    ) -> fx.Node:
        """Put the norm and the activation that the plan adds behind the exit; return the last."""
        last = exit
        if norm is not None:
            target = str(norm.target)
            turns = norm_is_channels_last and not is_channels_last(exit)
            if turns:
                last = self._permute_after(last, TO_CHANNELS_LAST)
            last = self._insert_after(last, target, operation(norm))
            if turns:
                last = self._permute_after(last, TO_CHANNELS_FIRST)
        if planned.activation:
            target = f"activation_after_{planned.end}"
            self.captured.add_submodule(target, activation_module(planned.activation).eval())
            last = self._insert_after(last, target, Operation(Kind.ACTIVATION, planned.activation))
        return last

    def _norm(self, planned: PlannedSegment) -> fx.Node | None:
        """The norm that a plan puts behind a segment."""
        if not planned.norm:
            return None
        found: fx.Node | None = self.nodes.get(planned.norm)
        if found is None or operation(found).kind is not Kind.STATISTIC_NORM:
            raise InputError(
                f"the plan puts {planned.norm!r} behind layers {planned.start + 1}..{planned.end}, "
                "which is no norm of this network that may be removed"
            )
        return found

    def _insert_after(self, node: fx.Node, target: str, found: Operation) -> fx.Node:
        with self.captured.graph.inserting_after(node):
            added = self.captured.graph.call_module(target, (node,))
        return _put_between(node, added, found)

    def _permute_after(self, node: fx.Node, order: tuple[int, ...]) -> fx.Node:
        with self.captured.graph.inserting_after(node):
            added = self.captured.graph.call_function(torch.permute, (node, order))
        set_channels_last(added, order == TO_CHANNELS_LAST)
        return _put_between(node, added, Operation(Kind.IDENTITY, "permute"))


def _put_between(node: fx.Node, added: fx.Node, found: Operation) -> fx.Node:
    """Let what used `node` use `added` instead, which is computed from it."""
    added.meta["shape"] = node.meta["shape"]
    node.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)
    annotate(added, found, [node])
    return added
