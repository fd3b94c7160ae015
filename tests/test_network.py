from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from layermerge.network import Layer, describe_layer
from layermerge.tracing import trace
from layermerge.windows import Window
from networks import images, zoo

LAYER = Layer(
    index=1,
    name="body.conv",
    in_channels=4,
    out_channels=4,
    kernel_size=(3, 5),
    stride=(1, 1),
    padding=(2, 2, 1, 1),
    dilation=(2, 1),
    groups=1,
    input_size=(8, 8),
    output_size=(8, 8),
    norm=None,
    activation=None,
    weight_l1=1.0,
)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, False),
        ({"out_channels": 8}, True),
        ({"output_size": (8, 7)}, True),
        ({"stride": (1, 2)}, True),
        # Stride 2 on a single pixel changes no size, but is no identity on a larger image.
        ({"stride": (2, 2), "input_size": (1, 1), "output_size": (1, 1)}, True),
    ],
)
def test_layers_that_change_channels_or_size_are_irreducible(change, expected):
    assert replace(LAYER, **change).is_irreducible is expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"groups": 4}, True),
        ({"groups": 2}, False),
        ({"groups": 4, "out_channels": 8}, False),
        ({"groups": 1, "in_channels": 1, "out_channels": 1}, False),
    ],
)
def test_depthwise_layers_convolve_each_channel_on_its_own(change, expected):
    assert replace(LAYER, **change).is_depthwise is expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "1 body.conv: 4x8x8 -> 4x8x8, 3x5, no activation, removable"),
        ({"groups": 4, "activation": "relu6"}, "3x5, depthwise, relu6, removable"),
        ({"groups": 2}, "3x5, 2 groups"),
        ({"stride": (2, 1)}, "3x5, stride 2, no activation, irreducible"),
    ],
)
def test_layers_are_described_in_words(change, words):
    assert words in describe_layer(replace(LAYER, **change))


def traced(name="basic"):
    return trace(zoo(name), images(2, 3, 16, 16))


def test_segments_know_their_layers():
    network = traced()
    for segment in network.segments:
        layers = network.layers_of(segment)
        assert [layer.index for layer in layers] == list(segment.indices)
        assert [node.layer for node in network.nodes_of(segment) if node.layer] == list(
            segment.indices
        )
        assert segment.input_size == layers[0].input_size
        assert segment.output_size == layers[-1].output_size


def test_the_explanation_has_a_line_for_each_layer_and_each_blocked_position():
    network = traced()
    lines = network.explain().splitlines()
    reasons = [reason for reason in network.blocked if reason]
    assert len(lines) == 1 + network.num_layers + len(reasons)
    mergeable = sum(segment.end - segment.start > 1 for segment in network.segments)
    assert (
        lines[0]
        == f"Sequential: {network.num_layers} layers, {mergeable} segments of two or more layers"
    )
    assert "MaxPool2d" in reasons[0]


@pytest.mark.parametrize(
    "heads",
    [
        (nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1)),
        (nn.MaxPool2d(2), nn.MaxPool2d(2, ceil_mode=True)),
        (nn.Linear(8, 10), nn.Linear(8, 1000)),
    ],
)
def test_the_fingerprint_depends_on_what_does_not_merge(heads):
    """Else a study would answer for one network with the latency of the other."""
    found = set()
    for head in heads:
        parts = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)]
        network = trace(nn.Sequential(*parts, head).eval(), images(2, 3, 12, 12))
        found.add(network.fingerprint)
    assert len(found) == 2


class Whole(nn.Module):
    """Stays whole, and shows an address, which is another one in each process."""

    def __init__(self):
        super().__init__()
        self.scale = lambda x: x * 2

    def extra_repr(self):
        return f"scale={self.scale}"

    def forward(self, x):
        return self.scale(x) if x.sum() > 0 else x


def test_the_fingerprint_does_not_depend_on_addresses():
    models = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Whole()).eval() for _ in range(2)]
    first, second = (trace(model, images(2, 3, 12, 12)) for model in models)
    assert [barrier.kind for barrier in first.barriers][-1] == "Whole"
    assert repr(models[0][2]) != repr(models[1][2])
    assert first.fingerprint == second.fingerprint


def test_the_fingerprint_depends_on_structure_alone():
    network = traced()
    layer = network.layers[0]
    heavier = replace(network, layers=(replace(layer, weight_l1=99.0), *network.layers[1:]))
    renamed = replace(network, name="Other")
    assert heavier.fingerprint == renamed.fingerprint == network.fingerprint
    wider = replace(network, layers=(replace(layer, out_channels=99), *network.layers[1:]))
    fewer = replace(network, segments=network.segments[1:])
    pooled = replace(network.nodes[0].operation, window=Window((9, 9)))
    windowed = replace(
        network, nodes=(replace(network.nodes[0], operation=pooled), *network.nodes[1:])
    )
    assert len({each.fingerprint for each in (network, wider, fewer, windowed)}) == 4
