"""The study: one SQLite file that keeps measurements, scores and weights as they arrive.

A study is in write-ahead-log mode and every result is a transaction of its own, so that a killed
run loses at most the result that it was working on, and several processes may write at once.
"""

from __future__ import annotations

import math
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from layermerge.claims import Claims
from layermerge.errors import InputError, shown
from layermerge.milliseconds import MAX_NS
from layermerge.schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION
from layermerge.typed import check_types

T = TypeVar("T")

BUSY_SECONDS = 60.0
MEMORY = ":memory:"


@dataclass(frozen=True)
class Measurement:
    """A latency.

    Attributes
    ----------
    median_ns : int
        Median over the repeats.
    spread : float
        Half-width of the 95 % confidence interval of the median, relative to the median.
    repeats : int
        Number of timings behind it.
    seconds : float
        Time spent in those timings.
    """

    median_ns: int
    spread: float
    repeats: int
    seconds: float

    @property
    def is_possible(self) -> bool:
        """Whether the values can be those of a latency, in whole nanoseconds below 2^63."""
        return (
            all(0 <= value <= MAX_NS for value in vars(self).values())
            and self.median_ns * (1 + self.spread) <= MAX_NS
        )


@dataclass(frozen=True)
class ScoreKey:
    """What a score belongs to: a candidate, and fingerprints of all that decides its score."""

    network: str
    weights: str
    candidate: str
    estimator: str


@dataclass(frozen=True)
class Score:
    """The outcome of one evaluation: a raw score, or the reason why there is none."""

    score: float | None
    failure: str | None
    seconds: float

    @property
    def value(self) -> float:
        """The raw score, or NaN if the evaluation failed."""
        return math.nan if self.score is None else self.score


