from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layermerge.composition import (
    AffineMap,
    add,
    compose,
    from_batch_norm,
    from_convolution,
    identity,
    pad,
)
from networks import images, randomized

SIZE = (52, 54)
MARGIN = 48
SMALL = st.integers(1, 3)
PADS = st.integers(0, 4)


@st.composite
def maps(draw, inputs=None, outputs=None, stride=None):
    inputs = inputs or draw(st.sampled_from([2, 4, 6]))
    outputs = outputs or draw(st.sampled_from([2, 4, 6]))
    groups = draw(st.sampled_from([g for g in (1, 2, 4, 6) if inputs % g == outputs % g == 0]))
    taps = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    seed = draw(st.integers(0, 100))
    return AffineMap(
        images(outputs, inputs // groups, *taps, seed=seed, dtype=torch.float64),
        images(outputs, seed=seed + 1, dtype=torch.float64),
        stride or (draw(SMALL), draw(SMALL)),
        (draw(PADS), draw(PADS), draw(PADS), draw(PADS)),
        (draw(SMALL), draw(SMALL)),
        groups,
    )


def convolved(plane, term):
    """The map as torch computes it, the padding apart: output q = 0 is where P is counted from."""
    return F.conv2d(plane, term.kernel, term.bias, term.stride, 0, term.dilation, term.groups)


def on_canvas(plane, term, origin):
    """One map on a wide plane whose image begins at `origin`; where the output's image begins."""
    left, _, top, _ = term.padding
    rows = [(origin[0] - top) % term.stride[0], (origin[1] - left) % term.stride[1]]
    out = convolved(plane[:, :, rows[0] :, rows[1] :], term)
    begins = (
        (origin[0] - top) // term.stride[0],
        (origin[1] - left) // term.stride[1],
    )
    return out, begins


def output_size(size, term):
    left, right, top, bottom = term.padding
    sides = ((top, bottom), (left, right))
    return tuple(
        (
            size[axis]
            + sum(sides[axis])
            - term.dilation[axis] * (term.kernel.shape[2 + axis] - 1)
            - 1
        )
        // term.stride[axis]
        + 1
        for axis in (0, 1)
    )


def image(plane, begins, size):
    return plane[:, :, begins[0] : begins[0] + size[0], begins[1] : begins[1] + size[1]]


def directly(term, x):
    return convolved(F.pad(x, term.padding), term)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_composition_equals_its_terms_one_after_the_other_on_a_wide_canvas(data):
    first = data.draw(maps())
    second = data.draw(maps(inputs=first.out_channels))
    x = images(1, first.in_channels, *SIZE, dtype=torch.float64)
    plane, origin = F.pad(x, (MARGIN,) * 4), (MARGIN, MARGIN)
    plane, origin = on_canvas(plane, first, origin)
    plane, origin = on_canvas(plane, second, origin)
    merged = compose(first, second)
    actual = directly(merged, x)
    torch.testing.assert_close(actual, image(plane, origin, actual.shape[2:]), rtol=0, atol=1e-10)
    # The rightmost output of the composition is that of the unpadded convolutions in turn.
    halo = pad(first, second.padding)
    padded = output_size(SIZE, halo)
    inner = AffineMap(second.kernel, second.bias, second.stride, dilation=second.dilation)
    assert actual.shape[2:] == output_size(padded, inner)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_composition_sizes_follow_the_algebra(data):
    first = data.draw(maps())
    second = data.draw(maps(inputs=first.out_channels))
    merged = compose(first, second)
    for axis in (0, 1):
        assert merged.stride[axis] == first.stride[axis] * second.stride[axis]
        extent = first.dilation[axis] * (first.kernel.shape[2 + axis] - 1) + first.stride[axis] * (
            second.dilation[axis] * (second.kernel.shape[2 + axis] - 1)
        )
        assert merged.dilation[axis] * (merged.kernel.shape[2 + axis] - 1) == extent
    assert first.groups % merged.groups == second.groups % merged.groups == 0
    assert merged.in_channels == first.in_channels
    assert merged.out_channels == second.out_channels


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_sum_of_maps_is_the_sum_of_their_values(data):
    first = data.draw(maps())
    second = data.draw(maps(first.in_channels, first.out_channels, first.stride))
    x = images(1, first.in_channels, *SIZE, dtype=torch.float64)
    values = [directly(term, x) for term in (first, second)]
    height, width = (min(value.shape[axis] for value in values) for axis in (2, 3))
    expected = sum(value[:, :, :height, :width] for value in values)
    actual = directly(add(first, second), x)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@settings(max_examples=50, deadline=None)
@given(maps())
def test_the_identity_is_neutral(term):
    x = images(1, term.in_channels, *SIZE, dtype=torch.float64)
    for merged in (
        compose(identity(term.in_channels, torch.device("cpu")), term),
        compose(term, identity(term.out_channels, torch.device("cpu"))),
    ):
        torch.testing.assert_close(directly(merged, x), directly(term, x), rtol=0, atol=1e-12)
        assert merged.groups == term.groups


@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_is_the_map_that_torch_computes(affine):
    norm = nn.BatchNorm2d(4, eps=0.1, affine=affine).double().eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 2)
    x = images(2, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(directly(from_batch_norm(norm), x), norm(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2),
        nn.Conv2d(4, 4, 5, padding="same", groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding="valid"),
    ],
)
def test_a_convolution_is_the_map_that_torch_computes(conv):
    conv = randomized(conv).double()
    x = images(2, 4, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(directly(from_convolution(conv), x), conv(x), rtol=0, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-2, 3), min_size=4, max_size=4).map(tuple), maps())
def test_padding_after_a_map_uncovers_more_of_its_output(padding, term):
    x = images(1, term.in_channels, *SIZE, dtype=torch.float64)
    plane, begins = on_canvas(F.pad(x, (MARGIN,) * 4), term, (MARGIN, MARGIN))
    begins = (begins[0] - padding[2], begins[1] - padding[0])
    height, width = directly(term, x).shape[2:]
    size = (height + padding[2] + padding[3], width + padding[0] + padding[1])
    actual = directly(pad(term, padding), x)
    assert actual.shape[2:] == size
    torch.testing.assert_close(actual, image(plane, begins, size), rtol=0, atol=1e-10)


def test_depthwise_maps_compose_to_a_depthwise_map():
    depthwise = AffineMap(
        images(4, 1, 3, 3, dtype=torch.float64), torch.zeros(4).double(), groups=4
    )
    assert compose(depthwise, depthwise).kernel.shape == (4, 1, 5, 5)


def test_sums_of_maps_of_unequal_stride_are_refused():
    first = identity(2, torch.device("cpu"))
    second = AffineMap(first.kernel, first.bias, stride=(2, 2), groups=2)
    with pytest.raises(ValueError, match=r"strides differ: \(1, 1\) and \(2, 2\)"):
        add(first, second)
