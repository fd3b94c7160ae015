from __future__ import annotations

import csv
import json

import pytest
import torch

from layermerge.cli import main
from layermerge.enumeration import enumerate_candidates
from layermerge.tracing import trace
from networks import images, tiny_classifier, zoo

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
    by_name = inspect_json(capsys, MODEL, *INPUT, "--frozen", "1,3.conv1")
    assert by_name == inspect_json(capsys, MODEL, *INPUT, "--frozen", "1,2")


SEVERAL = """
import torch
from torch import nn
class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
    def forward(self, a, b):
        return self.conv(a) + self.conv(b)
def alone():
    return Pair()
def half():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)).half()
"""


def test_a_model_with_several_inputs_is_told_how_to_give_them(capsys, tmp_path):
    path = tmp_path / "several.py"
    path.write_text(SEVERAL)
    status, _, err = inspect(capsys, f"{path}:alone")
    assert status == 2
    assert "missing 1 required positional argument: 'b'" in err
    assert "Where forward takes several inputs" in err
    assert "name a function that returns the model with its example inputs" in err


def test_a_model_in_half_precision_gets_an_image_in_half_precision(capsys, tmp_path):
    path = tmp_path / "several.py"
    path.write_text(SEVERAL)
    assert inspect_json(capsys, f"{path}:half", "--input", "1x3x8x8")["layers"] == 2


def test_a_shape_that_does_not_fit_a_library_model_is_told_what_it_is_made_for(capsys):
    pytest.importorskip("timm")
    status, _, err = inspect(capsys, "timm:test_resnet", "--input", "1x1x64x64")
    assert status == 2
    assert "Give another --input SHAPE (timm:test_resnet is made for 3x160x160)" in err


INVERTED = """
from networks import images, zoo
def make():
    return zoo("inverted"), images(2, 3, 16, 16)
"""
GATED = """
import torch
from torch import nn
class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
    def forward(self, x):
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))
def make():
    convs = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)]
    norm = nn.GroupNorm(2, 4)
    return nn.Sequential(convs[0], Gate(), convs[1], norm, convs[2]), torch.zeros(1, 4, 9, 9)
"""


def written(tmp_path, text):
    path = tmp_path / "model.py"
    path.write_text(text)
    return f"{path}:make"


def table_of(capsys, path, *arguments):
    """The entries that `--entries-csv` writes, and what `--json` says."""
    found = inspect_json(capsys, *arguments, "--entries-csv", str(path))
    with path.open(newline="") as file:
        rows = [
            {k: int(v) if v.isdigit() else v for k, v in r.items()} for r in csv.DictReader(file)
        ]
    assert len(rows) == found["entries"]
    return rows, found


def test_entries_are_written_in_the_columns_of_the_authors(capsys, tmp_path):
    path = tmp_path / "entries.csv"
    rows, _ = table_of(capsys, path, written(tmp_path, INVERTED), "--max-kernel", "5")
    assert path.read_text().splitlines()[0] == "st,end,ker,str,is_dw,in_ch,out_ch,in_hw"
    network = trace(zoo("inverted"), images(2, 3, 16, 16))
    space = enumerate_candidates(network, max_kernel=5, max_flops_ratio=2.0)
    assert [(row["st"], row["end"], row["ker"]) for row in rows] == [
        (c.start, c.end, c.kernel_size[0]) for c in space.candidates
    ]
    stem, wide = rows[0], next(row for row in rows if (row["st"], row["end"]) == (2, 3))
    assert list(stem.values()) == [0, 1, 3, 2, "False", 3, 8, 16]
    assert list(wide.values()) == [2, 3, 3, 1, "True", 16, 16, 8]


def test_an_entry_without_a_convolution_has_kernel_0(capsys, tmp_path):
    model, path = written(tmp_path, INVERTED), tmp_path / "entries.csv"
    rows, _ = table_of(capsys, path, model)
    assert {(row["st"], row["end"]) for row in rows if not row["ker"]} == {(1, 4), (4, 7), (1, 7)}
    rows, _ = table_of(capsys, path, model, "--keep-branches")
    assert all(row["ker"] for row in rows)


def test_restrictions_reach_the_written_entries(capsys, tmp_path):
    model, path = written(tmp_path, INVERTED), tmp_path / "entries.csv"
    rows, _ = table_of(capsys, path, model)
    everything, found = table_of(capsys, path, model, "--max-flops-ratio", "0")
    assert len(everything) > len(rows)
    assert found["skipped"] == {}
    strict, found = table_of(capsys, path, model, "--max-flops-ratio", "0.5")
    assert found["skipped"] == {"more than 0.5 times the FLOPs": len(everything) - len(strict)}
    short, _ = table_of(capsys, path, model, "--max-segment", "2")
    assert short == [row for row in rows if row["end"] - row["st"] <= 2]
    broken, _ = table_of(capsys, path, model, "--breaks", "0,4,7")
    assert broken == [row for row in rows if not row["st"] < 4 < row["end"]]
    assert len(broken) < len(rows)


