from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from layermerge.errors import InputError, UnsupportedModelError
from layermerge.tracing import trace
from networks import ZOO, Block, ConvNorm, RepVgg, images, randomized, zoo
from random_networks import networks

X = images(2, 4, 9, 9)


def network_of(*parts, x=X):
    return trace(nn.Sequential(*parts).eval(), x)


def conv(**settings):
    return nn.Conv2d(4, 4, 3, **{"padding": 1, **settings})


def spans(network):
    return [(segment.start, segment.end) for segment in network.segments]


def test_layers_are_described_in_execution_order():
    network = trace(zoo("basic"), images(2, 3, 16, 16))
    assert [layer.index for layer in network.layers] == list(range(1, network.num_layers + 1))
    stem, second = network.layers[0], network.layers[1]
    assert (stem.name, stem.kernel_size, stem.stride, stem.padding) == (
        "0.0",
        (5, 5),
        (2, 2),
        (2, 2, 2, 2),
    )
    assert (stem.input_size, stem.output_size) == ((16, 16), (8, 8))
    assert (stem.norm, stem.activation, stem.is_irreducible) == ("batch_norm", "relu", True)
    assert (second.name, second.input_size, second.is_irreducible) == (
        "2.branch.0.0",
        (4, 4),
        False,
    )
    weight = zoo("basic").get_submodule("2.branch.0.0").weight
    assert second.weight_l1 == pytest.approx(float(weight.detach().abs().sum()), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", [(i, j) for i in range(4) for j in range(i + 1, 5)]),
        # A residual block counts as a whole or not at all: conv, (expand, depthwise, project) x 2.
        (
            "inverted",
            [
                (0, 1),
                (0, 4),
                (0, 7),
                (1, 2),
                (1, 3),
                (1, 4),
                (1, 7),
                (2, 3),
                (2, 4),
                (3, 4),
                (4, 5),
                (4, 6),
                (4, 7),
                (5, 6),
                (5, 7),
                (6, 7),
            ],
        ),
        # A pre-activated block forks in front of its norm: it needs what comes before, or starts
        # behind its activation and leaves the sum out.
        (
            "pre_activation",
            [(0, 1), (0, 3), (0, 5), (1, 2), (1, 3), (2, 3), (3, 4), (3, 5), (4, 5)],
        ),
        # Parallel branches of which one enlarges the kernel merge with each other.
        (
            "rep_vgg",
            [
                (0, 1),
                (0, 3),
                (0, 5),
                (0, 6),
                (1, 2),
                (1, 3),
                (1, 5),
                (1, 6),
                (2, 3),
                (3, 4),
                (3, 5),
                (3, 6),
                (4, 5),
                (5, 6),
            ],
        ),
    ],
)
def test_segments_are_the_single_entry_single_exit_regions(name, expected):
    assert spans(trace(zoo(name), images(2, 3, 16, 16))) == expected


def test_functional_forms_offer_what_modules_offer():
    modules = network_of(
        Block(nn.Sequential(conv(), nn.ReLU(), conv())),
        Block(nn.Sequential(conv(), nn.ReLU(), conv())),
    )
    functional = trace(zoo("functional"), images(2, 3, 16, 16))
    blocks = [(start, end) for start, end in spans(functional) if start >= 1 and end <= 5]
    assert [(start - 1, end - 1) for start, end in blocks] == spans(modules)


def test_a_block_ends_with_its_sum_and_activation():
    network = network_of(Block(nn.Sequential(ConvNorm(4, 4, 3), ConvNorm(4, 4, 3))), conv())
    by_span = {(segment.start, segment.end): segment for segment in network.segments}
    assert (by_span[1, 2].is_sum, by_span[1, 2].activation) == (True, "relu")
    assert (by_span[0, 2].is_sum, by_span[0, 2].activation) == (False, "relu")
    assert (by_span[0, 1].is_sum, by_span[0, 1].activation) == (False, None)
    assert (by_span[0, 2].is_droppable, by_span[1, 2].is_droppable) == (True, False)


@pytest.mark.parametrize("name", ZOO)
def test_every_inner_position_is_crossed_or_explained(name):
    assert_positions_are_explained(trace(zoo(name), images(2, 3, 16, 16)))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(networks())
def test_every_inner_position_of_random_networks_is_crossed_or_explained(drawn):
    assert_positions_are_explained(trace(drawn.model, drawn.inputs))


def assert_positions_are_explained(network):
    assert len(network.blocked) == network.num_layers - 1
    for position, reason in enumerate(network.blocked, start=1):
        is_crossed = any(start < position < end for start, end in spans(network))
        assert bool(reason) != is_crossed


