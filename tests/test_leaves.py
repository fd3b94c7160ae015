from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layermerge.graph import capture
from networks import images
from recorded import BatchNormAct, ConvSame, calls, captured_from, model_with, reasons


class GroupNormAct(nn.GroupNorm):
    def forward(self, x):
        return F.silu(F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class OwnConvolution(nn.Module):
    """A convolution that is no subclass of torch's."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 2, 3, 1))
        self.bias = nn.Parameter(torch.randn(6))
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.gain * F.conv2d(x, self.weight, self.bias, 2, (1, 0), groups=2)


@pytest.mark.parametrize(
    ("module", "plain", "after"),
    [
        (BatchNormAct(4), nn.BatchNorm2d, ["part", "part.drop", "part.act"]),
        (ConvSame(4, 6, 3, stride=2, groups=2, bias=False), nn.Conv2d, [F.pad, "part"]),
        (GroupNormAct(2, 4), nn.GroupNorm, ["part", F.silu]),
        (LayerNorm2d(4), nn.LayerNorm, [torch.permute, "part", torch.permute]),
        (OwnConvolution(), nn.Conv2d, ["part.gain", "part", operator.mul]),
    ],
)
def test_a_module_that_calls_its_library_function_is_made_plain(module, plain, after):
    model = model_with(lambda m, x: m.part(x), part=module)
    captured = captured_from(model)
    assert sorted(map(str, calls(captured))) == sorted(map(str, after))
    part = captured.get_submodule("part")
    assert type(part) is plain
    assert captured.state_dict().keys() == model.state_dict().keys()
    for key in {"eps", "momentum", "num_groups", "kernel_size"} & vars(module).keys():
        assert getattr(part, key) == getattr(module, key)
    assert type(model.part) is type(module)


def test_a_plain_batch_norm_trains_as_the_original_does():
    model = model_with(lambda m, x: m.part(x), part=BatchNormAct(4))
    captured = capture(model, images(2, 3, 8, 8)).train()
    norm = captured.get_submodule("part")
    captured(images(2, 3, 8, 8))
    assert norm.num_batches_tracked == 1
    assert not torch.equal(norm.running_mean, model.part.running_mean)


class Standardised(nn.Conv2d):
    """Weight standardisation, with a gain of its own and a forward that pads."""

    def __init__(self, *size):
        super().__init__(*size)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1))

    def forward(self, x):
        weight = self.gain * (self.weight - self.weight.mean((1, 2, 3), keepdim=True))
        return F.conv2d(F.pad(x, (1, 1)), weight, self.bias)


def test_a_convolution_that_computes_its_weight_is_taken_with_the_weight_it_has():
    model = model_with(lambda m, x: m.part(x), part=Standardised(4, 4, 3))
    captured = capture(model, images(2, 3, 8, 8))
    assert calls(captured) == [F.pad, "part"]
    part, original = captured.get_submodule("part"), model.part
    expected = original.gain * (original.weight - original.weight.mean((1, 2, 3), keepdim=True))
    assert type(part) is nn.Conv2d
    assert torch.equal(part.weight, expected)
    assert part.weight.requires_grad
    assert not part.weight.grad_fn
    assert [name for name, _ in part.named_parameters()] == ["weight", "bias"]
    assert "gain" in dict(original.named_parameters())


class InputWeighted(nn.Conv2d):
    """Dynamic convolution."""

    def forward(self, x):
        return F.conv2d(x, self.weight * x.mean(), self.bias)


class WeightedTwice(nn.Conv2d):
    """The same module computes another weight at each call."""

    calls = 0

    def forward(self, x):
        for scale in (1, 2):
            x = F.conv2d(x, self.weight * scale, self.bias, padding=1)
        return x


@pytest.mark.parametrize(
    ("part", "reason"),
    [(InputWeighted, "the weight of part depends on the input"), (WeightedTwice, None)],
)
def test_weights_that_are_not_one_are_not_taken_for_a_convolution(part, reason):
    model = model_with(lambda m, x: m.part(x), part=part(4, 4, 3))
    x = images(2, 3, 8, 8)
    captured = capture(model, x)
    assert torch.equal(captured(x), model(x))
    assert reasons(captured) == ({"part": reason} if reason else {})


class Depth(nn.Module):
    """Stochastic depth."""

    def forward(self, x):
        return x * 0 if self.training else x


def test_stochastic_depth_and_dropout_survive_to_act_in_training():
    def body(m, x):
        shortcut = x
        x = m.depth(m.other(x))
        return F.dropout(shortcut, 1.0, m.training) + x

    model = model_with(body, depth=Depth(), other=nn.Conv2d(4, 4, 1))
    captured = captured_from(model)
    assert "depth" in calls(captured)
    x = images(2, 3, 8, 8)
    assert torch.equal(captured.train()(x), torch.zeros(2, 4, 8, 8))
    assert captured.eval()(x).abs().sum() > 0


def test_what_passes_a_value_through_does_not_take_its_place():
    captured = captured_from(model_with(lambda m, x: m.depth(x) + x, depth=Depth()))
    add = list(captured.graph.nodes)[-2]
    assert [source.target for source in add.all_input_nodes] == ["depth", "conv"]


def test_a_module_called_twice_is_called_twice():
    shared = nn.Conv2d(4, 4, 1)
    model = model_with(lambda m, x: m.two(m.relu(m.one(m.relu(x)))), one=shared, two=shared)
    model.relu = nn.ReLU(inplace=True)
    captured = captured_from(model)
    assert calls(captured) == ["relu", "one", "relu", "one"]


def test_tied_weights_stay_tied():
    model = model_with(lambda m, x: m.two(m.one(x)), one=nn.Conv2d(4, 4, 1), two=nn.Conv2d(4, 4, 1))
    model.two.weight = model.one.weight
    captured = captured_from(model)
    assert captured.get_submodule("one").weight is captured.get_submodule("two").weight


def test_modules_made_in_forward_are_recorded_as_what_they_do():
    captured = captured_from(model_with(lambda m, x: nn.ReLU()(nn.MaxPool2d(2)(x))))
    assert [target.__name__ for target in calls(captured)] == ["max_pool2d", "relu"]