def test_an_activation_at_the_boundary_makes_signatures_equal(capsys, tmp_path):
    """Of two 5x5 convolutions only the second has an activation, unless the first is given one."""
    model = written(
        tmp_path,
        "import torch\nfrom torch import nn\n"
        "def make():\n"
        "    a, b, c, d = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))\n"
        "    relu = nn.ReLU()\n"
        "    return nn.Sequential(a, relu, b, c, relu, d, relu), torch.zeros(1, 4, 9, 9)\n",
    )
    arguments = (model, "--breaks", "2", "--max-flops-ratio", "0")
    plain, before = table_of(capsys, tmp_path / "entries.csv", *arguments)
    rows, after = table_of(capsys, tmp_path / "entries.csv", *arguments, "--boundary-activation")
    assert rows == plain
    assert after["signatures"] == before["signatures"] - 1


def test_what_may_be_removed_decides_what_merges(capsys, tmp_path):
    model = written(tmp_path, GATED)
    counts = {
        words: inspect_json(capsys, model, "--remove", words)["mergeable_segments"]
        for words in ("activation", "gate", "norm", "gate, norm", "activation,gate,norm")
    }
    assert counts == {
        "activation": 0,
        "gate": 1,
        "norm": 1,
        "gate, norm": 3,
        "activation,gate,norm": 3,
    }
    status, out, _ = inspect(capsys, model)
    assert status == 0
    assert "--remove gate would let segments contain" in " ".join(out.split())
    assert "--remove norm would let segments contain: GroupNorm (1)" in " ".join(out.split())


NO_LAYERS = """
import torch
from torch import nn
def make():
    convs = [nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect") for _ in range(5)]
    return nn.Sequential(*convs), torch.zeros(1, 4, 9, 9)
"""


def test_a_model_without_layers_is_told_why_and_is_no_error(capsys, tmp_path):
    model = written(tmp_path, NO_LAYERS)
    status, out, err = inspect(capsys, model)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "Sequential has no 2-D convolution that can be changed; padding_mode=reflect at 0; "
        "padding_mode=reflect at 1; padding_mode=reflect at 2; and 2 more.",
        "Nothing can merge in this model.",
    ]
    found = inspect_json(capsys, model)
    assert (found["layers"], found["segments"], found["entries"]) == (0, 0, 0)
    assert out.startswith(found["reason"])
    status, out, err = inspect(capsys, model, "--entries-csv", str(tmp_path / "entries.csv"))
    assert (status, out) == (1, "")
    assert "padding_mode=reflect at 0" in err
    assert not (tmp_path / "entries.csv").exists()


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
        (
            [MODEL, *INPUT, "--frozen", "1,3.conv"],
            "frozen names '3.conv', which holds no layer of Sequential; did you mean 3.conv",
        ),
        (["networks:tiny_classifer"], "did you mean tiny_classifier"),
        (["resnet18"], "is not of the form timm:NAME"),
        ([MODEL, "--weights", "none.pt"], "none.pt cannot be read: FileNotFoundError"),
        ([MODEL, "--pretrained"], "--pretrained is for timm:"),
        ([MODEL, *INPUT, "--breaks", "2,9"], "breaks names position 9; positions are 0..3"),
        ([MODEL, *INPUT, "--breaks", "-1"], "breaks names position -1; positions are 0..3"),
        (
            [MODEL, *INPUT, "--remove", "activation,gates"],
            "remove must name what may be removed, of activation, gate, norm; got 'gates'",
        ),
        ([MODEL, *INPUT, "--space", "paper"], "the paper has no search space for Sequential"),
        (
            [MODEL, *INPUT, "--entries-csv", "no/such/folder/entries.csv"],
            "no/such/folder/entries.csv cannot be written: No such file or directory",
        ),
        ([MODEL, *INPUT, "--entries-csv", "."], ". cannot be written: Is a directory"),
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
        ([MODEL, "--breaks", "1.5"], "argument --breaks: '1.5' is not a list of whole numbers"),
        ([MODEL, "--max-segment", "0"], "argument --max-segment: '0' is not a whole number of 1"),
        ([MODEL, "--max-flops-ratio", "-1"], "--max-flops-ratio: '-1' is not a number of at least"),
        ([MODEL, "--max-flops-ratio", "nan"], "--max-flops-ratio: 'nan' is not a number of at"),
        ([MODEL, "--max-flops-ratio", "x"], "--max-flops-ratio: 'x' is not a number of at least 0"),
        ([MODEL, "--space", "theirs"], "argument --space: invalid choice: 'theirs'"),
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
