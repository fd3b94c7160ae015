from __future__ import annotations

import json
import logging
import re
import sys

import pytest

from layermerge.cli import main
from layermerge.commands import task
from layermerge.datasets import Dataset
from layermerge.errors import InputError
from layermerge.exporting import load
from layermerge.finetuning import score_classification
from layermerge.merging import merge
from layermerge.models import call_by_name
from layermerge.plan import load_plan, original_plan
from layermerge.results import load_result
from layermerge.rewriting import rewrite
from layermerge.search_space import SearchSpace
from layermerge.tracing import trace
from layermerge.weight_ranges import weight_range
from networks import striped_images, tiny_classifier

FILE = """
from layermerge.datasets import Dataset
from networks import striped_images, tiny_classifier

def make():
    return tiny_classifier()

def make_with_five():
    return tiny_classifier(), striped_images(5)[0]

def stripes():
    train, validation, test = ([striped_images(64, seed)] for seed in range(3))
    return Dataset("stripes", train, validation, test, 3)

def empty():
    return Dataset("nothing", [], [], [], 3)

def number():
    return 7

def half():
    return tiny_classifier().half()
"""


def original(model):
    """A model and the plan that leaves it as it is."""
    return model, original_plan(trace(model, striped_images(1)[0]))


QUICK = ("--probe-steps=2", "--epochs=2", "--threads=1", "--max-seconds=1")


@pytest.mark.parametrize(
    ("data", "shape", "size"),
    [
        ("imagefolder:photos", (4, 3, 96, 96), 96),
        ("imagefolder:photos", None, 224),
        ("hf:photos#kind", (1, 3, 32, 32), 32),
    ],
)
def test_images_are_read_at_the_size_whose_latency_counts(monkeypatch, data, shape, size):
    seen = []
    for name in ("load_image_folder", "load_hub_dataset"):
        monkeypatch.setattr(
            f"layermerge.datasets.{name}", lambda path, **options: seen.append((path, options))
        )
    task._load_data(data, shape)
    ((path, options),) = seen
    assert path == "photos"
    assert options["size"] == size
    assert options.get("label") == ("kind" if "#" in data else None)


def test_images_that_are_not_square_are_for_data_of_ones_own():
    with pytest.raises(InputError, match="are read as square images, and the input is 1x3x32x64"):
        task._load_data("imagefolder:photos", (1, 3, 32, 64))


def test_latency_of_another_size_than_the_data_is_told(caplog):
    part = [striped_images(4)]
    stripes = Dataset("stripes", part, part, part, 3)
    assert task._example_shape(stripes, None, None) == (1, 1, 8, 8)
    assert task._example_shape(stripes, None, (5, 1, 8, 8)) == (5, 1, 8, 8)
    assert task._example_shape(stripes, (2, 1, 8, 8), None) == (2, 1, 8, 8)
    assert not caplog.records
    assert task._example_shape(stripes, (2, 1, 4, 4), None) == (2, 1, 4, 4)
    assert "on 2x1x4x4, and stripes holds images of 1x8x8, of which accuracies are" in caplog.text


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "stripes_model.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One folder for all runs, so that only the first has to measure."""
    return tmp_path_factory.mktemp("out")


def compress(file, out, *arguments):
    data = () if any(a.startswith("--data") for a in arguments) else (f"--data={file}:stripes",)
    return main(["compress", f"{file}:make", *data, f"--out={out}", *QUICK, *arguments])


def compress_json(capsys, file, out, *arguments):
    status = compress(file, out, *arguments, "--json")
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    return status, json.loads(output)


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        ("--speedup=1.05", lambda base_ns: base_ns / 1.05),
        ("--latency=95%", lambda base_ns: base_ns * 0.95),
        ("--latency-ms=200", lambda base_ns: 200e6),
    ],
)
def test_every_kind_of_budget_is_kept(capsys, file, out, budget, limit):
    status, found = compress_json(capsys, file, out, budget)
    assert status == 0
    assert found["feasible"] is True
    assert found["budget_ns"] == int(limit(found["base"]["latency_ns"]))
    assert found["compressed"]["predicted_ns"] <= limit(found["base"]["predicted_ns"])
    assert found["is_within_budget"] == (found["compressed"]["latency_ns"] <= found["budget_ns"])
    assert found["directory"] == str(out)


