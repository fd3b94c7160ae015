from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import callbacks
from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError, LayerMergeError
from layermerge.importance.estimation import estimate_importance
from layermerge.importance.estimators import ShortFineTune
from layermerge.importance.evaluation import Job
from layermerge.importance.executors import MAX_LOSSES, SERIAL
from layermerge.importance.processes import Processes, pickled
from layermerge.tracing import trace
from networks import tiny_classifier

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def traced():
    model = tiny_classifier()
    network = trace(model, torch.zeros(2, 1, 8, 8))
    return model, network, enumerate_candidates(network)


@pytest.fixture(scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def estimate(traced, **options):
    callables = {"score_fn": callbacks.score, "train_fn": callbacks.train}
    return estimate_importance(*traced, **{**callables, "progress": False, **options})


def replacements(traced):
    return [each for each in traced[2].candidates if not each.is_original]


def job_of(traced, train=callbacks.train, score=callbacks.score):
    return Job(traced[0], traced[1], ShortFineTune(score, train), 0, 1)


@pytest.mark.usefixtures("one_thread")
def test_processes_give_the_scores_of_one_process(traced, tmp_path):
    train = callbacks.Recording(tmp_path)
    scores = estimate(traced, train_fn=train, executor=Processes(2), seed=3)
    assert scores == estimate(traced, executor=SERIAL, seed=3)
    calls = [path.name.partition("-")[0] for path in tmp_path.iterdir()]
    assert len(calls) == len(replacements(traced))
    assert len(set(calls)) == 2
    assert str(os.getpid()) not in calls
    assert not any(_is_alive(int(pid)) for pid in calls)


def test_workers_leave_an_interrupt_to_the_driver(traced, tmp_path, capfd):
    train = callbacks.Interrupted(tmp_path)
    scores = estimate(traced, train_fn=train, executor=Processes(1))
    assert scores.failures == {}
    assert len({path.name.partition("-")[0] for path in tmp_path.iterdir()}) == 1
    assert "KeyboardInterrupt" not in capfd.readouterr().err


def test_a_callback_that_raises_an_interrupt_is_marked_with_that(traced):
    with Processes(1).open(job_of(traced, callbacks.interrupt)) as (run, _):
        ((_, score),) = run(replacements(traced)[:1])
    assert score.failure.endswith("the last by exit code 130")


@pytest.mark.usefixtures("one_thread")
def test_a_killed_worker_is_replaced_and_what_kills_every_worker_is_marked(traced, tmp_path):
    first, second, *_ = replacements(traced)
    train = callbacks.Killing(tmp_path, MAX_LOSSES + 1)
    with Processes(1).open(job_of(traced, train)) as (run, _):
        scores = dict(run([first, second]))
    assert len(list(tmp_path.iterdir())) == MAX_LOSSES + 1
    failure = scores[first].failure
    assert (
        f"{MAX_LOSSES} workers were lost while they evaluated it: the last by signal 9" in failure
    )
    assert scores[second].score == job_of(traced).run(second).score


def test_a_killed_driver_leaves_no_worker_behind(tmp_path):
    script = (
        "import sys, pathlib, callbacks, test_executors as t, torch\n"
        "from layermerge.importance.processes import Processes\n"
        "if __name__ == '__main__':\n"
        "    model = t.tiny_classifier()\n"
        "    network = t.trace(model, torch.zeros(2, 1, 8, 8))\n"
        "    traced = (model, network, t.enumerate_candidates(network))\n"
        "    train = callbacks.Recording(pathlib.Path(sys.argv[1]), 1.0)\n"
        "    t.estimate(traced, train_fn=train, executor=Processes(1))\n"
    )
    path = tmp_path / "driver.py"
    path.write_text(script)
    folder = tmp_path / "calls"
    folder.mkdir()
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    driver = subprocess.Popen([sys.executable, str(path), str(folder)], env=environment)
    while not list(folder.iterdir()):
        assert driver.poll() is None
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    worker = int(next(folder.iterdir()).name.partition("-")[0])
    deadline = time.monotonic() + 20
    while _is_alive(worker):
        assert time.monotonic() < deadline, "the worker outlived its driver"
        time.sleep(0.1)


def _is_alive(pid):
    """Whether a process runs: one that nobody has waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("part", "value", "name"),
    [
        ("train_fn", lambda module: None, "train_fn"),
        ("score_fn", threading.Lock().__enter__, "score_fn"),
    ],
)
def test_a_callback_that_cannot_be_sent_is_named(traced, part, value, name):
    job = job_of(traced)
    job = replace(job, estimator=replace(job.estimator, **{part: value}))
    with pytest.raises(
        InputError, match=rf"^{name} \(.*cannot be sent to another process"
    ) as error:
        pickled(job)
    assert "at the top level of a module" in str(error.value)


def test_callbacks_that_a_worker_cannot_load_are_an_error_that_says_why(traced):
    with pytest.raises(LayerMergeError, match=r"could not load the model .*no module named 'mine'"):
        estimate(traced, score_fn=callbacks.NeedsTheDriver(), executor=_Unscored(Processes(1)))


class _Unscored:
    """Skips the score of the original network, which the driver computes."""

    def __init__(self, executor):
        self.executor = executor

    def open(self, job):
        object.__setattr__(job, "base", lambda: 0.0)
        return self.executor.open(replace(job))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers must be a finite number of at least 0, got -1"),
        ({"workers": 1.5}, "workers must be an integer, got 1.5"),
        ({"workers": 10**9}, "workers must be at most 1024, got 1000000000"),
        ({"workers": "2"}, "workers must be a finite number of at least 0, got '2'"),
        ({"devices": "cuda:0"}, r"devices must be a tuple, such as .*, got 'cuda:0'"),
        ({"devices": ("gpu",)}, "device must be like 'cpu' or 'cuda:0'; got 'gpu'"),
        ({"devices": ("cuda:99",)}, "device 'cuda:99' was asked for, and this machine has"),
    ],
)
def test_processes_that_cannot_be_are_refused_at_once(options, message):
    with pytest.raises(InputError, match=message):
        Processes(**options)


def test_a_script_without_a_guard_is_told_so(tmp_path):
    """Each worker imports the script, which would start the search again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import torch, callbacks\n"
        "from layermerge import enumerate_candidates, estimate_importance, trace\n"
        "from layermerge.importance.processes import Processes\n"
        "from networks import tiny_classifier\n"
        "model = tiny_classifier()\n"
        "network = trace(model, torch.zeros(2, 1, 8, 8))\n"
        "space = enumerate_candidates(network)\n"
        "estimate_importance(model, network, space, score_fn=callbacks.score, train_fn=None,\n"
        "    executor=Processes(2), progress=False, study='run.db')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    assert "a worker process failed before it began" in done.stderr
    assert done.stderr.rstrip().endswith("must stand under `if __name__ == '__main__':`")
    with sqlite3.connect(tmp_path / "run.db") as study:
        (failures,) = study.execute(
            "SELECT COUNT(*) FROM scores WHERE failure IS NOT NULL"
        ).fetchone()
    assert failures == 0
