from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from layermerge.dataflow import REMOVABLE, Kind
from layermerge.enumeration import enumerate_candidates
from layermerge.merging import merge_unverified
from layermerge.plan import original_plan
from layermerge.rewriting import rewrite
from layermerge.tracing import trace, trace_graph
from layermerge.values import operation
from networks import relative_error
from random_networks import networks, plans
from wide_canvas import evaluate

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
FREE = {Kind.LAYER, Kind.IDENTITY, Kind.SLICE}
REMOVE = st.sampled_from([("activation",), tuple(REMOVABLE), ("activation", "norm"), ("gate",)])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_plan_rewrites_and_merges_to_what_its_candidates_promise(data):
    drawn = data.draw(networks())
    model, inputs = drawn.model, drawn.inputs
    remove = data.draw(REMOVE)
    traced = trace_graph(model, inputs, remove)
    network = traced.network
    options = {"boundary_activation": data.draw(st.booleans())}
    space = enumerate_candidates(network, **options)
    plan, chosen = data.draw(plans(space))
    targets = {node.name: str(node.target) for node in traced.captured.graph.nodes}
    norms = {
        segment.norm: model.get_submodule(targets[segment.norm])
        for segment in plan.segments
        if segment.norm
    }
    rewritten = rewrite(model, plan)
    merged = merge_unverified(rewritten)
    with torch.no_grad():
        expected = evaluate(model, plan, norms, *inputs)
        actual, after = rewritten(*inputs), merged(*inputs)
    assume(bool(expected.any()))  # a last ReLU may leave nothing to compare
    assert relative_error(actual, expected) <= 1e-10
    assert relative_error(after, actual) <= 1e-10
    assert_names_are_kept(model, network, plan, rewritten)
    assert_convolutions_are_as_promised(merged, network, chosen)
    assert_each_operation_is_paid_once(merged, traced, chosen)


def assert_names_are_kept(model, network, plan, rewritten):
    state, original = rewritten.state_dict(), model.state_dict()
    assert all(torch.equal(value, original[name]) for name, value in state.items())
    for layer in network.layers:
        assert (f"{layer.name}.weight" in state) == (layer.index in plan.convolutions)


def assert_convolutions_are_as_promised(merged, network, chosen):
    kept = [candidate for candidate in chosen if candidate.kept]
    names = [network.layers[candidate.kept[-1] - 1].name for candidate in kept]
    for candidate, name in zip(kept, names, strict=True):
        conv, signature = merged.get_submodule(name), candidate.signature
        assert isinstance(conv, nn.Conv2d)
        assert (conv.in_channels, conv.out_channels) == (
            signature.in_channels,
            signature.out_channels,
        )
        assert (conv.kernel_size, conv.stride) == (signature.kernel_size, signature.stride)
        assert (conv.groups, conv.dilation) == (signature.groups, signature.dilation)
    layers = {layer.name for layer in network.layers}
    found = [str(node.target) for node in merged.graph.nodes if str(node.target) in layers]
    assert sorted(found) == sorted(names)


def assert_each_operation_is_paid_once(merged, traced, chosen):
    """What the candidates and the fixed barriers count is what the merged graph holds."""
    original = {node.name: operation(node) for node in traced.captured.graph.nodes}
    paid = Counter(
        original[barrier.name].name
        for barrier in traced.network.barriers
        if not barrier.is_removable and original[barrier.name].kind not in FREE
    )
    for candidate in chosen:
        paid.update(["add"] * candidate.signature.is_sum)
        paid.update([candidate.signature.activation] * bool(candidate.signature.activation))
        paid.update(original[name].name for name in candidate.tail)
    held = Counter(operation(node).name for node in merged.graph.nodes if is_costly(node, original))
    assert +paid == +held


def is_costly(node, original):
    """Whether it is an operation that the traced network had, or a norm or activation added."""
    if "operation" not in node.meta or operation(node).kind in FREE:
        return False
    return operation(node).kind is not Kind.PAD or node.name in original


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), REMOVE)
def test_keeping_everything_gives_the_outputs_of_the_model(drawn, remove):
    plan = original_plan(trace(drawn.model, drawn.inputs, remove=remove))
    with torch.no_grad():
        expected = drawn.model(*drawn.inputs)
        rewritten = rewrite(drawn.model, plan)
        assert torch.equal(rewritten(*drawn.inputs), expected)
        merged = merge_unverified(rewritten)
        assert relative_error(merged(*drawn.inputs), expected) <= 1e-12
