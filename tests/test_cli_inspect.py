from __future__ import annotations

import json

import pytest
import torch

from layermerge.cli import main
from layermerge.enumeration import enumerate_candidates
from layermerge.tracing import trace
from networks import tiny_classifier

MODEL = "networks:tiny_classifier"
INPUT = ("--input", "1x1x8x8")


def inspect(capsys, *arguments):
    status = main(["inspect", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def inspect_json(capsys, *arguments):
    status, out, err = inspect(capsys, *arguments, "--json")
    assert (status, out.count("\n"), err) == (0, 1, "")
    return json.loads(out)


def test_json_describes_the_network_and_its_search_space(capsys):
    network = trace(tiny_classifier(), torch.zeros(1, 1, 8, 8))
    space = enumerate_candidates(network)
    found = inspect_json(capsys, MODEL, *INPUT)
    assert found["fingerprint"] == network.fingerprint
    assert found["layers"] == len(found["layer_list"]) == 3
    assert found["segments"] == len(network.segments)
    assert found["entries"] == len(space.candidates)
    assert found["signatures"] == len(space.signatures)
    assert [layer["name"] for layer in found["layer_list"]] == ["0", "3.conv1", "3.conv2"]
    assert found["layer_list"][0]["irreducible"] is True
    assert found["layer_list"][1]["output_size"] == [8, 8]
    assert [b["kind"] for b in found["barriers"]] == ["MaxPool2d", "Flatten", "Linear"]


def test_restrictions_reach_the_search_space(capsys):
    whole = inspect_json(capsys, MODEL, *INPUT)
    for options in (["--max-kernel", "3"], ["--frozen", "2"], ["--method", "depth"]):
        assert inspect_json(capsys, MODEL, *INPUT, *options)["entries"] < whole["entries"]
    assert inspect_json(capsys, MODEL, *INPUT, "--breaks", "1,2")["mergeable_segments"] == 0


def test_the_table_shows_layers_what_can_merge_and_fixed_parts(capsys):
    status, out, err = inspect(capsys, MODEL, *INPUT)
    assert (status, err) == (0, "")
    for text in ("3.conv1", "3x3 removable", "4x8x8", "relu", "3 layers"):
        assert text in out
    assert "MaxPool2d (1)" in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_table_says_what_stops_a_merge(capsys, tmp_path):
    path = tmp_path / "pooled.py"
    path.write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3))\n"
    )
    status, out, _ = inspect(capsys, f"{path}:make", "--input", "1x1x16x16")
    assert status == 0
    assert "Nothing merges across position 1" in out
    assert "nothing can merge in this model" in out


def test_a_file_and_its_weights_are_inspected(capsys, tmp_path):
    weights = tmp_path / "weights.pt"
    torch.save(tiny_classifier(seed=2).state_dict(), weights)
    found = inspect_json(capsys, MODEL, *INPUT, "--weights", str(weights))
    assert found["layers"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([MODEL], "does not run on the example inputs (input (1, 3, 224, 224)"),
        ([MODEL, *INPUT, "--frozen", "7"], "frozen names layer 7; layers are 1..3"),
        (["networks:tiny_classifer"], "did you mean tiny_classifier"),
        (["resnet18"], "is not of the form timm:NAME"),
        ([MODEL, "--weights", "none.pt"], "none.pt cannot be loaded into Sequential"),
        ([MODEL, "--pretrained"], "--pretrained is for timm:"),
    ],
)
def test_bad_input_exits_with_2_and_one_paragraph(capsys, arguments, message):
    status, out, err = inspect(capsys, *arguments, "--json")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("layermerge inspect: error: ")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: MODEL"),
        ([MODEL, "--input", "3x224x224"], "'3x224x224' is not a shape: expected BATCHxCHANNELS"),
        ([MODEL, "--input", "1x3x0x8"], "is not a shape"),
        ([MODEL, "--method", "all"], "invalid choice: 'all'"),
        ([MODEL, "--max-kernel", "0"], "'0' is not a whole number of 1 or more"),
        ([MODEL, "--breaks", "a,b"], "'a,b' is not a list of whole numbers, such as 0,7,15"),
    ],
)
def test_bad_usage_exits_with_2_and_the_usage(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(["inspect", *arguments])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: layermerge inspect")
    assert message in err


@pytest.mark.parametrize("command", ["inspect", "compress", "demo", "solve"])
def test_help_explains_every_option(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    usage, options = out.split("options:")
    assert f"usage: layermerge {command}" in usage
    for option in set(usage.replace("[", " ").replace("]", " ").split()):
        if option.startswith("--"):
            assert option in options
    assert "==SUPPRESS==" not in out
    assert "None" not in out
