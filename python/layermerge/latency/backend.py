"""What a backend is, and the backend that options name."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import nn

from layermerge.latency.clocks import Timer, driver_version, processor_name, timer_of
from layermerge.latency.environment import Environment
from layermerge.latency.heap import heap_rule
from layermerge.latency.options import LatencyOptions
from layermerge.latency.placement import Placement
from layermerge.latency.rotation import Call


class Backend(Protocol):
    """Turns modules into calls that can be timed.

    Attributes
    ----------
    version : str
        Of what runs the networks.
    device : str
        The device and its processor.
    copies : int
        How often a unit is repeated within one program, where starting a program costs more
        than the operations within it.
    repeated_below_ns : float
        A unit that takes longer on PyTorch runs once: next to it the start of a program is little,
        and several copies find warmer caches than one does in a network.
    timer : Timer
    """

    version: str
    device: str
    copies: int
    repeated_below_ns: float
    timer: Timer

    def prepare(self, module: nn.Module, inputs: tuple[Any, ...]) -> Call:
        """A call of a module, which was placed, on inputs, which were placed.

        Raises
        ------
        Exception
            Whatever the backend raises for a module that it cannot run.
        """
        ...

    def prepare_part(
        self, module: nn.Module, inputs: tuple[Any, ...]
    ) -> tuple[Call, tuple[Any, ...]]:
        """A call of a part of a network as it runs there, and the inputs that it reads."""
        ...


_CLASS_OF = {
    "eager": "layermerge.latency.eager:Eager",
    "compile": "layermerge.latency.compiled:Compiled",
    "cuda-graphs": "layermerge.latency.cuda_graphs:CudaGraphs",
    "onnxruntime": "layermerge.latency.onnx_runtime:OnnxRuntime",
    "tensorrt": "layermerge.latency.tensorrt:TensorRT",
    "analytic": "layermerge.latency.analytic:Analytic",
}


def make_backend(options: LatencyOptions, placement: Placement) -> Backend:
    """Make the backend that options name; only its own dependencies are imported."""
    module, _, name = _CLASS_OF[options.backend].partition(":")
    backend: Backend = getattr(import_module(module), name)(options, placement)
    return backend


def environment_of(
    backend: Backend, options: LatencyOptions, placement: Placement, batch: int
) -> Environment:
    """Where and how a backend measures, once its number of threads is set."""
    return Environment(
        backend=options.backend,
        version=backend.version,
        device=backend.device,
        driver=driver_version(placement.device),
        dtype=options.dtype,
        layout="channels_last" if options.channels_last else "channels_first",
        batch=batch,
        threads=torch.get_num_threads() if placement.device.type == "cpu" else 0,
        clock=backend.timer.name,
        heap=heap_rule() if placement.device.type == "cpu" else "",
    )


class TorchBackend:
    """What the backends that torch runs on its own devices share."""

    copies = 1
    repeated_below_ns = math.inf

    def __init__(self, options: LatencyOptions, placement: Placement) -> None:
        has_kernels = placement.device.type != "cpu" or torch.backends.mkldnn.enabled
        self.version = f"torch {torch.__version__}" + ("" if has_kernels else ", oneDNN off")
        self.device = processor_name(placement.device)
        self.timer = timer_of(placement.device)
        self.placement = placement

    def prepare(self, module: nn.Module, inputs: tuple[Any, ...]) -> Call:
        """A call of the module."""
        raise NotImplementedError

    def prepare_part(
        self, module: nn.Module, inputs: tuple[Any, ...]
    ) -> tuple[Call, tuple[Any, ...]]:
        """A call like any other: images keep their layout."""
        return self.prepare(module, inputs), inputs
