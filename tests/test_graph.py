from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layermerge.activations import activation_module
from layermerge.dataflow import Kind
from layermerge.errors import InputError, UnsupportedModelError
from layermerge.graph import bind_inputs, capture, graph_arguments
from layermerge.operations import classify
from layermerge.values import operation
from networks import ZOO, ConvNorm, images, randomized, zoo

X = images(2, 4, 9, 9)


class Model(nn.Module):
    """A convolution around what the test gives, a function of (model, value)."""

    def __init__(self, body):
        super().__init__()
        self.conv, self.other = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.body = body

    def forward(self, x):
        return self.body(self, self.conv(x))


def model_of(body):
    return Model(body).eval()


def assert_same(captured, model):
    """The captured model computes what the model does, at several batch sizes."""
    for batch in (1, 2, 5):
        x = images(batch, 4, 9, 9, seed=batch)
        torch.testing.assert_close(captured(x.clone()), model(x.clone()))


def kinds(model, x=X):
    captured = capture(model, x)
    classify(captured)
    return [
        (operation(node).kind, operation(node).name)
        for node in captured.graph.nodes
        if node.op.startswith("call_")
    ][1:]


@pytest.mark.parametrize("name", ZOO)
def test_a_capture_computes_what_the_model_computes(name):
    model, x = zoo(name), images(2, 3, 16, 16)
    captured = capture(model, x)
    other = images(2, 3, 16, 16, seed=9)
    assert torch.equal(captured(other), model(other))
    assert captured.state_dict().keys() == model.state_dict().keys()


def test_the_model_is_not_changed_and_shares_nothing_with_the_capture():
    model = zoo("functional")
    before = copy.deepcopy(model.state_dict())
    captured = capture(model, images(2, 3, 16, 16))
    with torch.no_grad():
        for parameter in captured.parameters():
            parameter.zero_()
    assert model.get_submodule("1").relu.inplace
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda m, x: F.relu(x), (Kind.ACTIVATION, "relu")),
        (lambda m, x: F.relu(x, True), (Kind.ACTIVATION, "relu")),
        (lambda m, x: F.hardswish(x, inplace=True), (Kind.ACTIVATION, "hardswish")),
        (lambda m, x: torch.sigmoid(x), (Kind.ACTIVATION, "sigmoid")),
        (lambda m, x: x.relu_(), (Kind.ACTIVATION, "relu")),
        (lambda m, x: x.tanh(), (Kind.ACTIVATION, "tanh")),
        (lambda m, x: F.gelu(x, approximate="tanh"), (Kind.ACTIVATION, "gelu")),
        (lambda m, x: x + x, (Kind.SUM, "add")),
        (lambda m, x: torch.add(x, x), (Kind.SUM, "add")),
        (lambda m, x: x.add_(x), (Kind.SUM, "add")),
        (lambda m, x: torch.add(x, x, alpha=2), (Kind.BARRIER, "add")),
        (lambda m, x: x + 1, (Kind.NORM, "scale")),
        (lambda m, x: x + x.mean((2, 3), keepdim=True), (Kind.SIDE, "add")),
        (lambda m, x: x * x, (Kind.BARRIER, "mul")),
        (lambda m, x: F.max_pool2d(x, 2), (Kind.BARRIER, "max_pool2d")),
    ],
)
def test_operations_are_recognised_in_every_form(body, expected):
    assert kinds(model_of(body))[-1] == expected


def test_sums_of_sizes_are_no_operations():
    model = model_of(lambda m, x: x.reshape(x.size(0), x.size(1) + x.size(1), -1))
    assert kinds(model, X[:, :, :8, :8])[1:] == [(Kind.BARRIER, "reshape")]


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.ReLU6(inplace=True), Kind.ACTIVATION),
        (nn.PReLU(), Kind.ACTIVATION),
        (nn.Dropout(0.1), Kind.IDENTITY),
        (nn.Identity(), Kind.IDENTITY),
        (nn.BatchNorm2d(4), Kind.NORM),
        (nn.Softmax(1), Kind.BARRIER),
        (nn.ConvTranspose2d(4, 4, 3), Kind.BARRIER),
    ],
)
def test_modules_are_recognised(module, kind):
    captured = capture(nn.Sequential(nn.Conv2d(4, 4, 3), module).eval(), X)
    classify(captured)
    assert operation(list(captured.graph.nodes)[2]).kind is kind


def test_activations_are_made_by_name():
    assert torch.equal(activation_module("relu6")(10 * X), F.relu6(10 * X))
    with pytest.raises(InputError, match=r"activation must be one of .*relu.*; got 'softmax'"):
        activation_module("softmax")


class Options(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, image, mask=None, twice=False):
        y = self.conv(image if mask is None else image * mask)
        return {"y": 2 * y if twice else y, "rest": [image]}


def test_arguments_left_out_keep_their_defaults():
    model = Options().eval()
    captured = capture(model, X)
    found = captured(X)
    assert torch.equal(found["y"], model(X)["y"])
    assert torch.equal(found["rest"][0], X)
    assert graph_arguments(captured, {"image": X})[0] is X


