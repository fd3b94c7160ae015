"""How a lap of calls is timed on each kind of device, and with how many threads."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch

from layermerge.errors import InputError
from layermerge.latency.protocol import Call, Clock


def clock_of(device: torch.device) -> Clock:
    """The clock for a device."""
    return _time_on_cuda if device.type == "cuda" else _time_on_cpu


def clock_name(device: torch.device) -> str:
    """What the clock for a device reads."""
    if device.type == "cuda":
        return "CUDA events"
    return "CPU time" if torch.get_num_threads() == 1 else "wall clock"


def reference_call(device: torch.device) -> Call:
    """A kernel of constant cost: a product of two matrices."""
    matrix = torch.randn(256, 256).to(device)
    return lambda: matrix @ matrix


def processor_name(device: torch.device) -> str:
    """The device and the name of its processor."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"cpu {_cpu_name()} ({torch.backends.cpu.get_cpu_capability()})"


def resolve_device(device: str | torch.device) -> torch.device:
    """Parse a device and check that latencies can be measured on it."""
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device must be like 'cpu' or 'cuda:0'; got {device!r}") from error
    if resolved.type not in ("cpu", "cuda"):
        raise InputError(f"device must be cpu or cuda to measure on; got {str(device)!r}")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {str(device)!r} was asked for, and this machine has "
            f"{torch.cuda.device_count()} CUDA devices that torch {torch.__version__} can use: "
            "choose device='cpu', or install a torch that was built for the GPU"
        )
    return resolved


@contextmanager
def inference(threads: int | None) -> Iterator[None]:
    """Run a block without autograd, with `threads` threads, and leave the random state alone."""
    if threads is not None and not (isinstance(threads, int) and threads >= 1):
        raise InputError(f"threads must be a whole number, at least 1; got {threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(before)


def _time_on_cpu(calls: Sequence[Call]) -> list[int]:
    """Time by the clock, or with one thread by its CPU time.

    The two agree on an idle machine; the latter leaves out the time in which another process had
    the core.
    """
    now = time.thread_time_ns if torch.get_num_threads() == 1 else time.perf_counter_ns
    timings = []
    for call in calls:
        start = now()
        call()
        timings.append(now() - start)
    return timings


def _time_on_cuda(calls: Sequence[Call]) -> list[int]:
    """Queue the whole lap before waiting, as a network queues its layers."""
    events = [_event() for _ in range(len(calls) + 1)]
    events[0].record()
    for call, event in zip(calls, events[1:], strict=True):
        call()
        event.record()
    torch.cuda.synchronize()
    return [round(start.elapsed_time(end) * 1e6) for start, end in pairwise(events)]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _cpu_name() -> str:
    """The model name that Linux gives; elsewhere what Python knows."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