def test_json_is_the_result_that_is_saved(capsys, file, out):
    _, found = compress_json(capsys, file, out, "--latency=95%")
    result = load_result(out / "result.json")
    assert result.budget_ns == found["budget_ns"]
    assert result.speedup == found["speedup"]
    assert "batch 1, 1 thread" in result.environment
    assert result.base.weight_range == weight_range(merge(rewrite(*original(tiny_classifier()))))
    assert result.compressed.weight_range == weight_range(load(out, tiny_classifier()))
    assert result.provenance["budget"] == "95% of the original latency"


def test_the_saved_network_scores_what_was_reported(capsys, file, out):
    _, found = compress_json(capsys, file, out, "--latency=95%")
    merged = load(out, tiny_classifier())
    test = call_by_name(f"{file}:stripes").test
    assert score_classification(merged, test) == found["compressed"]["score"]
    assert score_classification(tiny_classifier(), test) == found["base"]["score"]


def test_the_plan_names_the_model_wherever_it_is_read_from(capsys, file, out, monkeypatch):
    monkeypatch.chdir(file.parent)
    data = f"--data={file}:stripes"
    assert main(["compress", f"{file.name}:make", data, f"--out={out}", *QUICK, "--speedup=1"]) == 0
    capsys.readouterr()
    assert load_plan(out / "plan.json").provenance["model"] == f"{file}:make"


def test_without_json_the_tables_and_the_folder_are_printed(capsys, file, out):
    assert compress(file, out, "--speedup=1.05") == 0
    output = capsys.readouterr().out
    for text in ("base and compressed", "accuracy", "latency, measured", "The plan: 3"):
        assert text in output
    assert f"Saved in {out}: plan.json, model.safetensors, report.html, result.json" in output
    for name in ("plan.json", "model.safetensors", "report.html", "result.json", "study.db"):
        assert (out / name).is_file()


def test_an_infeasible_budget_exits_with_3_and_the_least_latency(capsys, file, out):
    status = compress(file, out, "--speedup=1000", "--json")
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert (status, output.out.count("\n")) == (3, 1)
    assert found["feasible"] is False
    assert f"the fastest is predicted to take {found['least_latency_ms']} ms" in output.err
    assert "layermerge compress: error: no plan meets the budget" in output.err


def test_the_input_whose_latency_counts_can_be_another(capsys, file, tmp_path):
    _, found = compress_json(capsys, file, tmp_path, "--latency-ms=200", "--input=8x1x8x8")
    assert "batch 8," in found["environment"]


def test_the_input_of_a_model_that_comes_with_one_counts(capsys, file, tmp_path):
    command = ["compress", f"{file}:make_with_five", f"--data={file}:stripes", *QUICK]
    assert main([*command, f"--out={tmp_path}", "--latency-ms=200", "--json"]) == 0
    assert "batch 5," in json.loads(capsys.readouterr().out)["environment"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=mnist"], "--data must be digits, imagefolder:DIR, hf:PATH or FILE.py:"),
        (["--data={file}:number"], "returned a int, expected a layermerge.datasets.Dataset"),
        (["--data={file}:strips"], "has no function 'strips'; did you mean stripes"),
        (["--data={file}:empty"], "the validation part of nothing holds no images"),
        (["--data=imagefolder:nowhere"], "nowhere has no folder 'train'"),
        (["--device=tpu"], "device must be like 'cpu' or 'cuda:0'; got 'tpu'"),
        (["--input=1x3x8x8"], "Give another --input SHAPE"),
        (["--breaks=9"], "breaks names position 9; positions are 0..3"),
        (["--out={file}"], "cannot be made a folder"),
        (["--weights={file}"], "holds other things than tensors, or is damaged"),
    ],
)
def test_bad_input_exits_with_2_and_one_paragraph(capsys, file, tmp_path, arguments, message):
    arguments = [argument.format(file=file) for argument in arguments]
    status = compress(file, tmp_path, "--speedup=1.05", *arguments, "--json")
    output = capsys.readouterr()
    assert (status, output.out) == (2, "")
    errors = [line for line in output.err.splitlines() if "error" in line]
    assert output.err.splitlines()[-1:] == errors
    assert errors[0].startswith("layermerge compress: error: ")
    assert message in errors[0]


