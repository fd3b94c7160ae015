"""NVIDIA TensorRT, through torch-tensorrt."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch
from torch import nn

from layermerge.errors import MissingDependencyError
from layermerge.latency.backend import TorchBackend
from layermerge.latency.options import LatencyOptions
from layermerge.latency.placement import Placement
from layermerge.latency.rotation import Call

COPIES = 8


class TensorRT(TorchBackend):
    """Engines that TensorRT builds for fixed shapes; what it cannot take runs in PyTorch."""

    copies = COPIES

    def __init__(self, options: LatencyOptions, placement: Placement) -> None:
        super().__init__(options, placement)
        try:
            import torch_tensorrt
        except ImportError as error:
            raise MissingDependencyError("torch-tensorrt", "tensorrt") from error
        self._compile = torch_tensorrt.compile
        self.version = f"torch-tensorrt {torch_tensorrt.__version__}, {self.version}"
        logging.getLogger("torch_tensorrt").setLevel(logging.ERROR)

    def prepare(self, module: nn.Module, inputs: tuple[Any, ...]) -> Call:
        """A call of the module's engine."""
        with torch.cuda.device(self.placement.device):
            engine = self._compile(
                module,
                ir="dynamo",
                arg_inputs=inputs,
                min_block_size=1,
            )
            engine(*inputs)
        return partial(engine, *inputs)
