"""PyTorch compiled by `torch.compile`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import fx, nn

from layermerge.latency.backend import TorchBackend
from layermerge.latency.programs import as_graph
from layermerge.latency.rotation import Call

COPIES = 4


class Compiled(TorchBackend):
    """`torch.compile` with its default settings, for fixed shapes."""

    copies = COPIES

    def prepare(self, module: nn.Module, inputs: tuple[Any, ...]) -> Call:
        """A call of the module, after the one that compiles it.

        Each module is compiled as a graph of its own: modules of one class would share, and soon
        exhaust, the number of times that a `forward` is compiled before it runs eagerly.
        """
        graph = module if isinstance(module, fx.GraphModule) else as_graph([module], len(inputs))
        compiled = torch.compile(graph, dynamic=False, fullgraph=True)
        compiled(*inputs)
        return partial(compiled, *inputs)
