"""Where and how latencies were measured, and in what two such environments differ (no torch)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Environment:
    """Where and how latencies were measured. Equal environments share their measurements.

    Attributes
    ----------
    backend : str
        What runs the network, such as ``"eager"``.
    version : str
        Its version, such as ``"torch 2.9.0"``.
    device : str
        ``"cpu"`` or ``"cuda"``, and the name of the processor.
    driver : str
        Version of the GPU's driver; empty on a CPU.
    dtype : str
        Such as ``"fp32"``.
    layout : str
        ``"channels_first"`` or ``"channels_last"``.
    batch : int
        Inputs per call.
    threads : int
        Threads within an operation; CPU only, 0 elsewhere.
    clock : str
        What times are of: wall clock, CPU time (of the one thread), CUDA events.
    heap : str
        What the C library does with freed memory meanwhile; CPU only, empty where it is left alone.
    """

    backend: str
    version: str
    device: str
    driver: str
    dtype: str
    layout: str
    batch: int
    threads: int
    clock: str
    heap: str = ""

    @property
    def fingerprint(self) -> str:
        """The key under which a study keeps measurements."""
        return json.dumps(asdict(self), sort_keys=True)

    def difference(self, other: Environment) -> str:
        """Name what differs, or nothing.

        Examples
        --------
        >>> from dataclasses import replace
        >>> here = Environment("eager", "2.9", "cpu x", "", "fp32", "channels_first", 1, 1, "clock")
        >>> here.difference(replace(here, batch=8, device="cpu y"))
        "device 'cpu x' against 'cpu y', batch 1 against 8"
        """
        return ", ".join(self._differences(other))

    def _differences(self, other: Environment) -> Iterator[str]:
        theirs = asdict(other)
        for name, value in asdict(self).items():
            if value != theirs[name]:
                yield f"{name} {value!r} against {theirs[name]!r}"

    def __str__(self) -> str:
        plural = "s" if self.threads > 1 else ""
        parts = [self.device, f"{self.backend} ({self.version})", self.dtype]
        if self.driver:
            parts.insert(1, f"driver {self.driver}")
        if self.layout == "channels_last":
            parts.append("channels last")
        parts.append(f"batch {self.batch}")
        if self.threads:
            parts.append(f"{self.threads} thread{plural}")
        parts.append(self.clock)
        if self.heap:
            parts.append(f"heap {self.heap}")
        return ", ".join(parts)