def test_inputs_are_bound_by_place_or_by_name():
    model = Options()
    assert list(bind_inputs(model, (X, X))) == ["image", "mask"]
    named = {"mask": X, "image": 2 * X}
    captured = capture(model.eval(), named)
    found = captured(*graph_arguments(captured, named))
    torch.testing.assert_close(found["y"], model(**named)["y"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"picture": X}, "has 'picture', which forward of Options does not take; it takes image"),
        ((X, X, X, X), "has 4 values, but forward of Options takes 3: image, mask, twice"),
        ([X], "must be a tensor, a tuple or a dict with at least one tensor; got list"),
        ((), "must be a tensor, a tuple or a dict with at least one tensor; got tuple"),
        ({}, "does not run on the example inputs"),
        (([X, X],), "'image' is a list, and must be one tensor: wrap the model in a module whose"),
        ({"image": (X, X)}, "'image' is a tuple, and must be one tensor"),
        ((X, {"mask": X}), "'mask' is a dict, and must be one tensor"),
        ({"image": X, "twice": True}, "'twice' must be a tensor, got bool: leave it out .*wrap"),
        ((X, None), "'mask' must be a tensor, got NoneType"),
        (X[:, :3], r"does not run on the example inputs \(image \(2, 3, 9, 9\).*Give example"),
        (X.double(), r"torch\.float64\).*Give example_inputs of the shape and dtype"),
        (X[0], r"convolution conv gives the shape \(4, 7, 7\).*with a batch dimension"),
        (X.to("meta"), "model is on cpu, the example input 'image' on meta: move one"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, message):
    with pytest.raises(InputError, match=message):
        capture(Options().eval(), inputs)


def test_what_is_no_module_is_refused():
    with pytest.raises(InputError, match=r"model must be a torch\.nn\.Module, got str"):
        capture("resnet34", X)


def test_a_model_spread_over_devices_is_refused():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, device="meta")).eval()
    with pytest.raises(InputError, match="spread over the devices cpu, meta: move it to one"):
        capture(model, X)
    with pytest.raises(InputError, match="on the device meta, where it has no weights: load"):
        capture(nn.Conv2d(4, 4, 3, device="meta"), X.to("meta"))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (nn.BatchNorm2d(4), r"batch norm '1' of the model is in training mode.*model\.eval\(\)"),
        (nn.Dropout(0.5), r"dropout '1' of the model is in training mode.*model\.eval\(\)"),
    ],
)
def test_training_mode_is_refused(part, message):
    with pytest.raises(InputError, match=message):
        capture(nn.Sequential(nn.Conv2d(4, 4, 3), part), X)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda m, x: x if x.mean() > 0 else -x, r"bool\(\) reads a tensor at test_graph\.py:\d+"),
        (lambda m, x: x * float(x.max()), r"float\(\) reads a tensor"),
        (lambda m, x: x * torch.from_numpy(x.numpy()), r"numpy\(\) reads a tensor"),
        (lambda m, x: x if x.shape[0] > 1 else -x, "differs in which operations it runs"),
        (lambda m, x: sum(row for row in x), "on other values or batch sizes it differs in"),
    ],
)
def test_control_flow_that_cannot_be_traced_is_refused(body, reason):
    with pytest.raises(UnsupportedModelError, match=f"Model cannot be traced: .*{reason}"):
        capture(model_of(body), X)


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: x + torch.rand(2, 4, 9, 9),
        lambda m, x: x + float(torch.rand(())),
        lambda m, x: F.dropout(x),
    ],
)
def test_random_numbers_in_evaluation_mode_are_refused(body):
    with pytest.raises(UnsupportedModelError, match=r"random numbers .*test_graph\.py:\d+\. Draw"):
        capture(model_of(body), X)


def in_place_and_again(model, x):
    y = model.other(x)
    x.relu_()
    return x + y


@pytest.mark.parametrize(
    "body", [in_place_and_again, lambda m, x: F.relu(x, inplace=True) + m.other(x)]
)
def test_a_value_changed_in_place_and_used_again_is_the_changed_one(body):
    model = model_of(body)
    assert_same(capture(model, torch.zeros(2, 4, 9, 9)), model)


def test_random_numbers_of_the_caller_are_left_alone():
    model = randomized(nn.Sequential(ConvNorm(4, 4, 3)))
    before = torch.random.get_rng_state()
    capture(model, X)
    assert torch.equal(torch.random.get_rng_state(), before)


class Observed(nn.Module):
    """Computes other values, by `step`, while it is recorded."""

    def __init__(self, step):
        super().__init__()
        self.conv, self.step = nn.Conv2d(3, 4, 1), step

    def forward(self, x):
        step = self.step * torch._C._len_torch_function_stack()
        return torch.cat([self.conv(x) * 1e4, torch.full_like(x, step)], 1)


def test_a_capture_that_computes_something_else_is_refused():
    with pytest.raises(UnsupportedModelError, match="computes other values than the model"):
        capture(Observed(10.0).eval(), images(1, 3, 8, 8))


def test_rounding_of_the_largest_values_is_no_difference():
    capture(Observed(1e-3).eval(), images(1, 3, 8, 8))


class ByPosition(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, *values):
        return self.conv(*values)


def test_inputs_without_a_name_are_refused():
    with pytest.raises(InputError, match=r"takes its inputs by position only \(\*values\)"):
        capture(ByPosition().eval(), X)


def test_a_module_named_as_a_word_of_python_is_named():
    model = nn.Sequential()
    model.add_module("in", nn.Conv2d(4, 4, 3))
    with pytest.raises(UnsupportedModelError, match=r"the module 'in' is named 'in'.*rename it"):
        capture(model.eval(), X)