def test_weights_in_half_precision_are_refused(capsys, file, tmp_path):
    options = ("--speedup=1.05", f"--out={tmp_path}")
    assert main(["compress", f"{file}:half", f"--data={file}:stripes", *options]) == 2
    assert "float16, in which they cannot be fine-tuned: let the" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: MODEL, --data"),
        (["m:f", "--data=digits"], "one of the arguments --speedup --latency-ms --latency is"),
        (["m:f", "--data=digits", "--speedup=2", "--latency=60%"], "not allowed with argument"),
        (["m:f", "--data=digits", "--speedup=0"], "'0' is not a number greater than 0"),
        (["m:f", "--data=digits", "--latency=60"], "not a percentage such as 60%"),
        (["m:f", "--data=digits", "--latency=x%"], "'x' is not a number greater than 0"),
        (["m:f", "--data=digits", "--speedup=2", "--epochs=0"], "'0' is not a whole number of 1"),
    ],
)
def test_bad_usage_exits_with_2_and_the_usage(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(["compress", *arguments])
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("usage: layermerge compress")
    assert message in output.err


def test_a_dry_run_counts_and_does_nothing(file, tmp_path, capsys):
    out = tmp_path / "out"
    status, found = compress_json(capsys, file, out, "--speedup=1.5", "--dry-run")
    network = trace(tiny_classifier(), striped_images(64)[0][:1])
    space = SearchSpace().enumerate(network)
    assert status == 0
    assert not out.exists()
    assert (found["layers"], found["signatures"]) == (network.num_layers, len(space.signatures))
    assert found["replacements"] == sum(not c.is_original for c in space.candidates)
    assert found["probe_s"] == pytest.approx(2 * found["step_s"])
    assert not found["is_original_only"]
    assert found["ranking_s"] > 0
    assert compress(file, out, "--speedup=1.5", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert re.search(r"ranking before takes about .*, as long as \d+ of them \(--no-rank", printed)
    assert [line[0] for line in printed.splitlines()] == ["1", "2", "3", "4", "5"]
    assert f"{len(space.signatures)} distinct convolutions" in printed
    _, unranked = compress_json(capsys, file, out, "--speedup=1.5", "--dry-run", "--no-ranking")
    assert unranked["ranking_s"] == 0


def test_quiet_announces_nothing(file, out, caplog):
    assert compress(file, out, "--speedup=1.05", "--quiet") == 0
    assert all(record.levelno >= logging.WARNING for record in caplog.records)
    assert compress(file, out, "--speedup=1.05") == 0
    assert "trace:" in caplog.text


def test_the_final_fine_tune_compares_features_and_leaves_its_log(capsys, file, out):
    _, found = compress_json(capsys, file, out, "--speedup=1.05", "--feature-distillation=2")
    assert '"feature_distillation": 2.0' in json.loads(found["provenance"]["finetuner"])["final"]
    rows = (out / "finetune.csv").read_text().splitlines()
    assert rows[0] == "step,loss,learning_rate,seconds"
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2"]  # one batch, two epochs


def test_tensorboard_that_is_missing_is_told_before_anything_is_done(
    capsys, file, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert compress(file, tmp_path, "--speedup=1.05", "--tensorboard") == 1
    assert "pip install 'layermerge[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "study.db").exists()