class Study:
    """Measurements, scores and artefacts in one crash-safe file.

    Parameters
    ----------
    path : path-like, optional
        The file; made when it does not exist. Without it the study lives in memory and ends with
        the process.

    Attributes
    ----------
    path : str
    claims : Claims
        What this process does, so that others need not.

    Raises
    ------
    InputError
        If the file is not a study, is damaged, was written by a newer release, or cannot be
        written.

    Examples
    --------
    >>> with Study() as study:
    ...     study.add_measurements("cpu", {"conv": Measurement(1200, 0.01, 40, 5e-5)})
    ...     study.measurements("cpu")["conv"].median_ns
    1200
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if path is not None and (not isinstance(path, (str, os.PathLike)) or not os.fspath(path)):
            raise InputError(f"study must be a Study or the path of one, got {path!r}")
        self.path = MEMORY if path is None else os.fspath(path)
        self._file = Path(self.path).absolute()
        self.claims = Claims(self.path)
        if path is not None and not self._file.parent.is_dir():
            raise InputError(f"study {self.path}: its folder does not exist; make that first")
        with self._explained():
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None
            )
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def measurements(self, environment: str) -> dict[str, Measurement]:
        """All latencies of an environment, by subject."""
        rows = self._execute(
            "SELECT subject, median_ns, spread, repeats, seconds FROM measurements"
            " WHERE environment = ?",
            (environment,),
        )
        found = {
            self._checked(subject, str): self._checked(Measurement(*values))
            for subject, *values in rows
        }
        for subject, measurement in found.items():
            if not measurement.is_possible:
                raise InputError(
                    f"study {self.path} is damaged: {subject!r} has {measurement}; delete it and "
                    "start again"
                )
        return found

    def add_measurements(self, environment: str, measurements: dict[str, Measurement]) -> None:
        """Keep latencies by subject, in one transaction; a newer one replaces an older one."""
        self._write(
            "INSERT OR REPLACE INTO measurements VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (environment, subject, m.median_ns, m.spread, m.repeats, m.seconds, time.time())
                for subject, m in measurements.items()
            ),
        )

    def first_measurement(
        self, environment: str, subject: str, measurement: Measurement
    ) -> Measurement:
        """Keep a latency unless there is one, whoever wrote it; return the one that is there."""
        m = measurement
        self._write(
            "INSERT OR IGNORE INTO measurements VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(environment, subject, m.median_ns, m.spread, m.repeats, m.seconds, time.time())],
        )
        return self.measurements(environment)[subject]

    def score(self, key: ScoreKey) -> Score | None:
        """Look up an evaluation, or None if there was none."""
        rows = self._execute(
            "SELECT score, failure, seconds FROM scores"
            " WHERE network = ? AND weights = ? AND candidate = ? AND estimator = ?",
            (key.network, key.weights, key.candidate, key.estimator),
        )
        return self._checked(Score(*rows[0])) if rows else None

    def scored(self, key: ScoreKey) -> list[str]:
        """What has been evaluated beside a candidate: names that begin with that of the key."""
        rows = self._execute(
            "SELECT candidate FROM scores WHERE network = ? AND weights = ? AND estimator = ?"
            " AND substr(candidate, 1, ?) = ? ORDER BY created",
            (key.network, key.weights, key.estimator, len(key.candidate), key.candidate),
        )
        return [self._checked(name, str) for (name,) in rows]

    def add_score(self, key: ScoreKey, score: Score) -> None:
        """Keep an evaluation; a newer one replaces an older one."""
        row = (score.score, score.failure, score.seconds, time.time())
        self._write(
            "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(key.network, key.weights, key.candidate, key.estimator, *row)],
        )

    def remove_failures(self, key: ScoreKey) -> None:
        """Forget which evaluations failed, of all candidates beside that of the key."""
        self._write(
            "DELETE FROM scores WHERE network = ? AND weights = ? AND estimator = ?"
            " AND failure IS NOT NULL",
            [(key.network, key.weights, key.estimator)],
        )

    def artefact(self, key: str) -> bytes | None:
        """Look up what was kept under a key, such as fine-tuned weights."""
        rows = self._execute("SELECT content FROM artefacts WHERE key = ?", (key,))
        return self._checked(rows[0][0], bytes) if rows else None

    def add_artefact(self, key: str, content: bytes) -> None:
        """Keep something that took long to make; a newer one replaces an older one."""
        self._write(
            "INSERT OR REPLACE INTO artefacts VALUES (?, ?, ?)", [(key, content, time.time())]
        )

    def remove_artefact(self, key: str) -> None:
        """Forget what was kept under a key, if anything was."""
        self._write("DELETE FROM artefacts WHERE key = ?", [(key,)])

    def close(self) -> None:
        """Close the file. Nothing is lost without it."""
        self.claims.close()
        self._connection.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> None:
        if self._application_id() not in (0, APPLICATION_ID) or self._is_foreign():
            raise InputError(
                f"study {self.path}: this SQLite file is not a LayerMerge study; name another file"
            )
        self._set_journal()
        if self._application_id() == 0:
            with self._explained():
                self._connection.executescript(SCHEMA)
        self._check_version()
        damage = self._execute("PRAGMA quick_check(1)")[0][0]
        if damage != "ok":
            raise InputError(
                f"study {self.path} is damaged: {shown(damage)}; delete it and start again"
            )

    def _application_id(self) -> int:
        return int(self._execute("PRAGMA application_id")[0][0])

    def _is_foreign(self) -> bool:
        has_tables = bool(self._execute("SELECT 1 FROM sqlite_master LIMIT 1"))
        return has_tables and self._application_id() == 0

    def _set_journal(self) -> None:
        # SQLite does not wait, but fails, where another process begins to write a new file.
        deadline = time.monotonic() + BUSY_SECONDS
        with self._explained():
            while True:
                try:
                    self._connection.execute("PRAGMA journal_mode = WAL").fetchall()
                    break
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
        self._execute("PRAGMA synchronous = FULL")

    def _check_version(self) -> None:
        rows = self._execute("SELECT value FROM meta WHERE key = 'schema_version'")
        if not rows or not re.fullmatch(r"[0-9]+", str(rows[0][0])):
            raise InputError(
                f"study {self.path} is damaged: it does not say its schema version; delete it, or "
                "name another file"
            )
        version = int(rows[0][0])
        if version != SCHEMA_VERSION:
            raise InputError(
                f"study {self.path} has schema version {version}; this release reads version "
                f"{SCHEMA_VERSION}: install the release of layermerge that wrote it, or name "
                "another file"
            )

    def _checked(self, value: T, kind: type | None = None) -> T:
        """Refuse what the columns of a damaged file may hold, which SQLite does not look at."""
        try:
            if kind is None:
                check_types(value)
            elif not isinstance(value, kind):
                what = "text" if kind is str else "a sequence of bytes"
                raise InputError(f"{shown(repr(value))} is not {what}")
        except InputError as error:
            raise InputError(
                f"study {self.path} is damaged: {error}; delete it and start again"
            ) from None
        return value

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        with self._explained():
            return self._connection.execute(statement, values).fetchall()

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        if self.path != MEMORY and not self._file.exists():
            raise InputError(f"study {self.path} was deleted while in use: start again")
        with self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:
                self._connection.executemany(statement, rows)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what a database error means for the user's file."""
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise InputError(f"study {self.path} was closed, or is of another thread") from error
        # Damage to what SQLite quotes in its errors makes them undecodable in turn.
        except (sqlite3.DatabaseError, UnicodeError, MemoryError, OverflowError) as error:
            if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
                raise InputError(
                    f"study {self.path} cannot be read and written: {shown(str(error))}; check "
                    "that its folder is writable and has space, and that no other program holds "
                    "the file"
                ) from error
            raise InputError(
                f"study {self.path} is not a study, or is damaged: {shown(str(error))}; name "
                "another file, or move this one away"
            ) from error


StudyLike = Study | str | os.PathLike[str] | None
"""A study that the caller holds, the path of one, or None for one in memory."""


@contextmanager
def opened(study: StudyLike) -> Iterator[Study]:
    """Use a study for the time of a block; one that the caller holds stays open."""
    if isinstance(study, Study):
        yield study
        return
    with Study(study) as own:
        yield own
