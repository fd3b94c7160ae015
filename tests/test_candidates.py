from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from layermerge.dataflow import REMOVABLE
from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError
from layermerge.tracing import trace
from networks import ZOO, images, zoo
from paper_networks import resnet34
from random_networks import networks
from segment_oracle import best_subsets

ENTRIES = Path(__file__).parent / "data" / "resnet34.entries.csv"


@cache
def network_of(name):
    return trace(zoo(name), images(2, 3, 16, 16))


def assert_candidates_are_the_best_subsets(network):
    space = enumerate_candidates(network)
    norms = {layer.index: layer.weight_l1 for layer in network.layers}
    for segment in network.segments:
        found = {
            (candidate.kernel_size, candidate.signature.is_depthwise): sum(
                norms[layer] for layer in candidate.kept
            )
            for candidate in space.candidates
            if (candidate.start, candidate.end) == (segment.start, segment.end) and candidate.kept
        }
        exact = best_subsets(network, segment, by_layers=False)
        assert found.keys() <= exact.keys()
        assert all(norm <= exact[key] * (1 + 1e-12) for key, norm in found.items())
        for (size, is_depthwise), norm in best_subsets(network, segment, by_layers=True).items():
            rivals = [found.get((size, True), -1.0)]
            rivals += [] if is_depthwise else [found.get((size, False), -1.0)]
            assert max(rivals) >= norm * (1 - 1e-12)


@pytest.mark.parametrize("name", ZOO)
def test_candidates_of_each_segment_are_the_best_of_all_subsets(name):
    assert_candidates_are_the_best_subsets(network_of(name))


