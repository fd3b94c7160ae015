from __future__ import annotations

import contextlib
import operator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from layermerge.canonical import assigned
from layermerge.errors import UnsupportedModelError
from layermerge.graph import capture
from networks import images
from recorded import calls, captured_from, model_with, reasons, wrapped


@pytest.mark.parametrize(
    ("target", "bodies"),
    [
        (F.relu, [F.relu, torch.relu, lambda x: x.relu(), torch.relu_, lambda x: F.relu(x, True)]),
        (F.silu, [F.silu, lambda x: F.silu(x, inplace=True)]),
        (torch.sigmoid, [torch.sigmoid, F.sigmoid, lambda x: x.sigmoid(), lambda x: x.sigmoid_()]),
        (F.leaky_relu, [lambda x: F.leaky_relu(x, 0.2), lambda x: F.leaky_relu_(x, 0.2)]),
        (operator.add, [lambda x: x + x, lambda x: torch.add(x, x), lambda x: x.add(other=x)]),
        (operator.add, [lambda x: x + 1, lambda x: 1 + x, lambda x: x.add_(1)]),
        (operator.mul, [lambda x: x * 2, lambda x: 2 * x, lambda x: x.mul_(2), lambda x: x.mul(2)]),
        (operator.sub, [lambda x: 1 - x, lambda x: x - 1, lambda x: x.sub(1)]),
        (operator.truediv, [lambda x: x / 2, lambda x: 2 / (x.square() + 1), lambda x: x.div_(2)]),
        (torch.permute, [lambda x: x.permute(0, 2, 3, 1), lambda x: x.permute((0, 2, 3, 1))]),
        (torch.flatten, [lambda x: x.flatten(1), lambda x: torch.flatten(x, start_dim=1)]),
        (torch.softmax, [lambda x: F.softmax(x, 1), lambda x: x.softmax(dim=1)]),
        (F.pad, [lambda x: F.pad(x, (1, 0, 0, 2)), lambda x: F.pad(x, [1, 0, 0, 2], value=0)]),
    ],
)
def test_an_operation_has_one_spelling(target, bodies):
    for body in bodies:
        captured = captured_from(model_with(lambda m, x, body=body: body(x)))
        assert calls(captured)[-1] is target


@pytest.mark.parametrize(
    ("body", "target", "arguments"),
    [
        (lambda x: torch.cat([x, x], 1), torch.cat, (1,)),
        (lambda x: torch.concat([x, x], dim=1), torch.cat, (1,)),
        (lambda x: torch.concatenate((x, x)), torch.cat, (0,)),
        (lambda x: x.mean((2, 3), keepdim=True), torch.mean, ((2, 3), True)),
        (lambda x: torch.mean(x, dim=[2, 3], keepdim=True), torch.mean, ((2, 3), True)),
        (lambda x: x.mean(axis=1), torch.mean, (1, False)),
        (lambda x: F.pad(x, (1, 2)), F.pad, ((1, 2), "constant", None)),
        (lambda x: F.avg_pool2d(x, 2), F.avg_pool2d, (2, None, 0, False, True, None)),
        (lambda x: F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d, (1,)),
        (lambda x: x.transpose(1, 2), torch.transpose, (1, 2)),
    ],
)
def test_arguments_stand_in_one_order(body, target, arguments):
    captured = captured_from(model_with(lambda m, x: body(x)))
    (node,) = (node for node in captured.graph.nodes if node.target is target)
    assert node.args[1:] == arguments
    assert not node.kwargs


@pytest.mark.parametrize(
    ("body", "target", "parts"),
    [
        (lambda x: x.chunk(2, dim=1), torch.chunk, 2),
        (lambda x: torch.split(x, [1, 3], 1), torch.split, 2),
        (lambda x: x.split(2, 1), torch.split, 2),
        (lambda x: torch.unbind(x, 1), torch.unbind, 4),
        (lambda x: x.max(1), torch.max, 2),
    ],
)
def test_each_part_of_a_split_is_an_item_of_it(body, target, parts):
    captured = captured_from(model_with(lambda m, x: sum(part.float() for part in body(x))))
    (node,) = (node for node in captured.graph.nodes if node.target is target)
    assert [user.args for user in node.users] == [(node, index) for index in range(parts)]
    assert "shape" not in node.meta
    assert all(user.target is operator.getitem and user.meta["shape"] for user in node.users)


