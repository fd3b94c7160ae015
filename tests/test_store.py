from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from layermerge.errors import InputError
from layermerge.store import Measurement, Score, ScoreKey, Study, opened

MEASUREMENT = Measurement(1200, 0.01, 40, 5e-5)
KEY = ScoreKey("network", "weights", "0-2:3x3:1,2", "estimator")

WRITER = """
import sys
from layermerge.store import Measurement, Study
with Study(sys.argv[1]) as study:
    for number in range(int(sys.argv[3])):
        study.add_measurements("cpu", {f"{sys.argv[2]}-{number}": Measurement(number, 0.0, 1, 0.0)})
        print(number, flush=True)
"""


def start_writer(path, name, count):
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_is_added_is_found_when_the_file_is_opened_again(tmp_path):
    with Study(tmp_path / "run.db") as study:
        study.add_measurements("cpu", {"conv": MEASUREMENT})
        study.add_score(KEY, Score(0.9, None, 2.0))
    with Study(tmp_path / "run.db") as study:
        assert study.measurements("cpu") == {"conv": MEASUREMENT}
        assert study.score(KEY) == Score(0.9, None, 2.0)


def test_each_environment_has_measurements_of_its_own():
    with Study() as study:
        study.add_measurements("cpu", {"conv": MEASUREMENT})
        assert study.measurements("cuda") == {}


@pytest.mark.parametrize("part", ["network", "weights", "candidate", "estimator"])
def test_a_score_is_found_only_under_its_whole_key(part):
    with Study() as study:
        study.add_score(KEY, Score(0.9, None, 2.0))
        assert study.score(ScoreKey(**{**vars(KEY), part: "another"})) is None


def test_a_newer_result_replaces_an_older_one():
    with Study() as study:
        study.add_measurements("cpu", {"conv": MEASUREMENT})
        study.add_measurements("cpu", {"conv": Measurement(7, 0.0, 1, 0.0)})
        study.add_score(KEY, Score(None, "diverged", 1.0))
        study.add_score(KEY, Score(0.5, None, 1.0))
        assert study.measurements("cpu")["conv"].median_ns == 7
        assert study.score(KEY) == Score(0.5, None, 1.0)


def test_a_failure_keeps_its_reason_and_has_no_value():
    with Study() as study:
        study.add_score(KEY, Score(None, "ValueError: diverged", 1.0))
        found = study.score(KEY)
    assert found is not None
    assert found.failure == "ValueError: diverged"
    assert found.value != found.value


def test_a_study_without_a_path_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Study() as study:
        study.add_measurements("cpu", {"conv": MEASUREMENT})
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_loses_nothing_that_it_committed(tmp_path):
    writer = start_writer(tmp_path / "run.db", "killed", 10**6)
    assert writer.stdout is not None
    reported = [int(writer.stdout.readline()) for _ in range(50)]
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    with Study(tmp_path / "run.db") as study:
        found = study.measurements("cpu")
    assert {f"killed-{number}" for number in reported} <= found.keys()
    assert sorted(m.median_ns for m in found.values()) == list(range(len(found)))


def test_several_processes_write_to_one_study(tmp_path):
    writers = [start_writer(tmp_path / "run.db", name, 40) for name in "abc"]
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    with Study(tmp_path / "run.db") as study:
        assert study.measurements("cpu").keys() == {f"{n}-{i}" for n in "abc" for i in range(40)}


def test_an_open_study_is_used_and_stays_open():
    with Study() as study:
        with opened(study) as same:
            same.add_measurements("cpu", {"conv": MEASUREMENT})
        assert study.measurements("cpu") == {"conv": MEASUREMENT}


def test_a_path_is_opened_and_closed(tmp_path):
    with opened(tmp_path / "run.db") as study:
        study.add_measurements("cpu", {"conv": MEASUREMENT})
    with pytest.raises(InputError, match="was closed"):
        study.measurements("cpu")


def test_a_text_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("to do: buy bread\n" * 100)
    with pytest.raises(InputError, match=r"notes\.txt is not a study, or is damaged"):
        Study(path)
    assert path.read_text() == "to do: buy bread\n" * 100


def test_another_sqlite_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "music.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="not a LayerMerge study"):
        Study(path)
    assert path.read_bytes() == before


