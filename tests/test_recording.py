from __future__ import annotations

import copy
import operator
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layermerge.errors import UnsupportedModelError
from layermerge.graph import capture
from networks import images
from recorded import calls, captured_from, model_with, reasons, wrapped


def test_parameters_and_buffers_have_their_names():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.full((4, 1, 1), 0.3))
            self.register_buffer("shift", torch.tensor(2.0))

        def forward(self, x):
            return self.gamma * x + self.shift

    model = model_with(lambda m, x: m.scale(x), scale=Scale())
    captured = captured_from(model)
    assert [n.target for n in captured.graph.nodes if n.op == "get_attr"] == [
        "scale.gamma",
        "scale.shift",
    ]
    captured.load_state_dict(model.state_dict())
    captured.get_parameter("scale.gamma").data.zero_()
    assert torch.equal(captured(images(1, 3, 8, 8)), torch.full((1, 4, 8, 8), 2.0))


def test_constants_are_buffers_that_no_state_dict_holds():
    class Grid(nn.Module):
        def forward(self, x):
            return x * torch.linspace(0, 1, x.shape[-1]).square()

    model = model_with(lambda m, x: m.grid(x) + torch.ones(x.shape[0], 1, 1, 1), grid=Grid())
    captured = captured_from(model)
    buffers = dict(captured.named_buffers())
    assert {name: tuple(value.shape) for name, value in buffers.items()} == {
        "grid.constant_0": (8,),
        "constant_0": (1, 1, 1, 1),
    }
    assert captured.state_dict().keys() == model.state_dict().keys()
    assert copy.deepcopy(captured).state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: x.view(x.size(0), -1),
        lambda m, x: x.reshape(x.shape[0] * 2, 2, *x.shape[2:]).reshape(x.shape),
        lambda m, x: x.flatten(2).transpose(1, 2).reshape(-1, x.shape[1]).view(len(x), -1, 4),
        lambda m, x: torch.ones(x.shape[0], 1, 1, 1).expand(x.shape[0], 4, 1, 1) * x,
        lambda m, x: x + torch.arange(4.0).repeat(x.shape[0]).view(x.shape[0], 4, 1, 1),
        lambda m, x: x[: x.shape[0]].new_zeros(x.shape) + x,
        lambda m, x: x * x.shape[0],
        lambda m, x: torch.cat([torch.zeros_like(x[:, :1]), x], 1),
    ],
)
def test_sizes_that_grow_with_the_batch_are_computed(body):
    captured_from(model_with(body))


def test_shapes_are_those_of_the_example():
    model = model_with(lambda m, x: x.reshape(x.size(0) * 2, -1))
    shapes = [node.meta.get("shape") for node in capture(model, images(5, 3, 8, 8)).graph.nodes]
    assert shapes[-2:] == [(10, 128), None]
    assert shapes[0] == (5, 3, 8, 8)


def test_a_model_of_one_batch_size_is_captured_at_it():
    model = model_with(lambda m, x: x + torch.ones(6, 1, 1, 1))
    x = images(6, 3, 8, 8)
    torch.testing.assert_close(capture(model, x)(x), model(x))


def straight_through(x):
    class Sign(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.sign(x)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    return Sign.apply(x)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch.jit is deprecated, but still in use
    COMPILED = torch.jit.trace(torch.square, torch.ones(1), check_trace=False)


class Box:
    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda m, x: x if x.sum() > 0 else -x, r"bool\(\) reads a tensor at test_recording\.py"),
        (lambda m, x: x * x.max().item(), r"item\(\) reads a tensor"),
        (lambda m, x: torch.from_numpy(x.detach().numpy() * 2), r"numpy\(\) reads a tensor"),
        (lambda m, x: COMPILED(x), "differs in (the values of )?a tensor that it makes"),
        (lambda m, x: straight_through(x), r"torch\.autograd\.Function Sign"),
        (lambda m, x: sum(x) + x, "differs in which operations it runs"),
        (lambda m, x: x if x.shape[0] > 1 else -x, "differs in what it uses|which operations"),
        (
            lambda m, x: torch.ones(len(x), 1, 1, 1).cumsum(0) * x,
            "differs in the values of a tensor that it makes",
        ),
    ],
)
def test_a_module_that_cannot_be_recorded_stays_whole(body, reason):
    captured = captured_from(wrapped(lambda m, x: 2 * body(m, m.first(x)), first=nn.ReLU()))
    assert calls(captured) == ["inner", "last"]
    (found,) = reasons(captured).values()
    assert re.search(reason, found)


def test_a_module_that_returns_what_no_graph_holds_is_entered():
    captured = captured_from(model_with(lambda m, x: m.box(x).value, box=Boxing()))
    assert calls(captured) == [operator.mul]


class Boxing(nn.Module):
    def forward(self, x):
        return Box(2 * x)


def test_a_model_that_cannot_be_copied_is_refused():
    model = model_with(lambda m, x: x)
    model.generator = (number for number in range(3))
    with pytest.raises(UnsupportedModelError, match=r"Model cannot be copied \(.*generator"):
        capture(model, images(2, 3, 8, 8))


def test_a_compiled_submodule_stays_whole():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.jit.trace(nn.Conv2d(4, 4, 1).eval(), torch.zeros(1, 4, 8, 8))
    captured = captured_from(model_with(lambda m, x: m.part(x) + x, part=compiled))
    assert calls(captured) == ["part", operator.add]


def test_buffers_that_count_calls_are_left_as_they_were():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return x + self.calls

    model = model_with(lambda m, x: m.count(x), count=Counting())
    captured = capture(model, images(2, 3, 8, 8))
    assert (model.count.calls, captured.count.calls) == (0, 0)
    assert reasons(captured)["count"].startswith("count.calls is changed in place at test_rec")


def test_a_call_on_the_parameters_of_a_child_is_a_call_of_the_child():
    captured = captured_from(
        model_with(lambda m, x: F.conv2d(x, m.other.weight, m.other.bias), other=nn.Conv2d(4, 6, 1))
    )
    assert calls(captured) == ["other"]


def test_a_custom_derivative_survives():
    model = wrapped(lambda m, x: straight_through(x))
    captured = capture(model, images(2, 3, 8, 8))
    captured(images(2, 3, 8, 8)).sum().backward()
    assert captured.get_submodule("conv").weight.grad.abs().sum() > 0


def test_no_gradient_flows_where_the_model_lets_none():
    def body(m, x):
        with torch.no_grad():
            y = m.other(x)
        return y + x

    captured = captured_from(model_with(body, other=nn.Conv2d(4, 4, 1)))
    captured(images(2, 3, 8, 8)).sum().backward()
    assert captured.get_submodule("other").weight.grad is None
    assert captured.get_submodule("conv").weight.grad is not None


def test_a_random_number_that_is_not_used_does_no_harm():
    captured = captured_from(model_with(lambda m, x: x if torch.rand(()) is not None else -x))
    assert calls(captured) == []


def test_random_numbers_in_a_submodule_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"rand at test_recording\.py:\d+, in inner"):
        capture(wrapped(lambda m, x: x + torch.rand(4, 1, 1)), images(2, 3, 8, 8))


def test_a_failure_leaves_the_model_as_it_was():
    model = model_with(lambda m, x: x if x.sum() > 0 else -x)
    with pytest.raises(UnsupportedModelError):
        capture(model, images(2, 3, 8, 8))
    assert all("_call_impl" not in vars(module) for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
