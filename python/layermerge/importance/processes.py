"""Evaluate in several processes of this machine, one for each GPU or for some CPU cores."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from layermerge.candidates import Replacement
from layermerge.checks import check_integers
from layermerge.errors import InputError, LayerMergeError
from layermerge.importance.evaluation import Job
from layermerge.importance.executors import MAX_LOSSES, Run, lost
from layermerge.latency.placement import resolve_device
from layermerge.source_files import load_file, loaded_files
from layermerge.store import Score

MOST_WORKERS = 1024
INTERRUPTED = 128 + signal.SIGINT
"""The exit code of what ended by Ctrl-C, as shells have it."""
PATIENCE_S = 10.0
"""Seconds that an idle process has to end by itself."""

_NO_GUARD = (
    "Each worker process imports the program that starts it: where that is a script, what starts "
    "the search must stand under `if __name__ == '__main__':`"
)

_context = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Processes:
    """A process for each evaluation that runs at once; a lost one is replaced.

    Attributes
    ----------
    workers : int
        Number of processes; 0 for one per GPU, or two without a GPU.
    devices : tuple of str
        The devices that they share, in turn, such as ``("cuda:0", "cuda:1")``; by default all
        GPUs, or the device that the model is on.
    """

    workers: int = 0
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_integers(self, "workers", least=0)
        if self.workers > MOST_WORKERS:
            raise InputError(f"workers must be at most {MOST_WORKERS}, got {self.workers}")
        if isinstance(self.devices, str) or not isinstance(self.devices, Iterable):
            raise InputError(
                f"devices must be a tuple, such as ('cuda:0', 'cuda:1'), got {self.devices!r}"
            )
        for device in self.devices:
            resolve_device(device)

    @contextmanager
    def open(self, job: Job) -> Iterator[tuple[Run, int]]:
        """Start the processes; end them afterwards."""
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise LayerMergeError(_NO_GUARD)
        gpus = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        devices = self.devices or gpus or ("cpu",)
        count = self.workers or (len(devices) if devices != ("cpu",) else 2)
        payload = pickled(job)
        pool = [_Worker(payload, devices[place % len(devices)]) for place in range(count)]
        try:
            yield (lambda candidates: _run(pool, candidates)), count
        finally:
            for worker in pool:
                worker.stop()


def _run(
    pool: list[_Worker], candidates: Iterable[Replacement]
) -> Iterator[tuple[Replacement, Score]]:
    waiting, again = iter(candidates), list[Replacement]()
    losses: dict[Replacement, int] = {}
    while True:
        for worker in pool:
            if worker.candidate is None:
                candidate = again.pop() if again else next(waiting, None)
                if candidate is not None:
                    worker.give(candidate)
        busy = {worker.connection: worker for worker in pool if worker.candidate}
        if not busy:
            return
        for connection in wait(list(busy)):
            worker = busy[connection]  # type: ignore[index]
            candidate, seconds = worker.candidate, time.perf_counter() - worker.began
            assert candidate is not None
            score = worker.take()
            if score is not None:
                yield candidate, score
                continue
            losses[candidate] = losses.get(candidate, 0) + 1
            if losses[candidate] < MAX_LOSSES:
                again.append(candidate)
            else:
                yield candidate, lost(seconds, worker.exit_code)


@dataclass
class _Worker:
    """A process, started when it is first needed and again when it was lost."""

    payload: bytes
    device: str
    candidate: Replacement | None = None
    began: float = 0.0
    connection: Connection = field(init=False)
    process: BaseProcess | None = None
    has_begun: bool = False
    exit_code: int | None = None

    def give(self, candidate: Replacement) -> None:
        """Start to evaluate a candidate."""
        if self.process is None:
            self.connection, theirs = _context.Pipe()
            # Not a daemon, for it may need processes of its own, to load data.
            self.process = _context.Process(
                target=_serve, args=(theirs, self.payload, self.device), daemon=False
            )
            self.process.start()
            theirs.close()
        self.candidate, self.began = candidate, time.perf_counter()
        with suppress(OSError):  # where the process is gone, `take` will see it
            self.connection.send(candidate)

    def take(self) -> Score | None:
        """The result that has arrived; None if the process was lost instead."""
        try:
            result = self.connection.recv()
        except (EOFError, OSError):
            self._check_began()
            self.exit_code = self.process.exitcode if self.process else None
            self.stop()
            return None
        finally:
            self.candidate = None
        if not isinstance(result, Score):
            raise LayerMergeError(
                f"a worker process could not load the model and the callbacks: {result}. Define "
                "what they need in files that can be imported from anywhere, or use one process"
            )
        self.has_begun = True
        return result

    def _check_began(self) -> None:
        """Refuse to go on where a process fails before its first result, as each would."""
        assert self.process is not None
        self.process.join(PATIENCE_S)
        if not self.has_begun and self.process.exitcode == 1:
            raise LayerMergeError(f"a worker process failed before it began. {_NO_GUARD}")

    def stop(self) -> None:
        """End the process: an idle one by closing its connection, a busy one by force."""
        if self.process is None:
            return
        self.connection.close()
        if self.candidate is None:
            self.process.join(PATIENCE_S)
        self.process.kill()
        self.process.join()
        self.process = None


def _serve(connection: Connection, payload: bytes, device: str) -> None:
    """Evaluate what arrives, until the other end is closed: what a worker process does."""
    # Ctrl-C reaches all processes of a terminal: the driver ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr  # the driver's may be a document
    try:
        job = load(payload, device)
    except Exception as error:  # whatever unpickling meets
        connection.send(f"{type(error).__name__}: {error}")
        return
    while True:
        try:
            connection.send(job.run(connection.recv()))
        except (EOFError, OSError):  # the driver is gone
            return
        except KeyboardInterrupt:  # raised by the user's code: the signal is ignored here
            sys.exit(INTERRUPTED)


def load(payload: bytes, device: str | None = None) -> Job:
    """The job that was pickled, its model on a device; threads are set as where it was made."""
    files, content = pickle.loads(payload)
    for path in files:
        load_file(Path(path))
    job: Job = pickle.loads(content)
    torch.set_num_threads(job.threads)
    if device is not None:
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        job.model.to(device)
    return job


def pickled(job: Job, dumps: Callable[[Any], bytes] = pickle.dumps) -> bytes:
    """The job as bytes, its model on the CPU, with the user's files that it may need.

    Raises
    ------
    InputError
        If a part of it cannot be sent; names the part.
    """
    if any(parameter.device.type != "cpu" for parameter in job.model.parameters()):
        job = replace(job, model=copy.deepcopy(job.model).cpu())
    try:
        return pickle.dumps((loaded_files(), dumps(job)))
    except Exception as error:  # pickling raises nearly anything
        name, value = next(_unpicklable(job, dumps), ("the job", job))
        what = getattr(value, "__qualname__", type(value).__name__)
        raise InputError(
            f"{name} ({what}) cannot be sent to another process: {error}. Define it at the top "
            "level of a module (functools.partial of such functions is fine), or run in one process"
        ) from error


def _unpicklable(value: Any, dumps: Callable[[Any], bytes]) -> Iterator[tuple[str, Any]]:
    """The fields of a dataclass, and of those inside, that cannot be pickled: innermost first."""
    for each in fields(value):
        part = getattr(value, each.name)
        try:
            dumps(part)
        except Exception:  # pickling raises nearly anything
            if is_dataclass(part) and not isinstance(part, type):
                yield from _unpicklable(part, dumps)
            yield each.name, part
