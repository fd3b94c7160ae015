from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from layermerge.errors import InputError, MissingDependencyError, VerificationError
from layermerge.exporting import load, save
from layermerge.interchange import export_onnx, export_pt2
from layermerge.merging import merge
from layermerge.rewriting import rewrite
from layermerge.tracing import trace
from networks import images, randomized, relative_error, zoo
from test_exporting import compressed, deepest_plan
from test_merging import logarithms

EXPORTS = ["pt2", "onnx"]


class Timed(nn.Module):
    """Convolutions with a time embedding between them: two inputs, and two outputs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.embedding = nn.Embedding(10, 8)

    def forward(self, x, step, scale=None):
        y = torch.relu(self.first(x)) + self.embedding(step)[:, :, None, None]
        y = self.second(y)
        return y, y.mean((2, 3))


class OfTwo(nn.Module):
    """Runs on two images only."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.register_buffer("extra", torch.ones(2, 1, 6, 6))

    def forward(self, x):
        return self.layers(torch.cat([x, self.extra], 1))


def make(name):
    model = randomized(zoo(name))
    return compressed(model, deepest_plan(trace(model, images(2, 3, 16, 16))))


def make_timed():
    torch.manual_seed(0)
    model = Timed().eval()
    example = {"x": images(2, 3, 8, 8), "step": torch.tensor([1, 2])}
    return merge(rewrite(model, deepest_plan(trace(model, example))))


def export(form, *arguments, **options):
    if form == "onnx":
        need_onnx()
    return {"onnx": export_onnx, "pt2": export_pt2}[form](*arguments, **options)


def need_onnx():
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed")


def run(path, *inputs):
    """What a file computes, all outputs in a list."""
    if path.suffix == ".pt2":
        outputs = torch.export.load(path).module()(*inputs)
        return list(outputs) if isinstance(outputs, tuple) else [outputs]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    named = {wanted.name: x.numpy() for wanted, x in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(output) for output in session.run(None, named)]


@pytest.mark.parametrize("form", EXPORTS)
@pytest.mark.parametrize("name", ["basic", "inverted"])
def test_a_file_computes_what_the_network_does_at_any_batch_size(tmp_path, form, name):
    merged = make(name)
    path = tmp_path / f"model.{form}"
    exported = export(form, merged, path)
    assert exported.path == path
    assert exported.is_batch_dynamic
    assert exported.inputs == {"input": ("batch", 3, 16, 16)}
    assert 0 <= exported.error < 1e-5
    for batch in (1, 2, 5):
        value = images(batch, 3, 16, 16, seed=batch)
        with torch.no_grad():
            assert relative_error(run(path, value)[0], merged(value)) < 1e-5
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("form", EXPORTS)
def test_several_inputs_and_outputs_are_kept(tmp_path, form):
    merged = make_timed()
    path = tmp_path / f"model.{form}"
    exported = export(form, merged, path)
    assert exported.inputs == {"x": ("batch", 3, 8, 8), "step": ("batch",)}
    inputs = images(4, 3, 8, 8, seed=5), torch.tensor([9, 0, 3, 3])
    with torch.no_grad():
        expected = merged(*inputs)
    for got, wanted in zip(run(path, *inputs), expected, strict=True):
        assert relative_error(got, wanted) < 1e-5


@pytest.mark.parametrize("form", EXPORTS)
def test_a_network_for_one_batch_size_is_exported_for_that(tmp_path, form):
    torch.manual_seed(0)
    model = OfTwo().eval()
    value = images(2, 3, 6, 6)
    merged = merge(rewrite(model, deepest_plan(trace(model, value))))
    exported = export(form, merged, tmp_path / f"model.{form}")
    assert not exported.is_batch_dynamic
    assert exported.batch_sizes == (2,)
    assert exported.inputs == {"x": (2, 3, 6, 6)}
    assert relative_error(run(exported.path, value)[0], merged(value)) < 1e-5


@pytest.mark.slow
def test_a_library_model_is_exported_without_being_named(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = randomized(timm.create_model("resnet18")).eval()
    merged = merge(rewrite(model, deepest_plan(trace(model, images(1, 3, 64, 64)))))
    save(merged, tmp_path, model_name="timm:resnet18")
    loaded = load(tmp_path)
    for form in EXPORTS:
        exported = export(form, loaded, tmp_path / f"model.{form}")
        assert exported.is_batch_dynamic
        value = images(2, 3, 64, 64, seed=4)
        with torch.no_grad():
            assert relative_error(run(exported.path, value)[0], merged(value)) < 1e-4


def test_a_network_that_is_defined_for_positive_values_alone_is_exported(tmp_path):
    _, example, rewritten = logarithms()
    exported = export_pt2(merge(rewritten), tmp_path / "positive.pt2")
    assert exported.error < 1e-4
    program = torch.export.load(tmp_path / "positive.pt2")
    assert program.module()(*example.values()).isfinite().all()


def test_the_network_is_left_as_it_is(tmp_path):
    merged = make("basic")
    before = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
    code = merged.code
    export_pt2(merged, tmp_path / "model.pt2")
    assert merged.code == code
    after = merged.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_pt2_file_loads_without_layermerge(tmp_path):
    merged = make("basic")
    export_pt2(merged, tmp_path / "model.pt2")
    value = images(3, 3, 16, 16)
    torch.save(value, tmp_path / "value.pt")
    program = (
        "import sys, torch\n"
        "network = torch.export.load('model.pt2').module()\n"
        "torch.save(network(torch.load('value.pt')), 'output.pt')\n"
        "assert not [name for name in sys.modules if name.startswith('layermerge')]"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "output.pt"), merged(value))


@pytest.mark.parametrize("form", EXPORTS)
def test_no_file_says_where_it_was_made(tmp_path, form):
    path = export(form, make("plain"), tmp_path / f"model.{form}").path
    if form == "pt2":
        from zipfile import ZipFile

        with ZipFile(path) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    else:
        content = path.read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


@pytest.mark.parametrize("form", EXPORTS)
def test_a_file_that_computes_something_else_is_not_left_behind(tmp_path, form, monkeypatch):
    path = tmp_path / f"model.{form}"
    path.write_bytes(b"what was there")
    monkeypatch.setattr("layermerge.interchange.relative_difference", lambda *_: 2e-4)
    with pytest.raises(VerificationError, match=r"differ by 2.0e-04 .* expected at most 1e-04"):
        export(form, make("plain"), path)
    assert path.read_bytes() == b"what was there"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_may_differ_can_be_said(tmp_path):
    need_onnx()
    with pytest.raises(VerificationError, match="expected at most 1e-12"):
        export_onnx(make("basic"), tmp_path / "model.onnx", tolerance=1e-12)


def test_a_file_is_written_into_folders_that_exist(tmp_path):
    with pytest.raises(InputError, match="name a file in a folder that exists"):
        export_pt2(make("plain"), tmp_path / "nowhere" / "model.pt2")


@pytest.mark.parametrize("name", ["onnx", "onnxruntime", "onnxscript"])
def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch, name):
    if name != "onnx":
        need_onnx()
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'layermerge\[onnx\]'"):
        export_onnx(make("plain"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_is_exported_in_its_own_precision(tmp_path, dtype):
    merged = make("basic").to(dtype)
    exported = export_pt2(merged, tmp_path / "model.pt2")
    value = images(3, 3, 16, 16).to(dtype)
    assert run(exported.path, value)[0].dtype == dtype
