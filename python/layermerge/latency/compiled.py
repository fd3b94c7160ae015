"""PyTorch compiled by `torch.compile`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from layermerge.latency.backend import TorchBackend
from layermerge.latency.programs import as_graph
from layermerge.latency.rotation import Call

COPIES = 4
REPEATED_BELOW_NS = 1e6


class Compiled(TorchBackend):
    """`torch.compile` with its default settings, for fixed shapes."""

    copies = COPIES
    repeated_below_ns = REPEATED_BELOW_NS

    def prepare(self, module: nn.Module, inputs: tuple[Any, ...]) -> Call:
        """A call of the module, after the one that compiles it.

        Each module is compiled as a graph of its own: modules of one class would share, and soon
        exhaust, the number of times that a `forward` is compiled before it runs eagerly.
        """
        graph = module if isinstance(module, fx.GraphModule) else as_graph([module], len(inputs))
        compiled = torch.compile(graph, dynamic=False, fullgraph=True)
        compiled(*inputs)
        return partial(compiled, *inputs)

    def prepare_part(
        self, module: nn.Module, inputs: tuple[Any, ...]
    ) -> tuple[Call, tuple[Any, ...]]:
        """A call of a part on images in the layout that they have within a network.

        On a CPU, inductor keeps channels innermost throughout a network that has a convolution: it
        converts where the network begins and ends, not around each part.
        """
        if self.placement.device.type == "cpu":
            inputs = tuple(map(_channels_last, inputs))
        return self.prepare(module, inputs), inputs


def _channels_last(value: Any) -> Any:
    is_image = isinstance(value, Tensor) and value.dim() == 4
    return value.contiguous(memory_format=torch.channels_last) if is_image else value
