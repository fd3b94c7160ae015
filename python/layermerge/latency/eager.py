"""PyTorch as it runs without further ado."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from layermerge.latency.backend import TorchBackend
from layermerge.latency.rotation import Call


class Eager(TorchBackend):
    """Eager PyTorch on a CPU or a CUDA device."""

    def prepare(self, module: nn.Module, inputs: tuple[Any, ...]) -> Call:
        """A call of the module."""
        return partial(module, *inputs)
