from __future__ import annotations

import csv
import sys
from dataclasses import replace
from typing import ClassVar

import pytest

from killing import ALWAYS, train_until
from layermerge import training_log
from layermerge.checkpoints import Checkpoint
from layermerge.errors import InputError, MissingDependencyError
from layermerge.finetuning import FinetuneSettings, finetune
from layermerge.recipes import classification
from layermerge.training_log import Step, logging_to
from networks import striped_images, tiny_classifier

DATA = striped_images(64)
SETTINGS = FinetuneSettings(epochs=3, batch_size=16, learning_rate=1e-2)
STEPS = 12


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_time(rows):
    return [{name: row[name] for name in ("step", "loss", "learning_rate")} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The log of a training that was not interrupted, and its losses."""
    path = tmp_path_factory.mktemp("whole") / "log.csv"
    losses = finetune(tiny_classifier(), DATA, SETTINGS, log=path)
    return read(path), losses


def test_each_step_is_logged(whole):
    rows, losses = whole
    assert list(rows[0]) == ["step", "loss", "learning_rate", "seconds"]
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    assert [float(row["loss"]) for row in rows] == pytest.approx(losses, rel=1e-5)
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)


def test_the_learning_rate_is_that_of_the_step(tmp_path):
    path = tmp_path / "log.csv"
    finetune(tiny_classifier(), DATA, replace(SETTINGS, warm_up=0.25), log=path)
    rates = [float(row["learning_rate"]) for row in read(path)]
    # Three steps of a linear rise to the peak, then half a cosine.
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] > 0


def test_a_log_of_another_training_is_replaced(tmp_path, whole):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,2\n")
    finetune(tiny_classifier(), DATA, SETTINGS, log=path)
    assert without_time(read(path)) == without_time(whole[0])


@pytest.mark.parametrize("written", [3, 7])
def test_a_resumed_training_logs_each_step_once(tmp_path, monkeypatch, whole, written):
    """The last state on disk is behind the log: rows after it are of steps taken again."""
    monkeypatch.setattr(
        Checkpoint, "is_due", property(lambda checkpoint: len(read(path)) <= written)
    )
    path, checkpoint = tmp_path / "log.csv", tmp_path / "training.ckpt"
    train_until(9, tiny_classifier(), checkpoint, SETTINGS, DATA, log=path)
    before = read(path)
    assert len(before) == 9
    finetune(tiny_classifier(), DATA, SETTINGS, checkpoint=checkpoint, log=path)
    assert without_time(read(path)) == without_time(whole[0])
    assert read(path)[:written] == before[:written]
    seconds = [float(row["seconds"]) for row in read(path)]
    assert seconds == sorted(seconds)


def test_a_log_that_begins_with_a_restart_has_all_steps(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(Checkpoint, "is_due", ALWAYS)
    path, checkpoint = tmp_path / "log.csv", tmp_path / "training.ckpt"
    train_until(5, tiny_classifier(), checkpoint, SETTINGS, DATA)
    finetune(tiny_classifier(), DATA, SETTINGS, checkpoint=checkpoint, log=path)
    assert without_time(read(path)) == without_time(whole[0])


@pytest.mark.parametrize("name", ["", "none/log.csv"])
def test_a_log_where_none_can_be_written_says_so(tmp_path, name):
    with pytest.raises(InputError, match=r"log .* cannot be written: .*Name a file"):
        finetune(tiny_classifier(), DATA, SETTINGS, log=tmp_path / name)


def test_tensorboard_that_is_not_installed_is_named_before_anything_is_trained(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"'layermerge\[tensorboard\]'"):
        finetune(tiny_classifier(), DATA, SETTINGS, tensorboard=tmp_path)
    with pytest.raises(MissingDependencyError, match=r"'layermerge\[tensorboard\]'"):
        classification(tiny_classifier(), None, probe=SETTINGS, final=SETTINGS, tensorboard=True)


class Writer:
    """Takes what torch's writer takes, and keeps it."""

    made: ClassVar[list[Writer]] = []

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars, self.is_open = folder, purge_step, [], True
        Writer.made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def close(self):
        self.is_open = False


def test_events_are_those_of_the_csv_file(tmp_path, monkeypatch):
    monkeypatch.setattr(training_log, "tensorboard_writer", lambda: Writer)
    steps = [Step(1, 2.0, 0.1, 0.5), Step(2, 1.0, 0.05, 1.0)]
    with logging_to(tmp_path / "log.csv", tmp_path / "events", steps[:1]) as record:
        record(steps[1])
    (writer,) = Writer.made
    assert (writer.folder, writer.purge_step, writer.is_open) == (
        str(tmp_path / "events"),
        1,
        False,
    )
    assert writer.scalars == [
        (name, float(row[name]), int(row["step"]))
        for row in read(tmp_path / "log.csv")
        for name in ("loss", "learning_rate", "seconds")
    ]


@pytest.mark.filterwarnings("default")  # TensorBoard warns of its own doings
def test_tensorboard_shows_each_step_of_a_resumed_training_once(tmp_path, monkeypatch, whole):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    monkeypatch.setattr(Checkpoint, "is_due", ALWAYS)
    checkpoint = tmp_path / "training.ckpt"
    train_until(7, tiny_classifier(), checkpoint, SETTINGS, DATA, tensorboard=tmp_path / "board")
    finetune(
        tiny_classifier(), DATA, SETTINGS, checkpoint=checkpoint, tensorboard=tmp_path / "board"
    )
    shown = events.EventAccumulator(str(tmp_path / "board")).Reload()
    losses = shown.Scalars("loss")
    assert [event.step for event in losses] == list(range(1, STEPS + 1))
    assert [event.value for event in losses] == pytest.approx(whole[1], rel=1e-6)
