"""Barriers whose inputs are not plain tensors, measured by each backend."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layermerge.enumeration import enumerate_candidates
from layermerge.graph import bind_inputs, capture, graph_arguments
from layermerge.latency.measuring import measure_latency
from layermerge.latency.options import LatencyOptions, Roofline
from layermerge.latency.units import barrier_units
from layermerge.tracing import trace

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """A module that returns a tuple, of which one element is used."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens):
        values, _ = self.attention(tokens, tokens, tokens)
        return values


class Recurrence(nn.Module):
    """A module that returns a tuple of a tensor and a tuple."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, tokens):
        values, (hidden, cell) = self.lstm(tokens)
        return values + hidden[0][:, None] + cell[0][:, None]


class Largest(nn.Module):
    """A named tuple of torch, of which one element is used."""

    def forward(self, tokens):
        return tokens - tokens.max(1, keepdim=True)[0]


class Chunks(nn.Module):
    """A tuple whose elements go into a list again."""

    def forward(self, tokens):
        first, second = tokens.chunk(2, dim=2)
        return torch.cat([second, first], dim=2)


class OnTokens(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.inner = inner
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, image):
        features = self.second(self.first(image))
        tokens = self.inner(features.flatten(2).transpose(1, 2))
        return self.last(tokens.transpose(1, 2).reshape(features.shape))


INNER = [Attention, Recurrence, Largest, Chunks]


@pytest.mark.parametrize("inner", INNER)
def test_a_unit_computes_what_its_barrier_does(inner):
    model = OnTokens(inner()).eval()
    network = trace(model, IMAGE)
    captured = capture(model, IMAGE, borrow_weights=True)
    arguments = graph_arguments(captured, bind_inputs(model, IMAGE))
    names = [barrier.name for barrier in network.barriers]
    with torch.no_grad():
        units = barrier_units(captured, names, arguments)
        expected = dict.fromkeys(names)
        values = _run(captured, arguments)
        for name in expected:
            actual = units[name].make()(*units[name].get_inputs())
            torch.testing.assert_close(_plain(actual), _plain(values[name]), rtol=0, atol=0)
    assert any(not unit.does_compute for unit in units.values()) or inner is Largest


def _run(captured, arguments):
    values = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n):
            values[n.name] = super().run_node(n)
            return values[n.name]

    Recorder(captured).run(*arguments)
    return values


def _plain(value):
    """Tuples as tuples: those of torch's operations have types of their own."""
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("backend", ["eager", "analytic"])
def test_barriers_of_several_values_are_measured(inner, backend):
    model = OnTokens(inner()).eval()
    network = trace(model, IMAGE)
    options = LatencyOptions(
        backend=backend,
        roofline=Roofline(1.0, 10.0) if backend == "analytic" else None,
        threads=1,
        max_seconds=0.2,
    )
    profile = measure_latency(
        model, network, enumerate_candidates(network), example_inputs=IMAGE, options=options
    )
    assert profile.barriers.keys() == {barrier.name for barrier in network.barriers}
    assert profile.fixed_ns > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch uses it itself
@pytest.mark.parametrize("backend", ["compile", "onnxruntime"])
def test_barriers_of_several_values_compile(backend):
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    model = OnTokens(Attention()).eval()
    network = trace(model, IMAGE)
    options = LatencyOptions(backend=backend, threads=1, max_seconds=0.2)
    profile = measure_latency(
        model, network, enumerate_candidates(network), example_inputs=IMAGE, options=options
    )
    assert profile.fixed_ns > 0