def test_casts_are_written_if_they_change_something():
    model = model_with(lambda m, x: x.double().type_as(x).float().to(x.device, torch.float64))
    captured = captured_from(model)
    casts = [(node.target, *node.args[1:]) for node in list(captured.graph.nodes)[2:-1]]
    assert casts == [("to", torch.float64), ("to", torch.float32), ("to", torch.float64)]


def twice_read(m, x):
    y = m.other(x)
    x += y
    return x * y


def a_view_and_its_twin(m, x):
    y = m.identity(x)
    x.relu_()
    return x + y


def by_index(m, x):
    x[:, 0] = 1
    x[:, 1:3] = x[:, :2].clone()
    return x


def on_an_item(m, x):
    x[:, 1:] += m.other(x)[:, 1:]
    x[:, :2].relu_()
    return x


def into_new_memory(m, x):
    y = torch.zeros(x.shape[0], 8, *x.shape[2:])
    y[:, 2:6] = x
    return y


@pytest.mark.parametrize(
    "body",
    [
        twice_read,
        a_view_and_its_twin,
        by_index,
        on_an_item,
        into_new_memory,
        lambda m, x: m.relu(x) + x,
        lambda m, x: torch.add(x, 1, out=torch.empty_like(x)) * x,
        lambda m, x: x.clamp_(min=0).mul_(x).copy_(2 * x).add_(1),
        lambda m, x: torch.cat([x.zero_(), m.other(x)]),
    ],
)
def test_what_works_in_place_becomes_a_twin_that_does_not(body):
    parts = {"other": nn.Conv2d(4, 4, 1), "relu": nn.ReLU(inplace=True), "identity": nn.Identity()}
    captured = captured_from(model_with(body, **parts))
    names = [getattr(target, "__name__", target) for target in calls(captured)]
    assert not any(name.endswith("_") for name in names)
    assert not any(getattr(module, "inplace", False) for module in captured.modules())


def test_writing_to_a_part_is_assigning():
    captured = captured_from(model_with(by_index))
    nodes = [node for node in captured.graph.nodes if node.target is assigned]
    assert [node.args[2] for node in nodes][:1] == [1]
    x = torch.arange(4.0)
    assert torch.equal(assigned(x, slice(0, 2), 7.0), torch.tensor([7.0, 7, 2, 3]))
    assert torch.equal(x, torch.arange(4.0))


def test_a_value_changed_behind_a_view_makes_its_module_opaque():
    def behind_a_view(m, x):
        y = 2 * x
        y.permute(0, 2, 3, 1).relu_()
        return y

    captured = captured_from(wrapped(behind_a_view))
    assert "a view of it is changed in place at test_canonical.py" in reasons(captured)["inner"]


def test_a_module_that_changes_its_input_and_returns_another_value_is_refused_with_its_parent():
    def clobber(m, x):
        bool(x.sum() > 0)
        x.zero_()
        return torch.ones_like(x) * x

    with pytest.raises(UnsupportedModelError, match=r"\. 0: 0\.inner changes its input"):
        capture(nn.Sequential(wrapped(clobber)).eval(), images(2, 3, 8, 8))


STEPS = {
    "relu_": lambda x, y: F.relu(x, inplace=True),
    "add": lambda x, y: x + y,
    "iadd": lambda x, y: x.add_(y),
    "mul_": lambda x, y: x.mul_(0.5),
    "swap": lambda x, y: y.clone() - x,
    "item": lambda x, y: x[:, 1:2].mul_(2) + x,
    "reshape": lambda x, y: x.reshape(x.shape[0], -1).reshape(x.shape),
    "split": lambda x, y: torch.cat(x.chunk(2, 1)[::-1], 1),
    "permute": lambda x, y: x.permute(0, 1, 3, 2),
    "scale": lambda x, y: x * torch.full((x.shape[0], 1, 1, 1), 0.5),
    "set": lambda x, y: x.clone().index_fill_(1, torch.tensor([0]), 1.0),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.booleans()), max_size=8))
def test_any_sequence_of_operations_is_recorded_as_it_runs(steps):
    def body(m, x):
        y = m.other(x)
        for name, on_first in steps:
            if on_first:
                x = STEPS[name](x, y)
            else:
                y = STEPS[name](y, x)
        return x, y, x + y

    # Changing memory behind a view may be refused, but is never recorded wrongly.
    with contextlib.suppress(UnsupportedModelError):
        captured_from(model_with(body, other=nn.Conv2d(4, 4, 1)), size=4)
