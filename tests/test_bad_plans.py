"""What cannot be removed, and plans that remove it, are refused in words."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import nn

from layermerge.errors import InputError, UnsupportedModelError
from layermerge.merging import merge_unverified
from layermerge.plan import Plan, PlannedSegment
from layermerge.rewriting import rewrite
from layermerge.tracing import trace
from networks import Block, ConvNorm, images, randomized, relative_error
from random_networks import networks

X = images(2, 4, 9, 11, dtype=torch.float64)


def rewritten(model, *segments):
    network = trace(model, X)
    planned = tuple(PlannedSegment(start, end, (1, 1), kept) for start, end, kept in segments)
    return rewrite(model, Plan(network.fingerprint, network.num_layers, network.inputs, planned))


@pytest.mark.parametrize("norm", ["nothing", "_1"])
def test_a_plan_that_adds_what_is_no_norm_is_refused(norm):
    model = randomized(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))).double()
    network = trace(model, X)
    segment = PlannedSegment(0, 2, (5, 5), (1, 2), norm=norm)
    plan = Plan(network.fingerprint, network.num_layers, network.inputs, (segment,))
    with pytest.raises(InputError, match=rf"puts '{norm}' behind layers 1\.\.2, which is no norm"):
        rewrite(model, plan)


def double(*parts):
    return randomized(nn.Sequential(*parts)).double()


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("foo", r"remove must name .* of activation, gate, norm; got 'foo'"),
        (["activation", "pool"], r"remove must name .* got 'pool'"),
        ([1], r"remove must name .* got 1"),
        (3, r"remove must name .* got 3"),
        (None, r"remove must name .* got None"),
    ],
)
def test_what_cannot_be_removed_is_refused(remove, message):
    with pytest.raises(InputError, match=message):
        trace(double(nn.Conv2d(4, 4, 3)), X, remove=remove)


def test_one_word_will_do():
    assert trace(double(nn.Conv2d(4, 4, 3)), X, remove="norm").remove == ("norm",)


def test_a_plan_that_drops_a_branch_of_a_later_sum_is_refused():
    model = double(Block(ConvNorm(4, 4, 3)), nn.Conv2d(4, 4, 1))
    with pytest.raises(InputError, match=r"drops segment 0\.\.1 whole.*twice: keep one of its"):
        rewritten(model, (0, 1, ()), (1, 2, (2,)))


@pytest.mark.parametrize(
    ("layer", "change"),
    [
        (nn.Conv2d(4, 6, 1), "changes the channels"),
        (nn.Conv2d(4, 4, 3), "or the size"),
        (nn.Conv2d(4, 4, 1, stride=2), "or the size"),
    ],
)
def test_a_plan_that_drops_an_irreducible_layer_is_refused(layer, change):
    model = double(nn.Conv2d(4, 4, 1), nn.ReLU(), layer)
    with pytest.raises(InputError, match=rf"drops layer 2 \('2'\).*{change}.*keep it"):
        rewritten(model, (0, 2, (1,)))
    with pytest.raises(InputError, match=rf"drops layer 2 \('2'\).*{change}.*keep it"):
        rewritten(model, (0, 1, (1,)), (1, 2, ()))


def test_layers_whose_changes_cancel_out_may_go_together():
    model = double(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 4, 1))
    assert relative_error(rewritten(model, (0, 3, (3,)))(X), model[3](X)) <= 1e-12


def test_a_segment_that_is_none_is_refused():
    model = double(nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(3, 1, 1), nn.Conv2d(4, 4, 3))
    with pytest.raises(UnsupportedModelError, match=r"segment 0\.\.2 of the plan cannot merge"):
        rewritten(model, (0, 2, (1, 2)))


class SharedPadding(nn.Module):
    """Two convolutions that read the same padded value."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        padded = F.pad(self.last(x), (0, 2, 1, 1))
        return self.first(padded) + self.second(padded)


def test_padding_stays_for_the_branch_that_is_kept():
    model = randomized(SharedPadding()).double()
    network = trace(model, X)
    for kept, other in ((2, model.first), (3, model.second)):
        assert network.layers[kept - 1].name in ("first", "second")
        wide = F.conv2d(F.pad(X, (0, 2, 1, 1)), model.last.weight, model.last.bias)
        expected = F.conv2d(wide, other.weight, other.bias)
        student = rewritten(model, (0, 3, (1, kept)))
        assert relative_error(student(X), expected) <= 1e-12


class Ratio(nn.Module):
    """A constant divided by a value, which no scale computes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.gamma = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        return self.last(self.gamma / self.first(x))


def test_a_value_in_the_denominator_is_a_barrier():
    network = trace(randomized(Ratio()).double(), X)
    assert [(s.start, s.end) for s in network.segments] == [(0, 1), (1, 2)]
    assert any("truediv" in barrier.kind for barrier in network.barriers)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(st.data())
def test_any_kept_layers_rewrite_and_merge_exactly_or_are_refused_in_words(data):
    drawn = data.draw(networks())
    network = trace(drawn.model, drawn.inputs)
    segments, position = [], 0
    while position < network.num_layers:
        ends = [segment.end for segment in network.segments if segment.start == position]
        end = data.draw(st.sampled_from(ends))
        kept = tuple(sorted(data.draw(st.sets(st.integers(position + 1, end)))))
        segments.append(PlannedSegment(position, end, (1, 1), kept))
        position = end
    plan = Plan(network.fingerprint, network.num_layers, network.inputs, tuple(segments))
    try:
        student = rewrite(drawn.model, plan)
    except InputError as error:
        event("refused")
        assert "keep" in str(error)  # noqa: PT017
        return
    with torch.no_grad():
        expected, actual = student(*drawn.inputs), merge_unverified(student)(*drawn.inputs)
    assert expected.shape == drawn.model(*drawn.inputs).shape
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
