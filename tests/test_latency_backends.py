"""Each backend that can run here, and what the others say."""

from __future__ import annotations

import importlib.util
import sys
from fractions import Fraction

import pytest
import torch
from torch import nn

from layermerge.candidates import CandidateSpace
from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError, MissingDependencyError
from layermerge.latency import compiled, onnx_runtime
from layermerge.latency.bench import Bench
from layermerge.latency.measuring import measure_latency
from layermerge.latency.onnx_parts import Framed, cut_frames
from layermerge.latency.options import LatencyOptions, Roofline
from layermerge.latency.placement import inference, placement_of, with_batch
from layermerge.latency.programs import as_graph, positional
from layermerge.latency.whole_networks import measure_modules
from layermerge.store import Study
from layermerge.tracing import trace
from networks import relative_error

IMAGE = torch.zeros(2, 3, 12, 12)
QUICK = {"threads": 1, "target_rsd": 0.5, "max_seconds": 0.5}
has_onnx = all(map(importlib.util.find_spec, ("onnxruntime", "onnxscript")))
needs_onnx = pytest.mark.skipif(not has_onnx, reason="needs the extra onnx")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def small():
    """One convolution, a pool and a head; only the original candidates."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)).eval()
    network = trace(model, IMAGE)
    space = enumerate_candidates(network)
    return model, network, CandidateSpace(network, space.original, space.method)


def profile(small, **options):
    model, network, space = small
    return measure_latency(
        model,
        network,
        space,
        example_inputs=IMAGE,
        deployed=model,
        options=LatencyOptions(**{**QUICK, **options}),
    )


def assert_complete(found, space):
    assert found.failures == {}
    assert all(found.of(candidate) > 0 for candidate in space.candidates)
    assert found.end_to_end is not None
    assert found.fixed_ns > 0


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"dtype": "bf16"}, id="bf16"),
        pytest.param({"dtype": "fp16"}, id="fp16"),
        pytest.param({"channels_last": True}, id="channels-last"),
        pytest.param({"batch": 5}, id="batch"),
    ],
)
def test_eager_measures_in_the_form_that_was_asked_for(small, options):
    found = profile(small, **options)
    assert_complete(found, small[2])
    environment = found.environment
    assert environment.dtype == options.get("dtype", "fp32")
    assert environment.layout == f"channels_{'last' if 'channels_last' in options else 'first'}"
    assert environment.batch == options.get("batch", 2)


@needs_onnx
def test_onnx_runtime_measures_everything(small, monkeypatch):
    monkeypatch.setattr(onnx_runtime.OnnxRuntime, "copies", 1)
    found = profile(small, backend="onnxruntime")
    assert_complete(found, small[2])
    assert found.environment.version.startswith("onnxruntime ")


@needs_onnx
@pytest.mark.parametrize(
    ("options", "message"),
    [({"channels_last": True}, "ONNX has one layout")],
)
def test_onnx_runtime_says_what_it_cannot_do(small, options, message):
    with pytest.raises(InputError, match=message):
        profile(small, backend="onnxruntime", **options)


@needs_onnx
def test_an_exported_unit_computes_what_the_module_computes(small):
    import numpy as np
    import onnxruntime

    image = torch.randn(2, 3, 12, 12)
    session = onnxruntime.InferenceSession(onnx_runtime.export(small[0], (image,)))
    (output,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    assert np.allclose(output, small[0](image).detach().numpy(), atol=1e-5)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.activation = nn.Conv2d(16, 16, 3), nn.ReLU()

    def forward(self, x, y):
        return self.activation(self.conv(x) + y)


PARTS = [
    (lambda: nn.Conv2d(16, 32, 3, stride=2), ["Conv"], [(16, 9)]),
    (lambda: nn.Sequential(nn.Conv2d(16, 16, 3, groups=16), nn.ReLU6()), ["Conv"], [(16, 9)]),
    (lambda: nn.Conv2d(3, 32, 3), ["Conv"], [(3, 9)]),
    (Residual, ["Conv"], [(16, 9), (16, 7)]),
    (lambda: nn.MaxPool2d(3, 2), ["MaxPool"], [(32, 9)]),
    (lambda: nn.MaxPool2d(1, 2), ["MaxPool"], [(32, 9)]),
    (lambda: nn.Conv2d(20, 40, 1), ["Conv"], [(20, 9)]),
]


@needs_onnx
@pytest.mark.parametrize(("make", "expected", "shapes"), PARTS)
def test_a_part_runs_in_the_layout_that_it_has_in_a_network(make, expected, shapes):
    """Nothing is rearranged at its ends. All values of an image are one here, in any layout."""
    torch.manual_seed(0)
    module, inputs = make().eval(), tuple(torch.ones(1, c, size, size) for c, size in shapes)
    backend = onnx_backend()
    model = backend._optimised(onnx_runtime.export(Framed(module).eval(), inputs))
    channels = cut_frames(model)
    assert [node.op_type for node in model.graph.node] == expected
    call, read = backend.prepare_part(module, inputs)
    call()
    assert [value.size(1) for value in read] == [
        channels.get(v.name, c) for v, (c, _) in zip(model.graph.input, shapes, strict=True)
    ]
    if all(c % 16 == 0 or c == 3 for c, _ in shapes):
        (found,) = call._binding.copy_outputs_to_cpu()
        wanted = module(*inputs).detach().flatten()
        torch.testing.assert_close(torch.from_numpy(found).flatten().sort()[0], wanted.sort()[0])


@needs_onnx
@pytest.mark.parametrize("make", [nn.Identity, lambda: nn.MaxPool2d(1), lambda: nn.Flatten(0)])
def test_a_part_that_only_frames_would_be_left_of_still_runs(make):
    call, _ = onnx_backend().prepare_part(make().eval(), (torch.ones(1, 16, 5, 5),))
    call()
    (found,) = call._binding.copy_outputs_to_cpu()
    assert found.size == 16 * 25


def onnx_backend():
    options = LatencyOptions(backend="onnxruntime", threads=1)
    return onnx_runtime.OnnxRuntime(options, placement_of(options, torch.zeros(1)))


def test_parts_are_compiled_on_images_in_the_layout_of_a_network(monkeypatch):
    """Else each part would count two conversions, of which the network has two in all."""
    options = LatencyOptions(backend="compile", device="cpu")
    backend = compiled.Compiled(options, placement_of(options, torch.zeros(1)))
    monkeypatch.setattr(backend, "prepare", lambda module, inputs: inputs)
    given = torch.rand(2, 3, 4, 5), torch.rand(2, 3)
    call, read = backend.prepare_part(nn.Identity(), given)
    assert call is read
    assert read[0].is_contiguous(memory_format=torch.channels_last)
    assert all(map(torch.equal, read, given))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch uses it itself
def test_compile_measures_everything(small, monkeypatch):
    monkeypatch.setattr(compiled.Compiled, "copies", 2)
    found = profile(small, backend="compile")
    assert_complete(found, small[2])


@pytest.mark.parametrize(("limit_ns", "copies"), [(0.0, 1), (1e12, 4)])
def test_compiled_parts_that_take_long_run_once(monkeypatch, limit_ns, copies):
    monkeypatch.setattr(compiled.Compiled, "repeated_below_ns", limit_ns)
    monkeypatch.setattr(compiled.Compiled, "prepare", lambda self, module, inputs: module)
    image = torch.zeros(1, 4, 8, 8)
    options = LatencyOptions(backend="compile", threads=1)
    with inference(1), Study() as study:
        bench = Bench(options, image, 1, study)
        unit = bench.operation(lambda: torch.nn.Conv2d(4, 4, 3), lambda: (image,))
    convolutions = [m for m in unit.call.modules() if isinstance(m, torch.nn.Conv2d)]
    assert unit.copies == len(convolutions) == copies


@pytest.mark.parametrize("backend", ["cuda-graphs", "tensorrt"])
def test_a_backend_for_gpus_is_refused_on_a_cpu(small, backend):
    with pytest.raises(InputError, match=f"backend '{backend}' runs on a CUDA device only"):
        profile(small, backend=backend, device="cpu")


@pytest.mark.parametrize("module", ["onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_its_extra(small, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'layermerge\[onnx\]'"):
        profile(small, backend="onnxruntime")


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("backend", ["eager", "cuda-graphs", "compile"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_gpu_measures_everything(small, backend, dtype):
    found = profile(small, backend=backend, dtype=dtype, device="cuda", threads=None)
    assert_complete(found, small[2])
    assert found.environment.clock == "CUDA events"
    assert found.environment.driver


@pytest.mark.cuda
@needs_cuda
def test_a_gpu_that_runs_out_of_memory_names_the_unit(small):
    with pytest.raises(Exception, match=r"OutOfMemoryError|out of memory"):
        profile(small, device="cuda", batch=2**24, threads=None)


def roofline_ns(flops, num_bytes, *, tflops=1.0, gb_s=10.0):
    return max(flops / (tflops * 1e3), num_bytes / gb_s)


def test_the_analytic_latency_of_a_convolution_is_its_roofline():
    model = nn.Conv2d(8, 16, 3, bias=False).eval()
    image = torch.zeros(1, 8, 10, 10)
    options = LatencyOptions(backend="analytic", roofline=Roofline(1.0, 10.0))
    measured = measure_modules({"conv": model}, image, options=options)["conv"]
    flops = 2 * 16 * 8 * 9 * 8 * 8
    num_bytes = 4 * (8 * 100 + 16 * 8 * 9 + 16 * 64)
    assert measured.median_ns == round(roofline_ns(flops, num_bytes))
    assert measured.spread == 0


def test_the_analytic_latency_is_that_of_the_arithmetic_where_that_takes_longer():
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 64, 10)).eval()
    options = LatencyOptions(backend="analytic", roofline=Roofline(1e-6, 1e6))
    measured = measure_modules({"net": model}, torch.zeros(1, 8, 10, 10), options=options)["net"]
    flops = 2 * 16 * 8 * 9 * 64 + 2 * 16 * 64 * 10
    assert measured.median_ns == pytest.approx(flops / 1e-6 / 1e3, rel=1e-6)


def test_the_analytic_whole_is_the_sum_of_its_parts(small):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)).eval()
    found = profile((model, *small[1:]), backend="analytic", roofline=Roofline(0.001, 0.1))
    assert found.original_ns == pytest.approx(found.end_to_end.median_ns, abs=4)
    assert found.environment.device == "roofline 0.001 TFLOP/s, 0.1 GB/s"


def test_the_analytic_latency_halves_with_half_the_bytes(small):
    slow = Roofline(1e6, 0.1)
    full, half = (
        profile(small, backend="analytic", roofline=slow, dtype=dtype).end_to_end.median_ns
        for dtype in ("fp32", "fp16")
    )
    assert half / full == pytest.approx(0.5, abs=0.05)  # max-pooling also writes indices


def test_a_graph_of_copies_computes_what_each_computes():
    modules = [nn.Conv2d(3, 2, 1).eval() for _ in range(3)]
    image = torch.randn(1, 3, 4, 4)
    for output, module in zip(as_graph(modules, 1)(image), modules, strict=True):
        assert torch.equal(output, module(image))


class Named(nn.Module):
    def forward(self, first, second=None, third=None):
        return first - (third if second is None else second)


@pytest.mark.parametrize("names", [("first", "second"), ("second", "first"), ("first", "third")])
def test_named_inputs_become_positional(names):
    inputs = dict(zip(names, (torch.tensor(5.0), torch.tensor(3.0)), strict=True))
    program, values = positional(Named(), inputs)
    assert program(*values) == Named()(**inputs)


def test_another_batch_size_repeats_the_examples():
    resized = with_batch({"image": torch.tensor([[1.0], [2.0]])}, 5)["image"]
    assert resized.flatten().tolist() == [1, 2, 1, 2, 1]
    assert relative_error(with_batch({"image": resized}, None)["image"], resized) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tvm"}, "backend must be one of eager, compile, .*got 'tvm'"),
        ({"dtype": "int8"}, "dtype must be one of fp32, fp16, bf16; got 'int8'"),
        ({"batch": 0}, "batch must be a whole number, at least 1; got 0"),
        ({"backend": "analytic"}, "roofline must be given with backend='analytic'"),
        ({"roofline": Roofline(1, 1)}, "and with no other"),
        ({"target_rsd": 0}, "target_rsd must be between 0 and 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        LatencyOptions(**options)


@pytest.mark.parametrize(("name", "value"), [("peak_tflops", 0), ("bandwidth_gb_s", float("nan"))])
def test_device_constants_are_positive(name, value):
    with pytest.raises(InputError, match=f"{name} must be a number greater than 0, got {value}"):
        Roofline(**{"peak_tflops": 1.0, "bandwidth_gb_s": 1.0, name: value})


@pytest.mark.parametrize("value", [1e-30, 1e300])
def test_device_constants_are_those_of_a_device(value):
    with pytest.raises(InputError, match=r"peak_tflops must be from 1e-06 to 1e\+12"):
        Roofline(value, 1.0)


def test_device_constants_may_be_fractions_and_are_told_apart():
    roofline = Roofline(Fraction(1, 3), 1)
    assert roofline == Roofline(1 / 3, 1.0)
    with pytest.raises(InputError, match="flops must be a finite number of at least 0, got -1"):
        roofline.latency_ns(-1, 1)
    with pytest.raises(InputError, match="max_seconds must be at most"):
        LatencyOptions(max_seconds=10**400)
