from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from layermerge.dataflow import Kind
from layermerge.errors import InputError
from layermerge.graph import capture
from layermerge.operations import classify
from layermerge.tracing import trace
from layermerge.values import operation
from networks import ConvNorm, images

X = images(2, 4, 9, 9)


def chain():
    return nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3)).eval()


WRAPPED = {
    "script": (lambda: torch.jit.script(chain()), "TorchScript.*made of"),
    "parallel": (lambda: nn.DataParallel(chain()), "DataParallel.*model.module"),
    "compiled": (lambda: torch.compile(chain()), "before compiling"),
    "lazy": (lazy, "'0.weight'.*not initialised.*run the model once"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script", "ignore:Lazy modules")
@pytest.mark.parametrize("name", WRAPPED)
def test_what_is_no_plain_model_yet_is_refused(name):
    make, message = WRAPPED[name]
    with pytest.raises(InputError, match=message):
        trace(make(), X)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(value):
    model = chain()
    with torch.no_grad():
        model[2].weight[0, 0] = value
    with pytest.raises(InputError, match=r"'2\.weight'.*NaN or infinite"):
        trace(model, X)


def double(module, inputs, output):
    return 2 * output


def halve(module, inputs):
    return (inputs[0] / 2,)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("hook", [double, halve])
def test_a_module_with_a_hook_is_a_barrier(place, hook):
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), chain()).eval()
    if hook is double:
        model[place].register_forward_hook(hook)
    else:
        model[place].register_forward_pre_hook(hook)
    captured = capture(model, X)
    classify(captured)
    found = next(operation(n) for n in captured.graph.nodes if n.target == str(place))
    assert found.kind is Kind.BARRIER
    assert f"{place} has the forward hook {hook.__name__}" in found.reason


def test_a_hook_stops_only_its_own_module():
    model = nn.Sequential(ConvNorm(4, 4, 3), chain()).eval()
    without = trace(model, X).num_layers
    model[1][0].register_forward_hook(double)
    assert trace(model, X).num_layers == without - 1
