"""The example of the paper's networks, on narrow ones and small images."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layermerge import load
from layermerge.models import load_model
from layermerge.plan import load_plan
from layermerge.results import load_result

EXAMPLE = Path(__file__).parents[1] / "examples" / "paper_networks.py"
NARROW = """
from paper_networks import mobilenet_v2, resnet34, resnet50, vgg19

def r34():
    return resnet34(4)

def r50():
    return resnet50(4)

def m10():
    return mobilenet_v2(0.25)

def m14():
    return mobilenet_v2(0.35)

def v19():
    return vgg19(4)

def unet():
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=16,
        layers_per_block=2,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
"""
FUNCTIONS = {
    "resnet34": "r34",
    "resnet50": "r50",
    "mobilenetv2-1.0": "m10",
    "mobilenetv2-1.4": "m14",
    "vgg19": "v19",
    "ddpm-cifar10": "unet",
}
QUICK = ("--roofline", "0.05", "10", "--speedup=1.1", "--probe-steps=1", "--epochs=1")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("example_paper_networks", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def narrow(example, tmp_path, monkeypatch):
    """The example, with narrow networks in the place of the paper's."""
    file = tmp_path / "narrow.py"
    file.write_text(NARROW)
    for name, function in FUNCTIONS.items():
        monkeypatch.setitem(example.NETWORKS, name, f"{file}:{function}")
    return example


@pytest.mark.filterwarnings("default")  # diffusers warns of its own doings
@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("resnet34", "paper"),
        ("resnet50", "general"),
        ("mobilenetv2-1.0", "general"),
        ("mobilenetv2-1.4", "paper"),
        ("vgg19", "paper"),
        ("vgg19", "general"),
        ("ddpm-cifar10", "paper"),
        ("ddpm-cifar10", "general"),
    ],
)
def test_every_network_is_compressed_without_data(narrow, name, space, tmp_path, capsys):
    if name == "ddpm-cifar10":
        pytest.importorskip("diffusers", reason="diffusers is not installed")
    run = tmp_path / "run"
    found = narrow.main([name, f"--space={space}", "--size=32", f"--run={run}", *QUICK])
    printed = capsys.readouterr().out
    assert "The weights are random" in printed
    assert "No data, no training" in printed
    assert re.search(rf"{name}, {space} space: \d+ -> \d+ convolutions, .* times as fast", printed)
    assert found.result.compressed.layers < found.result.base.layers
    assert load_plan(run / "plan.json").segments == found.plan.segments
    assert load_result(run / "result.json").speedup == found.result.speedup
    inputs = narrow.random_inputs(2, 32, narrow.read_arguments([name, "--device=cpu"]))
    merged = load(run, load_model(narrow.NETWORKS[name]))
    torch.testing.assert_close(
        narrow.output_of(merged, inputs), narrow.output_of(found.model, inputs)
    )


def test_the_networks_are_those_that_the_libraries_have(example):
    for spec in example.NETWORKS.values():
        library, _, name = spec.partition(":")
        module = pytest.importorskip(library, reason=f"{library} is not installed")
        if library == "timm":
            assert name in module.list_models()
        elif library == "torchvision":
            assert name in module.models.list_models()
        else:
            assert isinstance(load_model(spec), module.UNet2DModel)


def test_random_weights_are_calibrated_so_that_values_stay_of_one_size(narrow):
    torch.manual_seed(0)
    model = load_model(narrow.NETWORKS["resnet34"])
    inputs = torch.randn(8, 3, 32, 32)
    narrow.calibrated(model, inputs)
    norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    outputs = []
    for norm in norms:
        norm.register_forward_hook(lambda module, inputs, output: outputs.append(output.std()))
    narrow.output_of(model, inputs)
    assert len(outputs) == len(norms)
    assert not model.training
    assert all(0.5 < std < 1.5 for std in outputs)


@pytest.fixture
def photos(tmp_path):
    pytest.importorskip("timm", reason="timm is not installed")
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from PIL import Image

    for part, count in (("train", 4), ("val", 2)):
        for shade in range(10):
            folder = tmp_path / "photos" / part / f"class{shade}"
            folder.mkdir(parents=True)
            for place in range(count):
                Image.new("RGB", (40, 40), (25 * shade,) * 3).save(folder / f"{place}.png")
    return tmp_path / "photos"


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["vgg19", "ddpm-cifar10"])
def test_with_data_networks_are_trained_and_scored_on_them(narrow, name, photos, capsys):
    if name == "ddpm-cifar10":
        pytest.importorskip("diffusers", reason="diffusers is not installed")
    found = narrow.main([name, f"--data=imagefolder:{photos}", "--size=32", *QUICK])
    assert "No data" not in capsys.readouterr().out
    for score in (found.result.base.score, found.result.compressed.score):
        # An accuracy; or minus a mean squared error, that of an untrained denoiser about 1.
        assert -5 < score < 0 if name == "ddpm-cifar10" else 0 <= score <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data=imagefolder:nonesuch"], "error: nonesuch has no folder 'train'"),
        (["--speedup=0.5"], "error: speedup must be the original latency over the new one"),
    ],
)
def test_bad_input_ends_in_one_line(words, message, tmp_path):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    command = [sys.executable, EXAMPLE, "resnet34", "--size=32", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in done.stderr
