from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import pytest
import torch

from layermerge.datasets import Dataset, load_digits
from layermerge.demo import BASE_FILE, STUDY_FILE, DigitsNet, train_base
from layermerge.exporting import load
from layermerge.finetuning import FinetuneSettings, score_classification
from layermerge.plan import load_plan
from layermerge.recipes import LOG_FILE
from layermerge.results import load_result
from layermerge.tracing import trace

MAX_SECONDS = 90


def demo_command(folder):
    arguments = ["demo", "--fast", "--speedup", "1.3", "--out", str(folder), "--json"]
    return [sys.executable, "-m", "layermerge", *arguments]


def rows(folder, table):
    """Rows of the study, time stamps included; none while there is no study yet."""
    study = folder / STUDY_FILE
    if not study.exists():
        return set()
    with closing(sqlite3.connect(f"file:{study}?mode=ro", uri=True, timeout=30)) as connection:
        try:
            return set(connection.execute(f"SELECT * FROM {table}"))
        except sqlite3.OperationalError:
            return set()


def kill_within_importance(folder):
    """Start the demo, and kill it when the original and one candidate have their scores."""
    with subprocess.Popen(demo_command(folder), stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + MAX_SECONDS
            while len(rows(folder, "scores")) < 2:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline, "the demo has no scores yet"
                time.sleep(0.05)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo that was killed and started again: its folder, what it printed, what was there."""
    folder = tmp_path_factory.mktemp("demo")
    kill_within_importance(folder)
    before = {table: rows(folder, table) for table in ("measurements", "scores")}
    trained = (folder / BASE_FILE).stat().st_mtime_ns
    finished = subprocess.run(
        demo_command(folder), capture_output=True, text=True, check=False, timeout=240
    )
    assert finished.returncode == 0, finished.stderr
    assert (folder / BASE_FILE).stat().st_mtime_ns == trained
    return folder, finished, before


@pytest.mark.slow
def test_nothing_that_was_measured_before_a_kill_is_measured_again(demo):
    folder, finished, before = demo
    for table in ("measurements", "scores"):
        assert before[table]
        assert before[table] <= rows(folder, table)
    # What is new is the plans that were tried, each beside the base.
    added = rows(folder, "measurements") - before["measurements"]
    assert added
    wholes = [json.loads(subject)["whole"] for _, subject, *_ in added]
    assert all(re.match("(base beside )?plan ", whole) for whole in wholes)
    result = json.loads(finished.stdout)
    # The original network, and every candidate that was tried; the others were ranked only.
    scored = 1 + result["num_scored"] + result["num_failed"]
    fine_tuned = [row[2] for row in rows(folder, "scores") if "closed form" not in row[3]]
    # Whole plans have scores, too, where several were the best at something.
    candidates = [key for key in fine_tuned if not key.startswith("plan &")]
    assert scored == len(candidates) < result["num_candidates"] - 21


@pytest.mark.slow
def test_the_demo_prints_one_json_object_and_nothing_else(demo):
    _, finished, _ = demo
    assert finished.stdout.count("\n") == 1
    result = json.loads(finished.stdout)
    assert result["feasible"] is True
    assert result["score_name"] == "accuracy"
    assert result["speedup"] == result["base"]["latency_ns"] / result["compressed"]["latency_ns"]
    assert result["is_within_budget"] == (result["compressed"]["latency_ns"] <= result["budget_ns"])


@pytest.mark.slow
def test_the_demo_says_what_it_does_on_standard_error(demo):
    _, finished, _ = demo
    for stage in ("trace", "latency", "importance", "plan", "finetune", "merge", "evaluate"):
        assert re.search(rf"^{stage}: \d+\.\d s$", finished.stderr, re.MULTILINE)


@pytest.mark.slow
def test_the_demo_makes_the_network_faster_and_keeps_its_accuracy(demo):
    result = json.loads(demo[1].stdout)
    base, compressed = result["base"], result["compressed"]
    assert result["speedup"] > 1.1
    assert base["layers"] == 21 > compressed["layers"]
    assert base["score"] > 0.5
    assert compressed["score"] > base["score"] - 0.1
    assert result["float64_error"] < 1e-12
    assert result["merge_error"] < 1e-5


@pytest.mark.slow
def test_the_demo_leaves_plan_weights_report_result_and_study(demo):
    folder, finished, _ = demo
    names = {"plan.json", "model.safetensors", "report.html", "result.json"}
    names |= {STUDY_FILE, BASE_FILE, LOG_FILE}
    assert names == {path.name for path in folder.iterdir() if "-" not in path.name}
    printed = json.loads(finished.stdout)
    saved = json.loads((folder / "result.json").read_text())
    assert {key: printed[key] for key in saved if key in printed} == {
        key: value for key, value in saved.items() if not key.startswith("schema")
    }
    result = load_result(folder / "result.json")
    plan = load_plan(folder / "plan.json")
    assert result.compressed.layers == sum(bool(segment.kept) for segment in plan.segments)
    assert result.compressed.predicted_ns == plan.latency_ns <= plan.budget_ns


@pytest.mark.slow
def test_the_report_needs_nothing_but_itself(demo):
    page = (demo[0] / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)|<script|@import|url\(""", page)
    assert "blocks.0.conv1" in page


@pytest.mark.slow
def test_the_artefact_loads_into_the_class_and_scores_the_same(demo):
    folder, finished, _ = demo
    merged = load(folder, DigitsNet().eval())
    score = score_classification(merged, load_digits().test)
    # One image of 1800 may fall the other way with another number of threads.
    assert score == pytest.approx(json.loads(finished.stdout)["compressed"]["score"], abs=6e-4)


def test_the_network_has_the_convolutions_it_says():
    network = trace(DigitsNet().eval(), torch.zeros(2, 1, 32, 32))
    assert network.num_layers == 21
    assert max(segment.end - segment.start for segment in network.segments) == 21


@pytest.fixture
def tiny_data():
    images = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = (images, torch.arange(8))
    return Dataset("tiny", [batch], [batch], [batch], 10)


SETTINGS = FinetuneSettings(steps=2)


def trained(folder, dataset, settings=SETTINGS):
    return train_base(folder, dataset, settings, progress=False).state_dict()


def are_equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_base_is_trained_once_for_the_same_settings(tmp_path, tiny_data):
    first = trained(tmp_path, tiny_data)
    written = (tmp_path / BASE_FILE).stat().st_mtime_ns
    assert are_equal(trained(tmp_path, tiny_data), first)
    assert (tmp_path / BASE_FILE).stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == [BASE_FILE]


@pytest.mark.parametrize("changed", [{"seed": 1}, {"learning_rate": 2e-3}])
def test_the_base_is_trained_anew_for_other_settings(tmp_path, tiny_data, changed):
    first = trained(tmp_path, tiny_data)
    assert not are_equal(trained(tmp_path, tiny_data, replace(SETTINGS, **changed)), first)
    assert are_equal(trained(tmp_path, tiny_data), first)


def test_a_damaged_base_is_trained_anew(tmp_path, tiny_data):
    first = trained(tmp_path, tiny_data)
    path = tmp_path / BASE_FILE
    path.write_bytes(path.read_bytes()[:1000])
    assert are_equal(trained(tmp_path, tiny_data), first)


def test_training_the_base_is_announced(tmp_path, caplog):
    caplog.set_level("INFO", "layermerge")
    train_base(tmp_path, load_digits(), FinetuneSettings(steps=1), progress=False)
    assert "training the base" in caplog.text
