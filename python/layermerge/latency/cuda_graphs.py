"""CUDA graphs: what a network costs the GPU when nothing waits for the CPU to launch kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from layermerge.latency.backend import TorchBackend
from layermerge.latency.rotation import Call

COPIES = 8
WARM_UPS = 3


class CudaGraphs(TorchBackend):
    """Eager PyTorch, captured once and replayed."""

    copies = COPIES

    def prepare(self, module: nn.Module, inputs: tuple[Any, ...]) -> Call:
        """A replay of the module's kernels, captured after a few runs on a stream of their own."""
        with torch.cuda.device(self.placement.device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    module(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = module(*inputs)
        return _Replay(graph, module, inputs, outputs)


class _Replay:
    """A captured graph, and all whose memory it reads and writes."""

    def __init__(self, graph: torch.cuda.CUDAGraph, *alive: object) -> None:
        self._graph, self._alive = graph, alive

    def __call__(self) -> None:
        self._graph.replay()
