from __future__ import annotations

import copy
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from layermerge.graph import capture
from networks import images
from recorded import BatchNormAct, ConvSame, captured_from, model_with, wrapped

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Result:
    sample: torch.Tensor
    extra: torch.Tensor | None = None


@pytest.mark.parametrize(
    "pack",
    [
        lambda x: {"out": x, "aux": [x + 1, (x, None, 3)]},
        lambda x: OrderedDict(out=x, aux=2 * x),
        lambda x: Pair(x, -x),
        lambda x: [x],
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_results_have_the_same_form(pack, inside):
    def body(m, x):
        return m.inner(x) if inside else pack(x)

    model = model_with(body, inner=Packing(pack))
    captured = captured_from(model)
    x = images(2, 3, 8, 8)
    assert type(captured(x)) is type(model(x))


class Packing(nn.Module):
    def __init__(self, pack):
        super().__init__()
        self.pack = pack

    def forward(self, x):
        bool(x.sum() > 0)
        return self.pack(x)


@pytest.mark.parametrize("opaque", [False, True])
def test_a_dataclass_is_built_and_read(opaque):
    def inner(m, x):
        if opaque:
            bool(x.sum() > 0)
        return Result(2 * x)

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = wrapped(inner).inner

        def forward(self, x):
            return Result(self.body(x).sample + 1, x)

    model = Reader().eval()
    x = images(2, 3, 8, 8)
    found = capture(model, x)(x)
    assert isinstance(found, Result)
    torch.testing.assert_close((found.sample, found.extra), (2 * x + 1, x))


def standard():
    return model_with(
        lambda m, x: m.norm(m.other(x) + torch.ones(len(x), 1, 1, 1)),
        other=ConvSame(4, 4, 3),
        norm=BatchNormAct(4),
    )


def test_it_can_be_copied_saved_and_loaded():
    model, x = standard(), images(2, 3, 8, 8)
    captured = capture(model, x)
    other = copy.deepcopy(captured)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(captured(x), model(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


def test_it_runs_under_autocast_and_in_double_precision():
    model, x = standard(), images(2, 3, 8, 8)
    captured = capture(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(captured(x), model(x))
    expected = copy.deepcopy(model).double()(x.double())
    torch.testing.assert_close(
        capture(copy.deepcopy(model).double(), x.double())(x.double()), expected
    )


def test_it_can_be_traced_by_torch_compile():
    model, x = standard(), images(2, 3, 8, 8)
    compiled = torch.compile(capture(model, x), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


def test_capturing_what_was_captured_changes_nothing():
    model, x = standard(), images(2, 3, 8, 8)
    once = capture(model, x)
    twice = capture(once, x)
    assert [str(n.target) for n in once.graph.nodes] == [str(n.target) for n in twice.graph.nodes]
    assert torch.equal(twice(x), model(x))


def test_the_graph_can_be_trained_when_captured_in_inference_mode():
    with torch.inference_mode():
        captured = capture(standard(), images(2, 3, 8, 8))
    captured.train()(images(2, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in captured.parameters())
