"""Barriers whose inputs are not plain tensors, measured by each backend."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layermerge.configuration import described
from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError
from layermerge.fingerprints import structure
from layermerge.graph import bind_inputs, capture, graph_arguments
from layermerge.latency.exchange import write_profile
from layermerge.latency.measuring import import_table, measure_latency
from layermerge.latency.options import LatencyOptions, Roofline
from layermerge.latency.units import barrier_units
from layermerge.latency.whole_networks import measure_modules
from layermerge.store import Study
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


class Repeated(nn.Module):
    """A module that does not print how often it runs its layer."""

    def __init__(self, count):
        super().__init__()
        self.count = count
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image):
        for _ in range(self.count):
            image = self.layer(image)
        return image


def attention(heads):
    inner = Attention()
    inner.attention = nn.MultiheadAttention(8, heads, batch_first=True)
    return OnTokens(inner).eval()


ANALYTIC = LatencyOptions(backend="analytic", roofline=Roofline(1.0, 10.0))


def profiled(model, **options):
    network = trace(model, IMAGE)
    space = enumerate_candidates(network)
    return measure_latency(
        model,
        network,
        space,
        example_inputs=IMAGE,
        deployed=model,
        **{"options": ANALYTIC, **options},
    )


def test_what_a_module_does_not_print_tells_it_apart():
    assert repr(nn.MultiheadAttention(8, 1)) == repr(nn.MultiheadAttention(8, 2))
    assert described(nn.MultiheadAttention(8, 1)) != described(nn.MultiheadAttention(8, 2))
    assert described(Repeated(1)) != described(Repeated(2))
    assert described(Repeated(2)) == described(Repeated(2))
    layers = [nn.TransformerEncoderLayer(8, heads) for heads in (1, 2)]
    assert described(layers[0]) != described(layers[1])
    assert structure(nn.Linear(2, 3)) != structure(nn.Linear(2, 3, dtype=torch.float64))


def test_the_code_of_a_module_tells_it_apart():
    def made(forward):
        return type("Own", (nn.Module,), {"forward": forward, "__module__": "own"})()

    one, other = made(lambda self, x: x + 1), made(lambda self, x: x * 2)
    assert described(one) == described(other)
    assert structure(one) != structure(other)
    assert structure(one) == structure(made(type(one).forward))


def test_parts_of_one_study_that_print_alike_are_measured_each():
    with Study() as study:
        few, many, again = (profiled(attention(n), study=study) for n in (1, 8, 1))
    assert few.space.network.fingerprint != many.space.network.fingerprint
    assert few.fixed_ns < many.fixed_ns  # a map of attention for each head
    assert few.end_to_end.median_ns < many.end_to_end.median_ns
    assert again.effort.num_known == again.effort.num_units
    assert again.fixed_ns == few.fixed_ns


def test_a_table_of_a_network_that_prints_alike_is_foreign(tmp_path):
    write_profile(profiled(attention(1)), tmp_path / "T.csv")
    other = attention(8)
    network = trace(other, IMAGE)
    with Study() as study, pytest.raises(InputError, match="is a foreign table"):
        import_table(
            tmp_path / "T.csv",
            other,
            network,
            enumerate_candidates(network),
            example_inputs=IMAGE,
            study=study,
            options=ANALYTIC,
        )


def test_modules_of_one_name_that_print_alike_are_measured_each():
    with Study() as study:
        once, often = (
            measure_modules(
                {"net": Repeated(n).eval()},
                IMAGE,
                options=ANALYTIC,
                study=study,
                subjects={"net": "net"},
            )["net"].median_ns
            for n in (1, 10)
        )
    assert often == pytest.approx(10 * once, rel=0.01)


class Conditioned(nn.Module):
    """Takes an image, a table that is the same for all images, a mask and a time step."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, image, table, mask, time):
        tokens = self.second(self.first(image) * time).flatten(2).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens, attn_mask=mask)
        return (mixed @ table.t()).amax(-1)


@pytest.mark.parametrize("batch", [None, 1, 5])
def test_only_examples_are_as_many_as_the_batch(batch):
    model = Conditioned().eval()
    inputs = (torch.zeros(1, 3, 8, 8), torch.zeros(96, 8), torch.zeros(64, 64), torch.tensor(2.0))
    network = trace(model, inputs)
    options = LatencyOptions(backend="analytic", roofline=Roofline(1.0, 10.0), batch=batch)
    profile = measure_latency(
        model,
        network,
        enumerate_candidates(network),
        example_inputs=inputs,
        deployed=model,
        options=options,
    )
    flops = 2 * 64 * 8 * 96 * (batch or 1)
    assert profile.barriers["matmul"].median_ns >= flops / 1e3
    assert float(profile.calibration) == pytest.approx(1, rel=0.1)


def test_an_input_that_is_no_example_has_the_size_that_was_traced():
    model = Conditioned().eval()
    inputs = [torch.zeros(1, 3, 8, 8), torch.zeros(96, 8), torch.zeros(64, 64), torch.tensor(2.0)]
    network = trace(model, tuple(inputs))
    inputs[1] = inputs[1][:32]
    with pytest.raises(InputError, match=r"example input 'table' is \(32, 8\), but"):
        measure_latency(
            model,
            network,
            enumerate_candidates(network),
            example_inputs=tuple(inputs),
            options=ANALYTIC,
        )
