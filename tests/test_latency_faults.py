"""Real faults while latency is measured: nothing is lost, and no wrong row is written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError, MeasurementError
from layermerge.importance.scores import ImportanceScores
from layermerge.latency import eager
from layermerge.latency.bench import SENTINEL
from layermerge.latency.measuring import measure_latency
from layermerge.latency.options import LatencyOptions
from layermerge.latency.rotation import MIN_REPEATS
from layermerge.latency.units import subject_of
from layermerge.planning import make_plan
from layermerge.store import Measurement, Study
from layermerge.tracing import trace
from networks import tiny_classifier

IMAGE = torch.zeros(2, 1, 8, 8)
OPTIONS = LatencyOptions(threads=1, target_rsd=0.5, max_seconds=0.5)

MEASURER = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from networks import tiny_classifier
from layermerge import LatencyOptions, Study, enumerate_candidates, measure_latency, trace
model, image = tiny_classifier(), torch.zeros(2, 1, 8, 8)
network = trace(model, image)
options = LatencyOptions(threads=1, target_rsd=float(sys.argv[3]), max_seconds=4)
with Study(sys.argv[1]) as study:
    keep, keep_begun = study.add_measurements, study.add_artefact
    def announced(environment, final):
        keep(environment, final)
        print("kept", len(final), flush=True)
    def announced_begun(key, timings):
        keep_begun(key, timings)
        print("begun", key, flush=True)
    study.add_measurements, study.add_artefact = announced, announced_begun
    profile = measure_latency(model, network, enumerate_candidates(network), example_inputs=image,
                              options=options, study=study)
print("known", profile.effort.num_known, "of", profile.effort.num_units, flush=True)
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def traced():
    model = tiny_classifier()
    network = trace(model, IMAGE)
    return model, network, enumerate_candidates(network)


def measure(traced, **changed):
    return measure_latency(*traced, example_inputs=IMAGE, options=OPTIONS, **changed)


def start_measuring(study, target_rsd, begin=""):
    command = [sys.executable, "-c", begin + MEASURER, str(study), str(Path(__file__).parent)]
    return subprocess.Popen([*command, str(target_rsd)], stdout=subprocess.PIPE, text=True)


def is_merged(module):
    convolution = getattr(module, "convolution", None)
    return isinstance(convolution, nn.Conv2d) and convolution.kernel_size == (5, 5)


@pytest.fixture
def no_room_for_5x5(monkeypatch):
    """A device without memory for merged 5x5 convolutions: while preparing, or while running."""

    def install(*, when):
        prepare = eager.Eager.prepare

        def refuse(*inputs):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

        def failing(self, module, inputs):
            if is_merged(module):
                return refuse() if when == "prepare" else refuse
            return prepare(self, module, inputs)

        monkeypatch.setattr(eager.Eager, "prepare", failing)

    return install


@pytest.mark.parametrize("when", ["prepare", "run"])
def test_a_candidate_without_memory_is_infeasible_and_the_run_goes_on(
    traced, no_room_for_5x5, when
):
    no_room_for_5x5(when=when)
    profile = measure(traced)
    lost = {c for c in traced[2].candidates if c.signature.kernel_size == (5, 5)}
    assert {c for c in traced[2].candidates if not profile.is_feasible(c)} == lost != set()
    for candidate in lost:
        assert "OutOfMemoryError: CUDA out of memory" in profile.failures[candidate.signature]
        with pytest.raises(InputError, match="has no latency: OutOfMemoryError"):
            profile.of(candidate)
    assert lost <= profile.unprofitable()


def test_no_plan_uses_a_candidate_that_does_not_run(traced, no_room_for_5x5):
    no_room_for_5x5(when="run")
    profile = measure(traced)
    lost = {(c.start, c.end, c.kept) for c in traced[2].candidates if not profile.is_feasible(c)}
    # whatever does not run would be chosen if it could
    raw = {c.key: 1.0 if (c.start, c.end, c.kept) in lost else 0.0 for c in traced[2].candidates}
    plan = make_plan(profile, ImportanceScores(0.0, raw, {}, frozenset()), 10**12)
    assert not lost & {(s.start, s.end, s.kept) for s in plan.segments}


def test_an_infeasible_candidate_is_tried_again_by_the_next_run(
    traced, no_room_for_5x5, monkeypatch, tmp_path
):
    no_room_for_5x5(when="run")
    first = measure(traced, study=tmp_path / "run.db")
    monkeypatch.undo()
    second = measure(traced, study=tmp_path / "run.db")
    assert first.failures
    assert not second.failures
    assert second.effort.num_known == first.effort.num_units


def test_a_layer_of_the_original_that_does_not_run_is_named(traced, monkeypatch):
    prepare = eager.Eager.prepare

    def failing(self, module, inputs):
        if isinstance(getattr(module, "convolution", None), nn.Conv2d):
            raise RuntimeError("no kernel image is available")
        return prepare(self, module, inputs)

    monkeypatch.setattr(eager.Eager, "prepare", failing)
    with pytest.raises(MeasurementError, match=r"layer 1 \(0\) cannot be measured.*no kernel"):
        measure(traced)


def test_a_killed_measurement_loses_nothing_and_goes_on(tmp_path, traced):
    study = tmp_path / "run.db"
    process = start_measuring(study, target_rsd=0.03)
    assert process.stdout is not None
    kept = 0
    for line in process.stdout:
        kept += int(line.split()[1]) if line.startswith("kept") else 0
        if kept:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with Study(study) as opened:
        ((environment,),) = set(opened._execute("SELECT DISTINCT environment FROM measurements"))
        before = opened.measurements(environment)
    assert len(before) >= kept
    profile = measure(traced, study=study)
    with Study(study) as opened:
        after = opened.measurements(environment)
    assert {subject: after[subject] for subject in before} == before
    assert profile.effort.num_known == len(before) - 1  # all but the sentinel
    assert len(after) == profile.effort.num_units + 1


def test_timings_of_units_that_are_not_final_survive_a_kill(tmp_path, traced):
    study = tmp_path / "run.db"
    at_once = "from layermerge.latency import unfinished; unfinished.EVERY_SECONDS = 0.0\n"
    process = start_measuring(study, target_rsd=1e-9, begin=at_once)
    assert process.stdout is not None
    begun = [process.stdout.readline() for _ in range(20)]
    process.kill()
    process.communicate()
    key = begun[-1].removeprefix("begun ").strip()
    environment = key.removeprefix("unfinished timings ")
    with Study(study) as opened:
        assert set(opened.measurements(environment)) == {SENTINEL}  # nothing is final
        timings = json.loads(opened.artefact(key))
    assert min(map(len, timings.values())) > MIN_REPEATS
    profile = measure(traced, study=study)
    repeats = {subject_of(s): m.repeats for s, m in profile.convolutions.items()}
    assert all(repeats[name] >= len(found) for name, found in timings.items() if name in repeats)
    with Study(study) as opened:
        assert opened.artefact(key) is None


def test_unfinished_timings_that_are_none_are_damage(tmp_path, traced):
    profile = measure(traced)
    environment = profile.environment.fingerprint
    for content in (b"", b"[1]", b'{"conv": [-1]}', b'{"conv": ["1"]}', b'{"conv": 3}', b"\xff"):
        with Study(tmp_path / "run.db") as study:
            study.add_artefact(f"unfinished timings {environment}", content)
            with pytest.raises(InputError, match=r"run\.db is damaged: it does not hold the tim"):
                measure(traced, study=study)


def test_two_processes_measure_into_one_study_and_nothing_twice(tmp_path):
    study = tmp_path / "run.db"
    processes = [start_measuring(study, target_rsd=0.5) for _ in range(2)]
    known = []
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert output.endswith("done\n")
        known.append([*map(int, re.findall(r"known (\d+) of (\d+)", output)[0])])
    (first, num_units), (second, _) = sorted(known)
    assert (first, second) == (0, num_units)
    with Study(study) as opened:
        rows = opened._execute("SELECT environment, subject, median_ns, repeats FROM measurements")
    assert len({environment for environment, *_ in rows}) == 1
    assert len({subject for _, subject, *_ in rows}) == len(rows) > 5
    assert all(median_ns > 0 and repeats > 0 for *_, median_ns, repeats in rows)


def test_the_first_sentinel_of_a_study_stays(tmp_path):
    first, second = Measurement(100, 0.0, 1, 0.0), Measurement(200, 0.0, 1, 0.0)
    with Study(tmp_path / "run.db") as one, Study(tmp_path / "run.db") as other:
        assert one.first_measurement("cpu", "sentinel", first) == first
        assert other.first_measurement("cpu", "sentinel", second) == first


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"cannot mount a small disk: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_explained_and_keeps_what_was_written(small_disk):
    written = 0
    with Study(small_disk / "run.db") as study:
        with pytest.raises(InputError, match=r"cannot be read and written: .*has space"):  # noqa: PT012
            for written in range(10_000):
                row = {f"conv-{written:04d}" + "x" * 500: Measurement(written, 0.0, 1, 0.0)}
                study.add_measurements("cpu", row)
        assert len(study.measurements("cpu")) == written > 0
    with Study(small_disk / "run.db") as study:
        found = study.measurements("cpu")
    assert sorted(m.median_ns for m in found.values()) == list(range(written))


def test_a_damaged_study_is_refused_before_anything_is_measured(traced, tmp_path, monkeypatch):
    path = tmp_path / "run.db"
    measure(traced, study=path)
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    monkeypatch.setattr(eager.Eager, "prepare", lambda *_: pytest.fail("measured"))
    with pytest.raises(InputError, match="damaged"):
        measure(traced, study=path)


def test_a_wall_clock_that_jumps_changes_no_latency(traced, monkeypatch, tmp_path):
    times = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    profile = measure(traced, study=tmp_path / "run.db")
    with Study(tmp_path / "run.db") as study:
        found = study.measurements(profile.environment.fingerprint)
    assert set(profile.convolutions.values()) <= set(found.values())
    assert all(m.median_ns > 0 for m in profile.convolutions.values())
