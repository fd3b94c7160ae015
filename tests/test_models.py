from __future__ import annotations

import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from torch import nn

from layermerge.errors import InputError
from layermerge.models import call_by_name, load_model
from networks import tiny_classifier

FILE = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Dropout())

def make_sized(width):
    return nn.Conv2d(1, width, 3)

def make_number():
    return 7

def make_nothing():
    raise RuntimeError("no\\nmemory")

class Network(nn.Conv2d):
    def __init__(self):
        super().__init__(1, 3, 1)

constant = 3
"""


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "my_models.py"
    path.write_text(FILE)
    return path


def write(folder, name, content):
    path = folder / name
    path.write_text(content)
    return path


def message_of(name, **options):
    """The error of a name: one paragraph."""
    with pytest.raises(InputError) as caught:
        load_model(str(name), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_function_of_a_file_makes_a_model_in_evaluation_mode(model_file):
    model = load_model(f"{model_file}:make")
    assert [type(module) for module in model] == [nn.Conv2d, nn.ReLU, nn.Dropout]
    assert not any(module.training for module in model.modules())


def test_a_class_of_a_file_makes_a_model(model_file):
    assert load_model(f"{model_file}:Network").out_channels == 3


def test_a_function_of_a_module_makes_a_model():
    model, expected = load_model("networks:tiny_classifier"), tiny_classifier()
    assert model.state_dict().keys() == expected.state_dict().keys()


def test_a_file_may_import_its_neighbours_and_define_dataclasses(tmp_path):
    write(tmp_path, "neighbour_blocks.py", "CHANNELS = 5")
    path = write(
        tmp_path,
        "network.py",
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from torch import nn\n"
        "from neighbour_blocks import CHANNELS\n"
        "@dataclass\n"
        "class Settings:\n"
        "    channels: int = CHANNELS\n"
        "def make():\n"
        "    return nn.Conv2d(1, Settings().channels, 1)\n",
    )
    before = list(sys.path)
    assert load_model(f"{path}:make").out_channels == 5
    assert sys.path == before


def test_a_file_does_not_replace_a_module_of_its_name(tmp_path):
    path = write(
        tmp_path, "torch.py", "from torch import nn\ndef make(): return nn.Conv2d(1, 1, 1)"
    )
    assert isinstance(load_model(f"{path}:make"), nn.Conv2d)
    assert sys.modules["torch"] is torch


def test_what_a_function_returns_need_not_be_a_model(model_file):
    assert call_by_name(f"{model_file}:make_number") == 7


@pytest.mark.parametrize("name", ["resnet18", ":make", "file.py:", ""])
def test_a_name_of_another_form_is_told_the_forms(name):
    assert f"model {name!r} is not of the form timm:NAME" in message_of(name)


def test_a_wrong_function_is_told_what_is_close(model_file):
    message = message_of(f"{model_file}:mak")
    assert "has no function 'mak'; did you mean make" in message


def test_a_name_that_is_no_function_is_refused(model_file):
    assert "has no function 'constant'" in message_of(f"{model_file}:constant")


def test_a_function_with_arguments_is_told_to_be_wrapped(model_file):
    message = message_of(f"{model_file}:make_sized")
    assert "cannot be called without arguments (missing a required argument: 'width')" in message
    assert "wrap it in a function" in message


def test_a_function_that_returns_no_model_is_refused(model_file):
    message = message_of(f"{model_file}:make_number")
    assert message.endswith("make_number returned a int, expected a torch.nn.Module")


def test_a_function_that_fails_is_quoted_in_one_paragraph(model_file):
    assert message_of(f"{model_file}:make_nothing").endswith("failed: RuntimeError: no memory")


def test_a_file_that_does_not_exist_is_named(tmp_path):
    assert message_of(f"{tmp_path}/none.py:make") == f"there is no file {tmp_path}/none.py"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("def make(:", "SyntaxError: invalid syntax"),
        ("import nonesuch_module", "No module named 'nonesuch_module'"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_broken_file_is_named_with_the_reason(tmp_path, content, reason):
    path = write(tmp_path, "broken.py", content)
    message = message_of(f"{path}:make")
    assert message.startswith(f"{path} cannot be run: ")
    assert reason in message


def test_a_module_that_does_not_exist_is_named():
    message = message_of("nonesuch.package:make")
    assert message.startswith("module 'nonesuch.package' cannot be imported")
    assert "path/to/file.py:function" in message


def test_a_module_that_fails_to_import_is_named(tmp_path, monkeypatch):
    write(tmp_path, "failing_models.py", "raise ValueError('half done')")
    monkeypatch.syspath_prepend(tmp_path)
    message = message_of("failing_models:make")
    assert "'failing_models' cannot be imported: ValueError: half done" in message


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_are_loaded(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    wanted = tiny_classifier(seed=3).state_dict()
    if suffix == ".pt":
        torch.save(wanted, path)
    else:
        safetensors.torch.save_file(wanted, path)
    found = load_model("networks:tiny_classifier", weights=path).state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_of_another_model_are_refused_with_what_differs(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    state = tiny_classifier().state_dict()
    last = list(state)[-1]
    shape = tuple(state[last].shape)
    state |= {"head.weight": torch.zeros(1), last: torch.zeros(5)}
    del state["0.weight"]
    (torch.save if suffix == ".pt" else safetensors.torch.save_file)(state, path)
    assert message_of("networks:tiny_classifier", weights=path) == (
        f"{path} is of another network: it lacks 0.weight; has unexpected head.weight; "
        f"has {last} (5,) instead of {shape}"
    )


def test_weights_that_would_run_code_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(tiny_classifier(), path)
    message = message_of("networks:tiny_classifier", weights=path)
    assert message == (
        f"{path} holds other things than tensors, or is damaged. Objects such as whole models are "
        "not read, since reading them can run any code. Expected a safetensors file, or a state "
        "dict saved by torch: torch.save(model.state_dict(), FILE)"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "holds a list. Expected a safetensors file, or a state dict saved by torch"),
        ({}, "holds a dict of nothing. Expected"),
        ({"epoch": 3}, "holds a dict of epoch. Expected"),
    ],
)
def test_a_file_of_something_else_says_what_it_holds(tmp_path, content, message):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    assert f"{path} {message}" in message_of("networks:tiny_classifier", weights=path)


def test_a_state_dict_inside_a_checkpoint_is_pointed_at(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"epoch": 3, "ema": tiny_classifier().state_dict(), "optimizer": {}}, path)
    assert message_of("networks:tiny_classifier", weights=path) == (
        f"{path} holds a dict of epoch, ema, optimizer. Expected a safetensors file, or a state "
        "dict saved by torch, such as what it holds as 'ema'"
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_that_are_not_finite_are_refused(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    state = tiny_classifier().state_dict()
    state["0.weight"].view(-1)[1] = torch.nan
    (torch.save if suffix == ".pt" else safetensors.torch.save_file)(state, path)
    message = message_of("networks:tiny_classifier", weights=path)
    assert message.startswith(f"{path} has values in '0.weight' that are not finite")


@pytest.mark.parametrize("name", ["none.pt", "none.safetensors"])
def test_missing_weights_are_named(tmp_path, name):
    message = message_of("networks:tiny_classifier", weights=tmp_path / name)
    assert message.startswith(f"{tmp_path / name} cannot be ")
    assert "No such file" in message


def test_pretrained_weights_are_for_libraries_only():
    assert "--pretrained is for timm:" in message_of("networks:tiny_classifier", pretrained=True)


def inspect_with(library, content, folder):
    """Run `inspect` where a library is another one."""
    write(folder, f"{library}.py", content)
    paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-m", "layermerge", "inspect", f"{library}:resnet18"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode != 0
    assert result.stdout == ""
    return result.stderr


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_missing_library_is_named_with_the_way_to_install_it(library, tmp_path):
    message = inspect_with(library, f"raise ModuleNotFoundError('{library}')", tmp_path)
    assert message == (
        f"layermerge inspect: error: {library} is not installed, and this needs it: "
        "pip install 'layermerge[models]'\n"
    )


def test_a_library_that_does_not_fit_torch_is_named(tmp_path):
    message = inspect_with("torchvision", "raise RuntimeError('no operator nms')", tmp_path)
    assert "torchvision is installed but cannot be imported: RuntimeError: no operator" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_library_makes_its_models_and_suggests_names(library):
    pytest.importorskip(library)
    assert sum(isinstance(m, nn.Conv2d) for m in load_model(f"{library}:resnet18").modules()) == 20
    message = message_of(f"{library}:resnet8")
    assert message.startswith(f"{library} has no model 'resnet8'; did you mean resnet18")


@pytest.mark.parametrize("source", ["def make():\n    exit(0)", "exit(0)"])
def test_a_file_that_exits_does_not_end_the_command(tmp_path, source):
    path = tmp_path / "exits.py"
    path.write_text(f"from sys import exit\n{source}\n")
    with pytest.raises(InputError, match="SystemExit"):
        load_model(f"{path}:make")
