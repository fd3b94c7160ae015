from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from layermerge.dataflow import Kind
from layermerge.errors import InputError, NoLayersError, UnsupportedModelError
from layermerge.graph import capture
from layermerge.merging import merge
from layermerge.operations import classify
from layermerge.plan import original_plan
from layermerge.rewriting import rewrite
from layermerge.tracing import trace
from layermerge.values import operation
from networks import ConvNorm, images

X = images(2, 4, 9, 9)


def chain():
    return nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3)).eval()


EXPORTED = r"program of torch\.export \(.*give the torch\.nn\.Module that was exported"
WRAPPED = {
    "script": (lambda: torch.jit.script(chain()), "TorchScript.*made of"),
    "parallel": (lambda: nn.DataParallel(chain()), "DataParallel.*model.module"),
    "compiled": (lambda: torch.compile(chain()), "before compiling"),
    "exported": (lambda: torch.export.export(chain(), (X,)), EXPORTED),
    "exported module": (lambda: torch.export.export(chain(), (X,)).module(), EXPORTED),
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


def hooked(hook):
    model = chain()
    hook(model[2])
    model(X)  # leaves a weight that gradients flow through
    return model


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm")
@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (nn.utils.weight_norm, r"'2' .* hook WeightNorm: torch\.nn\.utils\.remove_weight_norm"),
        (nn.utils.spectral_norm, r"hook SpectralNorm: torch\.nn\.utils\.remove_spectral_norm"),
        (
            lambda conv: prune.l1_unstructured(conv, "bias", 0.5),
            r"hook L1Unstructured: torch\.nn\.utils\.prune\.remove\(module, 'bias'\)",
        ),
    ],
)
def test_a_hook_that_computes_a_weight_is_named_with_the_way_to_remove_it(hook, message):
    with pytest.raises(UnsupportedModelError, match=message):
        trace(hooked(hook), X)


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm")
def test_without_its_hook_the_model_is_traced():
    model = hooked(nn.utils.weight_norm)
    nn.utils.remove_weight_norm(model[2])
    assert trace(model, X).num_layers == 2


def test_a_hook_that_can_be_copied_makes_a_barrier_that_tells_how_to_remove_it():
    model = chain()
    nn.utils.spectral_norm(model[2])
    (barrier,) = (b for b in trace(model, X).barriers if b.name == "_2")
    assert "remove_spectral_norm(module)" in barrier.reason


def scripted():
    return torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)).eval())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_torch_script_module_is_a_barrier_and_keeps_its_weights():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), scripted(), *chain()).eval()
    network = trace(model, X)
    reason = "1 is a TorchScript module, which shows none of its convolutions"
    assert [b.reason for b in network.barriers if b.name == "_1"] == [reason]
    merged = merge(rewrite(model, original_plan(network)))
    torch.testing.assert_close(merged(X), model(X))
    with pytest.raises(NoLayersError, match=reason.replace("1", "0", 1)):
        trace(nn.Sequential(scripted()).eval(), X)
