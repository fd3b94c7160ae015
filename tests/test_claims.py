from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from layermerge.claims import Claims
from layermerge.errors import InputError

HERE = Path(__file__).parent
HOLD = """
import sys, time
from layermerge.claims import Claims
claims = Claims(sys.argv[1])
print(claims.take("a"), flush=True)
time.sleep(600)
"""
SEARCH = """
import json, pathlib, sys
import torch
import callbacks
from layermerge.enumeration import enumerate_candidates
from layermerge.importance.search import find_plans
from layermerge.importance.search_options import SearchOptions
from layermerge.planning import predict_original_ns
from layermerge.tracing import trace
from networks import tiny_classifier
from test_planning import profile_of

study, calls, is_full = sys.argv[1:]
torch.set_num_threads(1)
model = tiny_classifier()
profile = profile_of(enumerate_candidates(trace(model, torch.zeros(2, 1, 8, 8))), seed=1)
print("ready", flush=True)
sys.stdin.readline()
found = find_plans(
    model,
    profile,
    [int(part * predict_original_ns(profile)) for part in (0.9, 0.8, 0.7)],
    score_fn=callbacks.score,
    train_fn=callbacks.Recording(pathlib.Path(calls), 0.3),
    options=SearchOptions(full=is_full == "full", per_round=1),
    study=study,
    progress=False,
)
values = [plan.importance for plan in found.plans]
print(json.dumps([values, sorted(found.scores.raw.items())]), flush=True)
"""


def start(script, *arguments):
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def start_searches(study, calls, kind):
    """Two searches on one study that are let go at the same time."""
    processes = [start(SEARCH, study, calls, kind) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return processes


def scored(study):
    """Candidates and whole plans with a score, the original network left out."""
    with closing(sqlite3.connect(study)) as connection:
        rows = connection.execute("SELECT candidate FROM scores WHERE candidate != 'original'")
        return [key for (key,) in rows]


@pytest.mark.parametrize("kind", ["lazy", "full"])
def test_two_searches_at_once_share_the_work_and_evaluate_nothing_twice(tmp_path, kind):
    study, calls = tmp_path / "run.db", tmp_path / "calls"
    calls.mkdir()
    processes = start_searches(study, calls, kind)
    found = [json.loads(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert found[0][0] == pytest.approx(found[1][0])
    pids = [int(path.name.partition("-")[0]) for path in calls.iterdir()]
    assert len(pids) == len(scored(study)) > 2
    if kind == "full":
        assert set(pids) == {process.pid for process in processes}
        assert found[0] == found[1]


def test_what_a_killed_search_was_at_is_taken_over(tmp_path):
    study, calls = tmp_path / "run.db", tmp_path / "calls"
    calls.mkdir()
    first, second = start_searches(study, calls, "full")
    while not any(path.name.startswith(f"{first.pid}-") for path in calls.iterdir()):
        assert first.poll() is None
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    printed, _ = second.communicate()
    first.communicate()
    assert second.returncode == 0
    candidates = [key for key in scored(study) if not key.startswith("plan &")]
    assert [key for key, _ in json.loads(printed)[1]] == sorted(candidates)
    # What the killed one was at, and nothing else, was begun twice.
    assert len(list(calls.iterdir())) == len(scored(study)) + 1


def test_a_claim_excludes_other_processes_until_its_own_ends(tmp_path):
    study = str(tmp_path / "run.db")
    with closing(Claims(study)) as claims, start(HOLD, study) as holder:
        assert holder.stdout.readline() == "True\n"
        assert not claims.take("a")
        assert claims.take("b")
        holder.kill()
        holder.wait()
        assert claims.take("a")
        claims.release("a")
        with start(HOLD, study) as again:
            assert again.stdout.readline() == "True\n"
            again.kill()


def test_a_study_has_one_file_of_claims_under_all_of_its_names(tmp_path):
    (tmp_path / "study.db").touch()
    (tmp_path / "link.db").symlink_to(tmp_path / "study.db")
    claims = Claims(str(tmp_path / "link.db"))
    assert claims.take("work")
    claims.close()
    assert (tmp_path / "study.db-claims").exists()
    assert not (tmp_path / "link.db-claims").exists()


def test_a_study_in_memory_is_shared_with_nobody(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with closing(Claims(":memory:")) as claims:
        assert claims.take("a")
        claims.release("a")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InputError, match=r"run.db-claims cannot be written: No such file"):
        Claims(str(tmp_path / "missing" / "run.db")).take("a")


def test_who_holds_a_claim_is_waited_for(tmp_path, caplog):
    study = str(tmp_path / "run.db")
    with closing(Claims(study)) as claims, start(HOLD, study) as holder:
        assert holder.stdout.readline() == "True\n"
        threading.Timer(0.5, holder.kill).start()
        with caplog.at_level(logging.INFO), claims.held("a", "waiting for the other"):
            assert holder.wait() != 0
            with start(HOLD, study) as other:
                assert other.stdout.readline() == "False\n"
                other.kill()
    assert "waiting for the other" in caplog.text
