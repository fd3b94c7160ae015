from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from torch import nn

from layermerge.dataflow import Kind
from layermerge.graph import capture
from layermerge.regions import (
    conv_padding,
    convolution,
    find_regions,
    layer_nodes,
    region_between,
)
from layermerge.values import operation
from networks import ZOO, images, zoo
from random_networks import networks

INSIDE = {Kind.LAYER, Kind.NORM, Kind.ACTIVATION, Kind.SUM, Kind.IDENTITY}


def regions_by_definition(captured):
    """Try every exit for every pair of positions, and check the definition node by node."""
    layers = layer_nodes(captured)
    found = {}
    for start, first in enumerate(layers):
        (entry,) = first.all_input_nodes
        for exit in captured.graph.nodes:
            nodes = nodes_between(captured, entry, exit)
            held = [layers.index(node) + 1 for node in nodes if node in layers]
            if held != list(range(start + 1, start + 1 + len(held))) or not held:
                continue
            if is_region(captured, entry, exit, nodes):
                found[start, start + len(held)] = (entry, nodes)  # a later exit: a larger region
    return found


def nodes_between(captured, entry, exit):
    """Everything that `exit` is computed from, back to `entry`."""
    inside, stack = set(), [exit]
    while stack:
        node = stack.pop()
        if node is not entry and node not in inside:
            inside.add(node)
            stack.extend(node.all_input_nodes)
    return tuple(node for node in captured.graph.nodes if node in inside)


def is_region(captured, entry, exit, nodes):
    inside = set(nodes)
    return (
        all(operation(node).kind in INSIDE for node in nodes)
        and all(set(node.users) <= inside for node in nodes if node is not exit)
        and all(
            leads_to_layer(node, inside)
            for node in nodes
            if operation(node).kind is Kind.ACTIVATION
        )
        and not any(joins_growth(captured, entry, node) for node in nodes)
    )


def leads_to_layer(node, inside):
    users = [user for user in node.users if user in inside]
    return any(operation(user).kind is Kind.LAYER or leads_to_layer(user, inside) for user in users)


def joins_growth(captured, entry, node):
    """Whether two branches of an addition hold convolutions larger than 1x1 of their own."""
    if len(node.all_input_nodes) < 2:
        return False
    first, second = (
        {
            inner
            for inner in nodes_between(captured, entry, term)
            if inner in layer_nodes(captured) and max(convolution(captured, inner).kernel_size) > 1
        }
        for term in node.all_input_nodes
    )
    return bool(first - second) and bool(second - first)


def assert_regions_follow_the_definition(captured):
    found = {(r.start, r.end): (r.entry, r.nodes) for r in find_regions(captured)}
    assert found == regions_by_definition(captured)


@pytest.mark.parametrize("name", ZOO)
def test_regions_are_all_that_the_definition_allows(name):
    assert_regions_follow_the_definition(capture(zoo(name), images(1, 3, 16, 16)))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(networks())
def test_regions_of_random_networks_are_all_that_the_definition_allows(drawn):
    model, shape = drawn
    assert_regions_follow_the_definition(capture(model, images(*shape)))


@pytest.mark.parametrize("name", ZOO)
def test_the_nodes_of_a_region_lie_between_its_ends(name):
    captured = capture(zoo(name), images(1, 3, 16, 16))
    regions = list(find_regions(captured))
    assert [(r.start, r.end) for r in regions] == sorted({(r.start, r.end) for r in regions})
    for region in regions:
        assert region_between(region.entry, region.exit) == region.nodes


@pytest.mark.parametrize(
    ("settings_of_conv", "expected"),
    [
        ({"kernel_size": 3, "padding": (1, 2)}, (2, 2, 1, 1)),
        ({"kernel_size": 3, "padding": "valid"}, (0, 0, 0, 0)),
        ({"kernel_size": (3, 4), "padding": "same"}, (1, 2, 1, 1)),
        ({"kernel_size": 3, "padding": "same", "dilation": (1, 3)}, (3, 3, 1, 1)),
    ],
)
def test_padding_is_left_right_top_bottom(settings_of_conv, expected):
    assert conv_padding(nn.Conv2d(1, 1, **settings_of_conv)) == expected