class Shared(nn.Module):
    """One convolution called twice between two others."""

    def __init__(self):
        super().__init__()
        self.first, self.shared, self.last = conv(), conv(), conv()

    def forward(self, x):
        return self.last(self.shared(self.shared(self.first(x))))


class InputWeighted(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, x.mean() * self.weight, self.bias)


class DoublingNorm(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        (nn.MaxPool2d(3, 1, 1), "MaxPool2d cannot be part of a convolution"),
        (conv(padding_mode="reflect"), "padding_mode=reflect at 1"),
        (InputWeighted(4, 4, 3, padding=1), "the weight of 1 depends on the input"),
        (nn.BatchNorm2d(4, track_running_stats=False), "no running statistics"),
        (nn.GroupNorm(2, 4), "GroupNorm at _1 stays (remove='norm' lets it go)"),
        (nn.ConvTranspose2d(4, 4, 3, padding=1), "transposed convolution at 1"),
        (nn.ZeroPad2d(-1), "cropping"),
        (nn.AvgPool2d(3, 1, 1, divisor_override=2), "average pooling with a divisor of its own"),
    ],
)
def test_barriers_are_given_with_their_reason(middle, reason):
    network = network_of(conv(), middle, conv())
    assert spans(network) == [(0, 1), (1, 2)]
    (barrier,) = network.barriers
    assert barrier.position == 1
    assert reason in barrier.reason
    assert f"no segment crosses position 1: {barrier.reason}" in network.explain()


def test_a_convolution_that_is_called_twice_is_a_barrier():
    network = trace(Shared().eval(), X)
    assert [layer.name for layer in network.layers] == ["first", "last"]
    assert "convolution shared is called 2 times" in network.explain()


def test_a_subclass_with_the_forward_of_conv2d_is_a_layer():
    class Plain(nn.Conv2d):
        pass

    network = network_of(conv(), Plain(4, 4, 3, padding=1), conv())
    assert (0, 3) in spans(network)


def test_a_norm_with_more_arithmetic_is_no_barrier():
    assert spans(network_of(conv(), DoublingNorm(4), conv())) == [(0, 1), (0, 2), (1, 2)]


def test_branches_that_both_enlarge_the_kernel_merge():
    network = network_of(Block(conv(), nn.Conv2d(4, 4, 3, padding=1)), RepVgg(4))
    assert {(0, 2), (0, 4), (2, 4)} <= set(spans(network))


def test_a_model_without_convolutions_is_refused():
    with pytest.raises(UnsupportedModelError, match="Sequential has no 2-D convolution"):
        network_of(nn.ReLU())
    with pytest.raises(UnsupportedModelError, match="padding_mode=reflect at 0"):
        network_of(conv(padding_mode="reflect"))


def test_the_same_model_has_the_same_fingerprint_and_another_has_not():
    first, second = network_of(conv(), conv()), network_of(conv(), conv())
    assert first.fingerprint == second.fingerprint
    assert first.layers[0].weight_l1 != second.layers[0].weight_l1
    for other in (network_of(conv(), nn.ReLU(), conv()), network_of(conv(), conv(), x=X[:1])):
        assert other.fingerprint != first.fingerprint


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(InputError, match=r"batch norm '1' .*training mode.*call model\.eval\(\)"):
        trace(nn.Sequential(conv(), nn.BatchNorm2d(4)), torch.zeros(1, 4, 9, 9))


@pytest.mark.parametrize(
    ("other", "x"),
    [
        pytest.param(nn.Conv1d(4, 4, 3), torch.zeros(2, 4, 9), id="Conv1d"),
        pytest.param(nn.Conv3d(4, 4, 3), torch.zeros(2, 4, 9, 9, 9), id="Conv3d"),
    ],
)
def test_convolutions_that_are_not_2d_are_named(other, x):
    name = type(other).__name__
    with pytest.raises(UnsupportedModelError, match=f"no 2-D convolution.*{name} is not 2-D"):
        network_of(other, x=x)


class Penalised(nn.Module):
    """Returns what its first weight adds to the loss, too."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x))), self.first.weight.square().sum()


def test_a_convolution_whose_weight_is_used_elsewhere_is_a_barrier():
    network = trace(randomized(Penalised()), images(1, 3, 9, 9))
    assert [layer.name for layer in network.layers] == ["last"]
    assert "a weight of first is used elsewhere, too" in [b.reason for b in network.barriers]
