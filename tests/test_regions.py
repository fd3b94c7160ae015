from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from layermerge.convolutions import conv_padding
from layermerge.dataflow import NONLINEAR, REMOVABLE, Kind
from layermerge.gates import parts_of
from layermerge.graph import capture
from layermerge.operations import classify
from layermerge.regions import find_regions, layer_nodes, region_between
from layermerge.slicing import narrow_slices
from layermerge.values import operation, side_of, sources_of
from networks import ZOO, images, zoo
from random_networks import networks

OUTSIDE = {Kind.BARRIER, Kind.PART}
NEEDS_LAYER_BEHIND = {
    Kind.ACTIVATION,
    Kind.GATE,
    Kind.STATISTIC_NORM,
    Kind.POOL,
    Kind.PAD,
}


def regions_by_definition(captured):
    """Try every exit for every pair of positions, and check the definition node by node."""
    found = {}
    for start, first in enumerate(layer_nodes(captured)):
        for entry in entries(first):
            found = regions_between(captured, start, entry) | found  # the nearest entry counts
    return found


def regions_between(captured, start, entry):
    layers = layer_nodes(captured)
    found = {}
    for exit in captured.graph.nodes:
        nodes = nodes_between(captured, entry, exit)
        held = [layers.index(node) + 1 for node in nodes if node in layers]
        if held != list(range(start + 1, start + 1 + len(held))) or not held:
            continue
        if is_region(entry, exit, nodes, layers) and (
            len(held) > 1 or is_bare(layers[start], nodes)
        ):
            found[start, start + len(held)] = (entry, nodes)  # a later exit: a larger region
    return found


def entries(layer):
    """The layer's input, and every value that leads there by nothing but affine operations."""
    entry = before_own_padding(layer)
    yield entry
    while operation(entry).kind not in OUTSIDE | NONLINEAR | {Kind.LAYER, Kind.SUM, Kind.CONCAT}:
        (entry,) = sources_of(entry)
        yield entry


def before_own_padding(layer):
    (source,) = sources_of(layer)
    while operation(source).kind is Kind.PAD and list(source.users) == [layer]:
        layer, (source,) = source, sources_of(source)
    return source


def nodes_between(captured, entry, exit):
    """Everything that `exit` is computed from, back to `entry`."""
    inside, stack = set(), [exit]
    while stack:
        node = stack.pop()
        if node is not entry and node not in inside:
            inside.add(node)
            stack.extend(sources_of(node))
    return tuple(node for node in captured.graph.nodes if node in inside)


def is_region(entry, exit, nodes, layers):
    inside = set(nodes)
    own = inside.union(*(parts_of(node) for node in nodes))
    return (
        all(operation(node).kind not in OUTSIDE for node in nodes)
        and all(set(node.users) <= own for node in nodes if node is not exit)
        and all(
            leads_to_layer(node, inside, layers)
            for node in nodes
            if operation(node).kind in NEEDS_LAYER_BEHIND
        )
        and all(len(strides(entry, node)) == 1 for node in nodes)
        and not any(depends_on(side_of(node), entry) for node in nodes if side_of(node))
    )


def is_bare(layer, nodes):
    """Whether there is only a layer with its norm, and the padding in front of it."""
    first = nodes.index(layer)
    behind = nodes[first + 1 :]
    return all(operation(node).kind is Kind.PAD for node in nodes[:first]) and (
        not behind
        or (
            len(behind) == 1
            and operation(behind[0]).kind is Kind.NORM
            and sources_of(behind[0]) == [layer]
        )
    )


def leads_to_layer(node, inside, layers):
    users = [user for user in node.users if user in inside]
    return any(user in layers or leads_to_layer(user, inside, layers) for user in users)


def strides(entry, node):
    """The products of the strides along all paths from the entry."""
    if node is entry:
        return {(1, 1)}
    own = operation(node).window.stride
    return {
        (height * own[0], width * own[1])
        for source in sources_of(node)
        for height, width in strides(entry, source)
    }


def depends_on(node, origin):
    return node is origin or any(depends_on(source, origin) for source in node.all_input_nodes)


def assert_regions_follow_the_definition(captured, remove=("activation",)):
    narrow_slices(captured)
    classify(captured, remove)
    found = {(r.start, r.end): (r.entry, r.nodes) for r in find_regions(captured)}
    assert found == regions_by_definition(captured)


@pytest.mark.parametrize("name", ZOO)
def test_regions_are_all_that_the_definition_allows(name):
    assert_regions_follow_the_definition(capture(zoo(name), images(1, 3, 16, 16)))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(networks(), st.sampled_from([("activation",), tuple(REMOVABLE)]))
def test_regions_of_random_networks_are_all_that_the_definition_allows(drawn, remove):
    assert_regions_follow_the_definition(capture(drawn.model, drawn.inputs), remove)


@pytest.mark.parametrize("name", ZOO)
def test_the_nodes_of_a_region_lie_between_its_ends(name):
    captured = capture(zoo(name), images(1, 3, 16, 16))
    classify(captured)
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
