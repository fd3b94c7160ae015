"""How latency is measured: backend, device, precision, and when to stop (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from layermerge.arguments import check_argument
from layermerge.checks import check_number, check_truth
from layermerge.errors import InputError, shown
from layermerge.latency.protocol import Precision

BACKENDS = ("eager", "compile", "cuda-graphs", "onnxruntime", "tensorrt", "analytic")
MOST_THREADS = 1024
"""Beyond that, torch ends the process where the system starts no more of them."""

LEAST_PEAK, MOST_PEAK = 1e-6, 1e12
"""Of a device's arithmetic and memory: far beyond any on either side."""

DTYPES = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Roofline:
    """The two constants of a device that bound every operation on it.

    Attributes
    ----------
    peak_tflops : float
        Arithmetic, in 10¹² floating-point operations per second (a multiply-add is two).
    bandwidth_gb_s : float
        Memory traffic, in 10⁹ bytes per second.

    Examples
    --------
    >>> Roofline(peak_tflops=13.4, bandwidth_gb_s=616).latency_ns(flops=2_000_000, num_bytes=616)
    149.25373134328356
    """

    peak_tflops: float
    bandwidth_gb_s: float

    def __post_init__(self) -> None:
        for name in ("peak_tflops", "bandwidth_gb_s"):
            value: Any = getattr(self, name)
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if not (is_number and value > 0):
                raise InputError(
                    f"{name} must be a number greater than 0, got {shown(repr(value))}"
                )
            if not LEAST_PEAK <= value <= MOST_PEAK:
                raise InputError(
                    f"{name} must be from {LEAST_PEAK:g} to {MOST_PEAK:g}, got {shown(repr(value))}"
                )
            object.__setattr__(self, name, float(value))

    def latency_ns(self, flops: int, num_bytes: int) -> float:
        """Time of an operation that is bound by its arithmetic or by its memory traffic."""
        check_number("flops", flops, least=0)
        check_number("num_bytes", num_bytes, least=0)
        return max(flops / self.peak_tflops / 1e3, num_bytes / self.bandwidth_gb_s)


@dataclass(frozen=True)
class LatencyOptions:
    """How to measure latency.

    Attributes
    ----------
    backend : {"eager", "compile", "cuda-graphs", "onnxruntime", "tensorrt", "analytic"}
        What runs the network; `analytic` runs nothing, and computes from FLOPs and bytes.
    device : str, optional
        Such as ``"cpu"`` or ``"cuda:0"``; by default where the model is.
    dtype : {"fp32", "fp16", "bf16"}
        Of weights and inputs.
    channels_last : bool
        Keep images and kernels with their channels innermost.
    batch : int, optional
        Inputs per call; by default as many as the example holds.
    threads : int, optional
        Threads within an operation on the CPU; by default torch's setting.
    target_rsd : float
        Relative half-width of the median's 95 % confidence interval at which a unit is done.
    max_seconds : float
        Time for all units together, after which fewer timings must do (at least six).
    roofline : Roofline, optional
        The device's constants, for the backend `analytic` and no other.
    refine : bool
        Measure again what a study holds, but not at the precision that is asked for.
    progress : bool
        Show a progress bar on a terminal.

    Raises
    ------
    InputError
        If a value is not one of those named, or does not fit another.
    """

    backend: str = "eager"
    device: str | None = None
    dtype: str = "fp32"
    channels_last: bool = False
    batch: int | None = None
    threads: int | None = None
    target_rsd: float = 0.02
    max_seconds: float = 120.0
    roofline: Roofline | None = None
    refine: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        for name, known in (("backend", BACKENDS), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}"
                )
        for name in ("batch", "threads"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a whole number, at least 1; got {value!r}")
            object.__setattr__(self, name, int(value))  # one of NumPy is none for torch
        if self.threads is not None and self.threads > MOST_THREADS:
            raise InputError(f"threads must be at most {MOST_THREADS}, got {self.threads}")
        if (self.backend == "analytic") != (self.roofline is not None):
            raise InputError(
                "roofline must be given with backend='analytic' and with no other: the device's "
                "peak_tflops and bandwidth_gb_s"
            )
        if self.roofline is not None:
            check_argument("roofline", self.roofline, Roofline)
        if self.device is not None:
            object.__setattr__(self, "device", str(self.device))  # a torch.device, too
            if not self.device:
                raise InputError("device must be like 'cpu' or 'cuda:0'; got an empty text")
        for name in ("channels_last", "refine", "progress"):
            check_truth(name, getattr(self, name))
        assert self.precision

    @property
    def precision(self) -> Precision:
        """When a measurement is done."""
        return Precision(self.target_rsd, self.max_seconds)

    @property
    def margin(self) -> float:
        """Part of a budget that is left for noise, of which what is computed has none."""
        return 0.0 if self.backend == "analytic" else self.target_rsd


DEFAULT_OPTIONS = LatencyOptions()
