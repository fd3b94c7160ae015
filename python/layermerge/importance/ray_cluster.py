"""Evaluate on a Ray cluster: one task for each candidate, on whatever machines there are."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from layermerge.candidates import Replacement
from layermerge.checks import check_numbers, check_texts
from layermerge.errors import InputError, LayerMergeError, MissingDependencyError
from layermerge.importance.evaluation import Job
from layermerge.importance.executors import MAX_LOSSES, Run, lost
from layermerge.importance.processes import load, pickled
from layermerge.store import Score

PATIENCE_S = 10.0
"""Seconds that the machine at an address has to answer."""

_jobs: dict[str, Job] = {}
"""In a worker: the job that it was last given, so that it is read once and not for each task."""


@dataclass(frozen=True)
class RayCluster:
    """Tasks on a Ray cluster. Ray starts lost ones again, on another machine.

    Attributes
    ----------
    address : str or None
        As for ``ray.init``: "auto" is the cluster that this machine belongs to; None starts one on
        this machine.
    gpus_per_task : float or None
        By default 1 if the cluster has GPUs, else 0.
    cpus_per_task : float
    """

    address: str | None = "auto"
    gpus_per_task: float | None = None
    cpus_per_task: float = 1.0

    def __post_init__(self) -> None:
        if self.address is not None:
            check_texts(self, "address")
        if self.gpus_per_task is not None:
            check_numbers(self, "gpus_per_task", least=0)
        check_numbers(self, "cpus_per_task", least=0)

    @contextmanager
    def open(self, job: Job) -> Iterator[tuple[Run, int]]:
        """Connect, and put the job into the object store, once for all tasks."""
        ray = _import_ray()
        was_connected = ray.is_initialized()
        if not was_connected:
            _connect(ray, self.address)
        try:
            has_gpus = ray.cluster_resources().get("GPU", 0) > 0
            gpus = float(has_gpus) if self.gpus_per_task is None else self.gpus_per_task
            evaluate = ray.remote(_evaluate).options(
                num_cpus=self.cpus_per_task, num_gpus=gpus, max_retries=MAX_LOSSES - 1
            )
            payload, name = ray.put(pickled(job, ray.cloudpickle.dumps)), uuid.uuid4().hex
            slots = self._slots(ray.cluster_resources(), gpus)

            def run(candidates: Iterable[Replacement]) -> Iterator[tuple[Replacement, Score]]:
                tasks = {evaluate.remote(name, payload, each): each for each in candidates}
                return _collect(ray, tasks)

            yield run, slots
        finally:
            if not was_connected:
                ray.shutdown()

    def _slots(self, resources: dict[str, float], gpus: float) -> int:
        counts = [
            resources.get(name, 0) / amount
            for name, amount in (("CPU", self.cpus_per_task), ("GPU", gpus))
            if amount > 0
        ]
        slots = int(min(counts, default=1))
        if slots < 1:
            raise InputError(
                f"the Ray cluster has {resources.get('CPU', 0):g} CPUs and "
                f"{resources.get('GPU', 0):g} GPUs, and an evaluation asks for "
                f"{self.cpus_per_task:g} and {gpus:g}: it would wait forever"
            )
        return slots


def _collect(ray: Any, tasks: dict[Any, Replacement]) -> Iterator[tuple[Replacement, Score]]:
    """Results as they arrive."""
    began, waiting = time.perf_counter(), list(tasks)
    while waiting:
        (done,), waiting = ray.wait(waiting, num_returns=1)
        candidate = tasks[done]
        try:
            yield candidate, ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise LayerMergeError(
                f"a Ray worker could not load the model and the callbacks: {error}. Every machine "
                "needs the same layermerge and the files that they are defined in"
            ) from error
        except ray.exceptions.RayError:
            yield candidate, lost(time.perf_counter() - began)


def _evaluate(name: str, payload: bytes, candidate: Replacement) -> Score:
    """Evaluate one candidate: what a task does."""
    if name not in _jobs:
        _jobs.clear()
        _jobs[name] = load(payload, "cuda:0" if torch.cuda.is_available() else None)
    return _jobs[name].run(candidate)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("Ray", "ray") from error
    return ray


def _check_listening(address: str) -> None:
    """Ray waits for minutes where nothing listens."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()


def _connect(ray: Any, address: str | None) -> None:
    try:
        _check_listening(address or "")
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise InputError(
            f"there is no Ray cluster at {address!r}: {error}. Start one with `ray start --head`, "
            "or give its address"
        ) from error