def test_a_file_of_a_newer_release_is_refused(tmp_path):
    Study(tmp_path / "run.db").close()
    connection = sqlite3.connect(tmp_path / "run.db")
    connection.execute("UPDATE meta SET value = '99'")
    connection.commit()
    connection.close()
    with pytest.raises(InputError, match=r"schema version 99.*install the release"):
        Study(tmp_path / "run.db")


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "run.db"
    with Study(path) as study:
        for number in range(300):
            study.add_measurements("cpu", {f"conv-{number}": MEASUREMENT})
    content = bytearray(path.read_bytes())
    content[4096 * 3 :] = b"\xff" * (len(content) - 4096 * 3)
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        Study(path)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE measurements SET median_ns = 'soon'", "median_ns must be whole numbers"),
        ("UPDATE measurements SET median_ns = -5", "has Measurement\\(median_ns=-5"),
        ("UPDATE measurements SET spread = -0.1", "has Measurement\\(.*spread=-0.1"),
        ("UPDATE measurements SET spread = 9e999", "has Measurement\\(.*spread=inf"),
        ("UPDATE measurements SET repeats = -1", "has Measurement\\(.*repeats=-1"),
        ("UPDATE measurements SET subject = x'ff'", "is not text"),
        ("UPDATE scores SET score = 'good'", "score must be numbers or null, got 'good'"),
        ("UPDATE artefacts SET content = 7", "7 is not a sequence of bytes"),
    ],
)
def test_values_of_another_type_are_damage(tmp_path, statement, message):
    path = tmp_path / "run.db"
    with Study(path) as study:
        study.add_measurements("cpu", {"conv": MEASUREMENT})
        study.add_score(KEY, Score(0.9, None, 2.0))
        study.add_artefact("key", b"content")
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    with Study(path) as study:

        def read():
            return study.measurements("cpu"), study.score(KEY), study.artefact("key")

        with pytest.raises(InputError, match=rf"run\.db is damaged: .*{message}"):
            read()


def test_a_table_that_is_missing_is_damage(tmp_path):
    with Study(tmp_path / "run.db") as study:
        study._execute("DROP TABLE scores")
        with pytest.raises(InputError, match=r"damaged: no such table: scores; name another"):
            study.score(KEY)


def test_failures_beside_a_candidate_can_be_forgotten(tmp_path):
    others = [replace(KEY, **{name: "other"}) for name in ("network", "weights", "estimator")]
    beside = replace(KEY, candidate="other")
    with Study(tmp_path / "run.db") as study:
        for key in (KEY, *others):
            study.add_score(key, Score(None, "out of luck", 1.0))
        study.add_score(beside, Score(0.5, None, 1.0))
        study.remove_failures(beside)
        assert study.score(KEY) is None
        assert study.score(beside) == Score(0.5, None, 1.0)
        assert all(study.score(key) for key in others)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match="its folder does not exist"):
        Study(tmp_path / "missing" / "run.db")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write")
def test_a_folder_that_cannot_be_written_is_explained():
    with pytest.raises(InputError, match="check that its folder is writable"):
        Study("/proc/run.db")


def test_a_folder_in_place_of_the_file_is_explained(tmp_path):
    with pytest.raises(InputError, match="cannot be read and written"):
        Study(tmp_path)


def test_a_study_that_another_program_locks_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr("layermerge.store.BUSY_SECONDS", 0.05)
    with Study(tmp_path / "run.db") as study:
        other = sqlite3.connect(tmp_path / "run.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(InputError, match="no other program holds the file"):
            study.add_measurements("cpu", {"conv": MEASUREMENT})
        other.execute("ROLLBACK")
        other.close()
        study.add_measurements("cpu", {"conv": MEASUREMENT})
        assert study.measurements("cpu") == {"conv": MEASUREMENT}


@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_study_that_another_process_is_making_is_waited_for(tmp_path, lock):
    other = sqlite3.connect(tmp_path / "run.db", isolation_level=None, check_same_thread=False)
    other.execute(f"BEGIN {lock}")
    release = threading.Timer(0.2, other.execute, ["COMMIT"])
    release.start()
    with Study(tmp_path / "run.db") as study:
        study.add_measurements("cpu", {"conv": MEASUREMENT})
    release.join()
    other.close()


def test_a_new_file_that_another_program_keeps_locked_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr("layermerge.store.BUSY_SECONDS", 0.05)
    other = sqlite3.connect(tmp_path / "run.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(InputError, match="no other program holds the file"):
        Study(tmp_path / "run.db")
    other.close()


@pytest.mark.parametrize("damage", ["DELETE FROM meta", "UPDATE meta SET value = 'x'"])
def test_a_study_without_a_readable_version_is_damaged(tmp_path, damage):
    path = tmp_path / "run.db"
    Study(path).close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(damage)
    connection.close()
    with pytest.raises(InputError, match=r"damaged.*schema version.*delete it"):
        Study(path)


@pytest.mark.parametrize("path", [3, b"run.db", ["run.db"]])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(InputError, match="study must be a Study or the path of one, got"):
        Study(path)


def test_a_study_is_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Study("run.db") as study:
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        study.add_artefact("key", b"content")
        assert study.artefact("key") == b"content"


def test_a_study_that_is_deleted_while_in_use_is_told(tmp_path):
    path = tmp_path / "run.db"
    with Study(path) as study:
        path.unlink()
        with pytest.raises(InputError, match="was deleted while in use"):
            study.add_measurements("cpu", {"a": Measurement(1, 0.0, 1, 0.0)})
