"""Executors: where evaluations run. Here, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from layermerge.candidates import Replacement
from layermerge.checks import check_instance
from layermerge.importance.evaluation import Job
from layermerge.store import Score

Run = Callable[[Iterable[Replacement]], Iterator[tuple[Replacement, Score]]]
"""Evaluates candidates, and gives each result as it arrives, in any order.

It asks for a candidate when it is about to start it."""

MAX_LOSSES = 3
"""Workers that may be lost over one candidate before it is marked as failed."""

KILLED = -9
"""The exit code of a process that a signal ended which it cannot handle."""


@runtime_checkable
class Executor(Protocol):
    """Runs evaluations."""

    def open(self, job: Job) -> AbstractContextManager[tuple[Run, int]]:
        """Get ready to run a job: yields what runs it, and how many evaluations run at once."""


@dataclass(frozen=True)
class Serial:
    """One evaluation after the other, in this process."""

    @contextmanager
    def open(self, job: Job) -> Iterator[tuple[Run, int]]:
        """Run in this process."""
        yield (lambda candidates: ((each, job.run(each)) for each in candidates)), 1


SERIAL = Serial()


def check_executor(executor: object) -> None:
    """Refuse what is no executor."""
    check_instance(
        "executor",
        executor,
        Executor,
        "an object such as Serial(), Processes(2) or RayCluster('auto'), of "
        "layermerge.importance.executors, .processes and .ray_cluster",
    )


def lost(seconds: float, exit_code: int | None = None) -> Score:
    """The outcome for a candidate over which too many workers were lost.

    Parameters
    ----------
    seconds : float
    exit_code : int, optional
        Of the last one; minus the number of a signal that ended it.
    """
    how = "killed, perhaps by the system for want of memory"
    if exit_code is not None:
        ended = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
        how = f"the last by {ended}" + (f" ({how})" if exit_code == KILLED else "")
    return Score(None, f"{MAX_LOSSES} workers were lost while they evaluated it: {how}", seconds)
