from __future__ import annotations

import json

import pytest
import torch

from layermerge.cli import main
from layermerge.demo import DigitsNet
from layermerge.exporting import load, save
from layermerge.merging import merge
from layermerge.models import DEMO_MODEL
from layermerge.rewriting import rewrite
from layermerge.tracing import trace
from networks import images, randomized, relative_error
from test_exporting import deepest_plan
from test_interchange import need_onnx, run


@pytest.fixture(scope="module")
def merged():
    model = randomized(DigitsNet(width=8)).eval()
    return merge(rewrite(model, deepest_plan(trace(model, images(2, 1, 32, 32)))))


@pytest.fixture
def folder(tmp_path, merged):
    """What `demo` leaves of the network."""
    save(merged, tmp_path / "run", model_name=DEMO_MODEL)
    return tmp_path / "run"


def export(*arguments):
    return main(["export", *map(str, arguments)])


def failure(capsys, *arguments):
    """The one line of an error, and the exit status."""
    status = export(*arguments)
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return status, line


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_a_run_is_exported_into_its_folder(capsys, folder, merged, form):
    if form == "onnx":
        need_onnx()
    assert export(folder, "--to", form, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    path = folder / f"model.{form}"
    assert found["files"] == [str(path)]
    assert found["format"] == form
    assert found["bytes"] == path.stat().st_size
    assert found["is_batch_dynamic"] is True
    assert found["inputs"] == {"x": ["batch", 1, 32, 32]}
    assert found["error"] < 1e-4
    value = images(3, 1, 32, 32)
    with torch.no_grad():
        assert relative_error(run(path, value)[0], merged(value)) < 1e-4


def test_without_json_what_was_checked_is_said(capsys, folder, tmp_path):
    assert export(folder, "--to=pt2", f"--out={tmp_path / 'faster.pt2'}") == 0
    output = capsys.readouterr().out
    assert f"Wrote {tmp_path / 'faster.pt2'}: " in output
    assert "input x batchx1x32x32" in output
    assert "at batch size 2, 1, 3: the outputs differ by at most 0.0e+00" in output


def test_weights_are_written_into_another_folder(capsys, folder, merged, tmp_path):
    out = tmp_path / "elsewhere"
    assert export(folder, "--to=safetensors", f"--out={out}", "--json") == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files == [str(out / "plan.json"), str(out / "model.safetensors")]
    value = images(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(load(out)(value), merged(value))


def test_weights_need_a_folder_to_go_to(capsys, folder):
    status, line = failure(capsys, folder, "--to=safetensors")
    assert status == 2
    assert "name another folder to write it to, --out" in line


def test_where_the_run_names_no_model_it_is_asked_for(capsys, merged, tmp_path):
    save(merged, tmp_path)
    status, line = failure(capsys, tmp_path, "--to=pt2")
    assert status == 2
    assert "does not say which model it was made of" in line
    assert "--model FILE.py:FUNCTION" in line
    assert export(tmp_path, "--to=pt2", f"--model={DEMO_MODEL}") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/none", "--to=pt2"], "there is no folder"),
        (["{folder}/..", "--to=pt2"], "plan.json cannot be read as a plan"),
        (["{folder}", "--to=onnx", "--out=x.txt"], "--out x.txt must end in .onnx"),
        (["{folder}", "--to=safetensors", "--out={folder}"], "is a folder with files in it"),
        (["{folder}", "--to=pt2", "--model=networks:tiny_classifier"], "does not take"),
        (["{folder}", "--to=pt2", "--model=timm"], "is not of the form"),
        (
            ["{folder}", "--to=pt2", "--out={folder}/none/x.pt2"],
            "name a file in a folder that exists",
        ),
    ],
)
def test_bad_input_exits_with_2_and_one_line(capsys, folder, arguments, message):
    status, line = failure(capsys, *(argument.format(folder=folder) for argument in arguments))
    assert status == 2
    assert line.startswith("layermerge export: error: ")
    assert message in line


def test_a_run_that_has_not_finished_says_so(capsys, tmp_path):
    (tmp_path / "study.db").touch()
    status, line = failure(capsys, tmp_path, "--to=pt2")
    assert status == 2
    assert f"the run in {tmp_path} has not finished: give its compress or demo command" in line


def test_outputs_that_differ_exit_with_1(capsys, folder, monkeypatch):
    monkeypatch.setattr("layermerge.interchange.relative_difference", lambda *_: 0.5)
    status, line = failure(capsys, folder, "--to=pt2", "--tolerance=0.1")
    assert status == 1
    assert "expected at most 1e-01. It was not written. Allow more, or none" in line
    assert not (folder / "model.pt2").exists()