class Concatenated(nn.Module):
    """A depthwise layer beside another one: together they are not depthwise."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Conv2d(2, 2, 5, padding=2)
        self.depthwise = nn.Conv2d(2, 2, 5, padding=2, groups=2)

    def forward(self, x):
        return torch.cat([self.dense(x), self.depthwise(x)], 1)


def test_candidates_of_a_concatenation_are_the_best_of_all_subsets():
    assert_candidates_are_the_best_subsets(trace(Concatenated().eval(), images(2, 2, 18, 18)))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(networks(max_layers=7, centred=True))
def test_candidates_of_random_networks_are_the_best_of_all_subsets(drawn):
    network = trace(drawn.model, drawn.inputs, remove=tuple(REMOVABLE))
    assert_candidates_are_the_best_subsets(network)


def test_entries_of_resnet34_are_those_of_the_authors():
    """Narrow (4 channels for their 64), with the spatial sizes and the structure of the original.

    Their axis counts the convolutions of the main path after the stem; ours counts the stem and
    the shortcuts too. Their input sizes are exactly twice ours, for they leave out the max-pool.
    """
    network = trace(resnet34(width=4).eval(), torch.zeros(1, 3, 224, 224))
    main_path = [layer for layer in network.layers[1:] if "shortcut" not in layer.name]
    number = {layer.index: place for place, layer in enumerate(main_path, start=1)}
    found = []
    for candidate in enumerate_candidates(network, drop_branches=False).candidates:
        layers = range(candidate.start + 1, candidate.end + 1)
        if not all(layer in number for layer in layers):
            continue
        start, end = number[layers[0]] - 1, number[layers[-1]]
        if any(start < position < end for position in (0, 7, 15, 27)):
            continue
        signature = candidate.signature
        found.append(
            {
                "st": start,
                "end": end,
                "ker": signature.kernel_size[0],
                "str": signature.stride[0],
                "is_dw": signature.groups > 1,
                "in_ch": 16 * signature.in_channels,
                "out_ch": 16 * signature.out_channels,
                "in_hw": 2 * signature.input_size[0],
            }
        )
    with ENTRIES.open() as file:
        expected = list(csv.DictReader(file))
    assert len(found) == len(expected) == 150
    assert [{key: str(value) for key, value in row.items()} for row in found] == expected


def test_the_original_candidates_are_the_layers_themselves():
    network = network_of("basic")
    original = enumerate_candidates(network).original
    assert [candidate.kept for candidate in original] == [(n.index,) for n in network.layers]
    for layer, candidate in zip(network.layers, original, strict=True):
        signature = candidate.signature
        settings_of_layer = (layer.kernel_size, layer.stride, layer.padding, layer.groups)
        assert settings_of_layer == (
            signature.kernel_size,
            signature.stride,
            signature.padding,
            signature.groups,
        )
        assert signature.output_size == layer.output_size


@pytest.mark.parametrize("name", ZOO)
def test_output_sizes_and_flops_follow_from_the_signature(name):
    network = network_of(name)
    segments = {(segment.start, segment.end): segment for segment in network.segments}
    for candidate in enumerate_candidates(network).candidates:
        signature = candidate.signature
        assert signature.output_size == segments[candidate.start, candidate.end].output_size
        assert signature.is_identity == (not candidate.kept)
        if signature.is_identity:
            assert signature.flops == signature.num_weights == 0
            continue
        conv = nn.Conv2d(
            signature.in_channels,
            signature.out_channels,
            signature.kernel_size,
            groups=signature.groups,
        )
        height, width = signature.output_size
        assert signature.flops == 2 * conv.weight.numel() * height * width


def test_depth_keeps_every_convolution():
    space = enumerate_candidates(network_of("basic"), method="depth")
    assert len(space.candidates) > space.network.num_layers
    assert all(len(c.kept) == c.end - c.start for c in space.candidates)


def test_layer_only_merges_nothing():
    space = enumerate_candidates(network_of("basic"), method="layer_only")
    assert len(space.candidates) > space.network.num_layers
    assert {len(candidate.kept) for candidate in space.candidates} == {0, 1}


def test_dropped_segments_are_offered_where_the_input_may_stand_in_for_the_output():
    network = network_of("basic")
    dropped = [c for c in enumerate_candidates(network).candidates if not c.kept]
    # The whole identity block goes; a layer of its branch may not, for that would double the value.
    assert [(c.start, c.end) for c in dropped] == [(1, 3), (6, 8)]
    assert all(c.signature.is_identity and c.kernel_size == (0, 0) for c in dropped)
    # Without that, every sum keeps both of its branches.
    kept = enumerate_candidates(network, drop_branches=False).candidates
    assert all(c.kept for c in kept)
    assert {c.key for c in kept} < {c.key for c in enumerate_candidates(network).candidates}


def test_segments_and_flops_above_the_limits_are_left_out_and_counted():
    network = network_of("basic")
    everything = enumerate_candidates(network).candidates
    short = enumerate_candidates(network, max_segment=2).candidates
    assert [c.key for c in short] == [c.key for c in everything if c.end - c.start <= 2]

    def is_heavy(candidate):
        replaced = sum(layer.flops for layer in network.layers[candidate.start : candidate.end])
        return not candidate.is_original and candidate.signature.flops > 1.5 * replaced

    light = enumerate_candidates(network, max_flops_ratio=1.5)
    heavy = [c for c in everything if is_heavy(c)]
    assert {c.key for c in light.candidates} == {c.key for c in everything} - {c.key for c in heavy}
    assert light.skipped == {"more than 1.5 times the FLOPs": len(heavy)}
    assert heavy


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(networks(max_layers=7), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([20, 100, 2**25]))
def test_limits_leave_out_nothing_but_what_exceeds_them(drawn, ratio, weights):
    network = trace(drawn.model, drawn.inputs, remove=tuple(REMOVABLE))
    everything = enumerate_candidates(network).candidates

    def is_within(candidate):
        replaced = sum(layer.flops for layer in network.layers[candidate.start : candidate.end])
        signature = candidate.signature
        return candidate.is_original or (
            signature.flops <= ratio * replaced and signature.num_weights <= weights
        )

    limited = enumerate_candidates(network, max_flops_ratio=ratio, max_weights=weights)
    expected = [candidate for candidate in everything if is_within(candidate)]
    assert limited.candidates == tuple(expected)
    assert sum(limited.skipped.values()) >= len(everything) - len(expected)


def test_an_added_activation_is_that_which_was_removed_last():
    network = network_of("inverted")
    plain = {(c.start, c.end, c.kept): c for c in enumerate_candidates(network).candidates}
    for candidate in enumerate_candidates(network, boundary_activation=True).candidates:
        was = plain[candidate.start, candidate.end, candidate.kept]
        merges = candidate.end - candidate.start > 1 and candidate.kept
        wants_one = merges and was.signature.activation is None
        assert candidate.activation == ("relu6" if wants_one else None)
        assert candidate.signature.activation == (was.signature.activation or candidate.activation)
        assert ("+relu6" in candidate.key) == bool(wants_one)


def test_kernels_above_the_limit_are_left_out_except_those_of_original_layers():
    network = network_of("basic")
    limited = enumerate_candidates(network, max_kernel=3).candidates
    expected = [
        candidate
        for candidate in enumerate_candidates(network).candidates
        if max(candidate.kernel_size) <= 3 or candidate.is_original
    ]
    assert [c.key for c in limited] == [c.key for c in expected]
    assert any(c.kernel_size == (5, 5) and c.is_original for c in limited)


def test_frozen_layers_are_in_no_merge_and_breaks_are_not_crossed():
    network = network_of("basic")
    everything = {candidate.key for candidate in enumerate_candidates(network).candidates}
    frozen = enumerate_candidates(network, frozen=[2]).candidates
    assert all(c.is_original for c in frozen if c.start < 2 <= c.end)
    broken = enumerate_candidates(network, breaks=[2]).candidates
    assert not any(c.start < 2 < c.end for c in broken)
    assert {c.key for c in frozen} | {c.key for c in broken} < everything


def test_frozen_layers_may_be_named_alone_or_by_the_module_that_holds_them():
    network = network_of("basic")
    names = {layer.name: layer.index for layer in network.layers}
    of_module = [index for name, index in names.items() if name.startswith("3.")]
    assert len(of_module) > 1
    assert enumerate_candidates(network, frozen=["3"]) == enumerate_candidates(
        network, frozen=of_module
    )
    name, index = list(names.items())[-1]
    found = enumerate_candidates(network, frozen=[1, name])
    assert found == enumerate_candidates(network, frozen=[1, index])
    assert found != enumerate_candidates(network)


def test_equal_signatures_are_listed_once():
    space = enumerate_candidates(network_of("rep_vgg"))
    assert len(set(space.signatures)) == len(space.signatures) < len(space.candidates)
    assert {candidate.signature for candidate in space.candidates} == set(space.signatures)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_branches": "yes"}, "drop_branches must be True or False, got 'yes'"),
        ({"boundary_activation": 1}, "boundary_activation must be True or False, got 1"),
        ({"method": "magic"}, "method must be one of layermerge, depth, layer_only; got 'magic'"),
        ({"max_kernel": 0}, "max_kernel must be a whole number of at least 1, got 0"),
        ({"max_kernel": 2.5}, "max_kernel must be a whole number of at least 1, got 2.5"),
        ({"max_segment": 0}, "max_segment must be a whole number of at least 1, got 0"),
        ({"max_flops_ratio": 0}, "max_flops_ratio must be a number greater than 0, got 0"),
        ({"max_flops_ratio": float("nan")}, "max_flops_ratio must be .* got nan"),
        ({"max_flops_ratio": "2"}, "max_flops_ratio must be a number greater than 0, got '2'"),
        ({"frozen": [1.5]}, r"frozen names layer 1.5; layers are 1\.\.4"),
        ({"frozen": ["0.1"]}, r"'0\.1', which holds no layer of Sequential; did you mean .*0\.0"),
        ({"frozen": ["head"]}, "'head', which holds no layer .*; layermerge inspect lists"),
        ({"frozen": "3"}, "frozen must be a collection of layers, got '3'"),
        ({"breaks": [1.5]}, r"breaks names position 1.5; positions are 0\.\.4"),
        ({"frozen": 1}, "frozen must be a collection of layers, got 1"),
        ({"breaks": "12"}, "breaks must be a collection of positions, got '12'"),
        ({"frozen": [99]}, r"frozen names layer 99; layers are 1\.\.4"),
        ({"breaks": [-1]}, r"breaks names position -1; positions are 0\.\.4"),
    ],
)
def test_options_that_name_nothing_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        enumerate_candidates(network_of("plain"), **options)


def test_keys_are_distinct():
    keys = [candidate.key for candidate in enumerate_candidates(network_of("basic")).candidates]
    assert len(keys) == len(set(keys)) > 0
