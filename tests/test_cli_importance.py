from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from layermerge.cli import main
from layermerge.plan import load_plan
from layermerge.store import Study

FILE = """
from layermerge.datasets import Dataset
from networks import striped_images, tiny_classifier

def make():
    return tiny_classifier()

def stripes():
    train, validation, test = ([striped_images(64, seed)] for seed in range(3))
    return Dataset("stripes", train, validation, test, 3)
"""
BUDGETS = ("--latency", "95%", "90%")
# Long enough fine-tunes to be killed within.
SETTINGS = ("--probe-steps=20", "--threads=1", "--max-seconds=1", "--full")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "striped_task.py"
    path.write_text(FILE)
    return path


def arguments(file, study, *more):
    data = f"--data={file}:stripes"
    return ["importance", f"{file}:make", data, *BUDGETS, f"--study={study}", *SETTINGS, *more]


def scores(study):
    """Rows of a study, time stamps included; none while there is no study yet."""
    if not study.exists():
        return set()
    with closing(sqlite3.connect(f"file:{study}?mode=ro", uri=True, timeout=30)) as connection:
        try:
            return set(connection.execute("SELECT * FROM scores"))
        except sqlite3.OperationalError:
            return set()


@pytest.fixture(scope="module")
def killed(file, tmp_path_factory):
    """A search that was killed and finished by the same command: study, scores before, output."""
    folder = tmp_path_factory.mktemp("search")
    study = folder / "run.db"
    command = [sys.executable, "-m", "layermerge", *arguments(file, study, f"--out={folder}")]
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 90
            while len(scores(study)) < 3:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline, "the search has no scores yet"
                time.sleep(0.01)
        finally:
            os.kill(process.pid, signal.SIGKILL)
    before = scores(study)
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return study, before, finished.stdout


def test_a_killed_search_loses_nothing(killed, file, capsys):
    study, before, _ = killed
    after = scores(study)
    assert before < after
    assert main(arguments(file, study)) == 0
    assert scores(study) == after
    # The original network, and every candidate: nothing is there twice.
    candidates = [row[2] for row in after]
    assert len(candidates) == len(set(candidates))


def test_the_seed_is_recorded_with_every_score(killed):
    for row in scores(killed[0]):
        assert json.loads(row[3])["seed"] == 0


def test_the_status_of_a_study_says_what_the_search_found(killed, capsys):
    study, _, printed = killed
    assert main(["importance", f"--study={study}"]) == 0
    shown = capsys.readouterr().out
    assert shown == printed
    assert shown.startswith("done after ")
    assert "entries evaluated" in shown
    assert shown.count("the best plan takes") == 2
    # Which of the two it is depends on whether plans competed, and so on measured latencies.
    assert shown.count("predicted score") + shown.count(" as a whole (sum of changes:") == 2


def test_the_status_is_one_json_object_when_asked(killed, capsys):
    assert main(["importance", f"--study={killed[0]}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["is_done"] is True
    assert found["evaluated"] == found["total"] > 0
    assert found["eta_s"] == 0
    assert found["estimator"]["seed"] == 0
    recipe = found["estimator"]["estimator"]["estimator"]
    assert recipe["dataset"] == "stripes"
    assert recipe["probe"]["steps"] == 20
    for plan in found["plans"]:
        assert plan["latency_ns"] <= plan["budget_ns"]
        assert plan["value"] == pytest.approx(plan["bound"])
    assert found["plans"][0]["budget_ns"] > found["plans"][1]["budget_ns"]


def test_each_plan_is_written(killed):
    study = killed[0]
    plans = [load_plan(study.parent / f"plan-{part}.json") for part in (95, 90)]
    assert plans[0].budget_ns > plans[1].budget_ns
    for plan in plans:
        assert plan.latency_ns <= plan.budget_ns


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--study=nowhere.db"], "--study nowhere.db does not exist"),
        (["--study={study}-empty"], "run.db-empty is empty: name the file of a search"),
        (["--study={study}"], "holds no search yet"),
        (["{file}:make", "--study={study}"], "a search needs --data to train and score on"),
        (["{file}:make", "--data=digits", "--study={study}"], "a search needs at least one budget"),
        (
            ["{file}:make", "--study={study}", "--executor=ray", "--ray-address=127.0.0.1:1"],
            "--data",
        ),
    ],
)
def test_bad_input_exits_with_2(capsys, file, tmp_path, more, message):
    study = tmp_path / "run.db"
    Study(study).close()
    (tmp_path / "run.db-empty").touch()
    assert main(["importance", *(each.format(study=study, file=file) for each in more)]) == 2
    assert message in capsys.readouterr().err


def test_budgets_without_a_model_are_refused(killed, capsys):
    assert main(["importance", f"--study={killed[0]}", "--latency", "50%"]) == 2
    assert "are for a search, which needs a MODEL" in capsys.readouterr().err
