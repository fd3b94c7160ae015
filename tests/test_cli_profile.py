from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from layermerge.cli import main

MODEL = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from networks import ZOO, randomized

def make():
    return randomized(ZOO["basic"]())
"""
ANALYTIC = ("--backend=analytic", "--peak-tflops=0.01", "--bandwidth-gb-s=1", "--input=1x3x16x16")


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    return f"{tmp_path / 'model.py'}:make"


def test_a_profile_is_printed(model, capsys, tmp_path):
    plot = tmp_path / "fidelity.png"
    pytest.importorskip("matplotlib")
    assert main(["profile", model, *ANALYTIC, "--plans=3", f"--plot={plot}"]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "sharing saved",
        "Slowest candidates",
        "plan 3",
        "error of 3 plans",
        "calibra",
        "on roofline 0.01 TFLOP/s, 1 GB/s, analytic (1), fp32, batch 1, roofline",
    ):
        assert expected in printed
    assert plot.stat().st_size > 1000


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_measured(
    model, capsys, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command = ["profile", model, *ANALYTIC, f"--plot={tmp_path / 'f.png'}"]
    assert main([*command, f"--study={tmp_path / 'run.db'}"]) == 1
    assert "pip install 'layermerge[report]'" in capsys.readouterr().err
    assert not (tmp_path / "run.db").exists()


def test_a_profile_is_one_json_object(model, capsys):
    assert main(["profile", model, *ANALYTIC, "--plans=2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    effort = document["effort"]
    assert effort["num_saved"] == effort["num_entries"] - effort["num_units"] > 0
    assert len(document["fidelity"]["trials"]) == 3
    assert document["fidelity"]["rank_correlation"] > 0.99
    assert all(row["latency_ms"] > 0 for row in document["candidates"])


def test_a_study_is_continued(model, capsys, tmp_path):
    command = ["profile", model, *ANALYTIC, "--plans=0", "--json", f"--study={tmp_path / 'run.db'}"]
    known = []
    for _ in range(2):
        assert main(command) == 0
        known.append(json.loads(capsys.readouterr().out)["effort"]["num_known"])
    assert known[0] == 0 < known[1]


def test_a_table_travels(model, capsys, tmp_path):
    table, study = str(tmp_path / "T.csv"), f"--study={tmp_path / 'run.db'}"
    capsys.readouterr()
    assert main(["table", "export", model, f"{table}.xlsx", study, *ANALYTIC]) == 2
    assert f"{table}.xlsx must end in .csv or .parquet" in capsys.readouterr().err
    assert main(["table", "export", model, table, study, *ANALYTIC, "--json"]) == 0
    with Path(table).open() as file:
        assert json.loads(capsys.readouterr().out)["count"] == len(list(csv.DictReader(file)))
    other = f"--study={tmp_path / 'other.db'}"
    assert main(["table", "import", model, table, other, *ANALYTIC, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] > 0
    foreign = (*ANALYTIC[:-1], "--input=2x3x16x16")
    assert main(["table", "import", model, table, other, *foreign]) == 2
    assert "batch 1 against 2" in capsys.readouterr().err
    assert main(["table", "import", model, table, other, *foreign, "--allow-foreign-table"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend=analytic"], "needs --peak-tflops and --bandwidth-gb-s"),
        (["--peak-tflops=1", "--bandwidth-gb-s=1"], "with backend='analytic' and with no other"),
        (["--plot=plot.txt"], "cannot draw to plot.txt"),
        (["--plot=/nonesuch/plot.png"], "cannot write /nonesuch/plot.png: its folder"),
        (["--plot=plot.png", "--plans=0"], "--plot draws random plans: give --plans"),
        (["--study=/nonesuch/run.db"], "study /nonesuch/run.db: its folder does not exist"),
        (["--backend=tensorrt", "--device=cpu"], "'tensorrt' runs on a CUDA device only"),
        (["--target-rsd=5"], "target_rsd must be between 0 and 1, got 5.0"),
        (["--device=tpu"], "device must be like 'cpu' or 'cuda:0'; got 'tpu'"),
    ],
)
def test_what_does_not_fit_is_refused(model, capsys, options, message):
    assert main(["profile", model, "--input=1x3x16x16", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_plot_in_place_of_a_folder_is_refused_before_anything_is_measured(
    model, capsys, tmp_path
):
    pytest.importorskip("matplotlib")
    (tmp_path / "f.png").mkdir()
    command = ["profile", model, *ANALYTIC, f"--plot={tmp_path / 'f.png'}"]
    assert main([*command, f"--study={tmp_path / 'run.db'}"]) == 2
    assert "f.png: it is a folder, or may not be written to" in capsys.readouterr().err
    assert not (tmp_path / "run.db").exists()


def test_results_are_printed_even_if_the_plot_fails(model, capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")

    def fail(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("layermerge.latency.plot._image", fail)
    command = ["profile", model, *ANALYTIC, "--plans=3", f"--plot={tmp_path / 'f.png'}"]
    assert main(command) == 2
    captured = capsys.readouterr()
    assert "Predicted against measured" in captured.out
    assert "f.png: No space left on device" in captured.err


def test_a_table_is_not_written_where_it_cannot_be(model, capsys, tmp_path):
    study = tmp_path / "run.csv"
    export = ["table", "export", model]
    assert main([*export, str(study), f"--study={study}", *ANALYTIC]) == 2
    assert "run.csv is the study: name the table otherwise" in capsys.readouterr().err
    missing = tmp_path / "none" / "T.csv"
    assert main([*export, str(missing), f"--study={study}", *ANALYTIC]) == 2
    assert "name a file in a folder that exists" in capsys.readouterr().err
    assert not study.exists()  # nothing was measured


def test_what_cannot_be_merged_has_a_profile_without_plans(capsys, caplog, tmp_path):
    (tmp_path / "one.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 4, 1)).eval()\n"
    )
    assert main(["profile", f"{tmp_path / 'one.py'}:make", *ANALYTIC]) == 0
    assert "original network: parts" in capsys.readouterr().out
    assert "no layer of this network can be merged: there are no plans" in caplog.text
