"""How a lap of calls is timed on each kind of device, and how devices and drivers are named."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch

from layermerge.latency.rotation import Call
from layermerge.processor import cpu_name


class Timer(Protocol):
    """Times calls on a device."""

    @property
    def name(self) -> str:
        """What the clock reads."""
        ...

    def reference(self) -> Call:
        """A kernel of constant cost, for the sentinel."""
        ...

    def time(self, calls: Sequence[Call]) -> list[int]:
        """Run calls one after the other; return the nanoseconds that each took."""
        ...


class CpuTimer:
    """The clock, or with one thread its CPU time.

    The two agree on an idle machine; the latter leaves out the time in which another process had
    the core.
    """

    def __init__(self) -> None:
        is_single = torch.get_num_threads() == 1
        self.name = "CPU time" if is_single else "wall clock"
        self._now = time.thread_time_ns if is_single else time.perf_counter_ns

    def reference(self) -> Call:
        """A product of two matrices."""
        return _matrix_product(torch.device("cpu"))

    def time(self, calls: Sequence[Call]) -> list[int]:
        """Run and time calls."""
        timings = []
        for call in calls:
            start = self._now()
            call()
            timings.append(self._now() - start)
        return timings


class SynchronousTimer:
    """The wall clock, read when a CUDA device has finished: for what has a stream of its own."""

    name = "wall clock, synchronous"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reference(self) -> Call:
        """A product of two matrices."""
        return _matrix_product(self._device)

    def time(self, calls: Sequence[Call]) -> list[int]:
        """Run and time calls."""
        timings = []
        for call in calls:
            start = time.perf_counter_ns()
            call()
            torch.cuda.synchronize(self._device)
            timings.append(time.perf_counter_ns() - start)
        return timings


class CudaTimer:
    """CUDA events: the whole lap is queued before waiting, as a network queues its layers."""

    name = "CUDA events"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reference(self) -> Call:
        """A product of two matrices."""
        return _matrix_product(self._device)

    def time(self, calls: Sequence[Call]) -> list[int]:
        """Run and time calls; memory that ran out is given back for those that follow."""
        try:
            with torch.cuda.device(self._device):
                return self._time(calls)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise

    def _time(self, calls: Sequence[Call]) -> list[int]:
        events = [_event() for _ in range(len(calls) + 1)]
        events[0].record()
        for call, event in zip(calls, events[1:], strict=True):
            call()
            event.record()
        torch.cuda.synchronize()
        return [round(start.elapsed_time(end) * 1e6) for start, end in pairwise(events)]


def timer_of(device: torch.device) -> Timer:
    """The timer for a device."""
    return CudaTimer(device) if device.type == "cuda" else CpuTimer()


def processor_name(device: torch.device) -> str:
    """The device and the name of its processor."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"cpu {cpu_name()} ({torch.backends.cpu.get_cpu_capability()})"


def driver_version(device: torch.device) -> str:
    """The version of the GPU's driver, as Linux gives it, and of CUDA; nothing on a CPU."""
    if device.type != "cuda":
        return ""
    module = Path("/proc/driver/nvidia/version")
    text = module.read_text(encoding="utf-8") if module.exists() else ""
    found = re.search(r"\d+\.\d+(\.\d+)*", text)
    return f"{found[0] if found else 'unknown'} (CUDA {torch.version.cuda})"


def _matrix_product(device: torch.device) -> Call:
    matrix = torch.randn(256, 256, device=device)
    return lambda: matrix @ matrix


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
