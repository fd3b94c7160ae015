from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import layermerge as lm
from layermerge.errors import InputError
from layermerge.graph import capture
from layermerge.plan import original_plan
from networks import images, zoo

X = images(2, 4, 9, 9)


class Writing(nn.Module):
    """Writes to its own weights as it runs."""

    def __init__(self, write):
        super().__init__()
        self.conv, self.other = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.other.weight = self.conv.weight
        self.write = write

    def forward(self, x):
        self.write(self.conv)
        return self.other(self.conv(x))


def halve_data(conv):
    conv.weight.data.mul_(0.5)


def halve_without_gradients(conv):
    with torch.no_grad():
        conv.weight.mul_(0.5)


def halve_a_view(conv):
    with torch.no_grad():
        torch.mul(conv.weight[1:], 0.5, out=conv.weight[1:])


def halve_and_fail(conv):
    halve_data(conv)
    raise ValueError("no more")


def weights_of(model):
    return [(name, value.data_ptr()) for name, value in model.named_parameters()]


def test_borrowed_weights_are_those_of_the_model():
    model = zoo("functional").requires_grad_(False)
    next(model.parameters()).requires_grad_(True)
    captured = capture(model, images(2, 3, 16, 16), borrow_weights=True)
    assert weights_of(captured) == weights_of(model)
    assert all(
        own is not borrowed and own.requires_grad == borrowed.requires_grad
        for own, borrowed in zip(model.parameters(), captured.parameters(), strict=True)
    )


def test_buffers_are_not_borrowed():
    model = zoo("plain")
    captured = capture(model, images(2, 3, 16, 16), borrow_weights=True)
    theirs = {buffer.data_ptr() for buffer in captured.buffers()}
    assert theirs.isdisjoint(buffer.data_ptr() for buffer in model.buffers())


def test_a_rewritten_network_has_weights_of_its_own():
    model = zoo("plain")
    image = images(2, 3, 16, 16)
    network = lm.trace(model, image)
    student = lm.rewrite(model, original_plan(network))
    ours = {value.data_ptr() for value in model.state_dict().values()}
    assert ours.isdisjoint(value.data_ptr() for value in student.state_dict().values())


@pytest.mark.parametrize("write", [halve_data, halve_without_gradients, halve_a_view])
def test_what_a_forward_writes_to_borrowed_weights_is_undone(write):
    model = Writing(write).eval()
    before = copy.deepcopy(model.state_dict())
    versions = [value._version for value in model.parameters()]
    with pytest.raises(lm.UnsupportedModelError):
        lm.trace(model, X)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert versions == [value._version for value in model.parameters()]


def test_it_is_undone_if_the_model_fails():
    model = Writing(halve_and_fail).eval()
    before = model.conv.weight.clone()
    with pytest.raises(InputError, match="no more"):
        lm.trace(model, X)
    assert torch.equal(model.conv.weight, before)


def test_weights_made_in_inference_mode_are_copied():
    with torch.inference_mode():
        model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    assert lm.trace(model, X).num_layers == 2


class Scripted(nn.Module):
    """Calls a scripted function, whose operations pass the recording by."""

    def forward(self, x):
        return scripted["swish"](x)


scripted = {}


def swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_what_a_scripted_function_does_is_recorded_neither_way(monkeypatch):
    monkeypatch.setitem(scripted, "swish", torch.jit.script(swish))
    model = nn.Sequential(nn.Conv2d(4, 4, 3), Scripted(), nn.Conv2d(4, 4, 3)).eval()
    graphs = [capture(model, X, borrow_weights=borrows).graph for borrows in (True, False)]
    assert str(graphs[0]) == str(graphs[1])
    assert [node.target for node in graphs[0].nodes if node.op == "call_module"] == ["0", "1", "2"]
    kept = lm.rewrite(model, original_plan(lm.trace(model, X)))
    with torch.no_grad():
        assert torch.equal(kept(X), model(X))
