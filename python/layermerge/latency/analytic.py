"""Latency that is computed: each operation takes as long as its arithmetic or its memory traffic.

For planning without the device. Nothing runs; shapes are propagated on the meta device, and the
operations that torch would dispatch are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from layermerge.latency.options import LatencyOptions, Roofline
from layermerge.latency.placement import Placement
from layermerge.latency.rotation import Call

_REFERENCE_NS = 1000


@dataclass(frozen=True)
class Estimate:
    """A call that has no effect, and the nanoseconds that it would take."""

    latency_ns: int

    def __call__(self) -> None:
        """Do nothing."""


class EstimateTimer:
    """Reads off estimates what they say."""

    name = "roofline"

    def reference(self) -> Call:
        """An estimate that never changes."""
        return Estimate(_REFERENCE_NS)

    def time(self, calls: Sequence[Call]) -> list[int]:
        """The latency of each estimate."""
        return [call.latency_ns for call in calls if isinstance(call, Estimate)]


class Analytic:
    """The roofline model of a device, from its two constants."""

    copies = 1
    repeated_below_ns = math.inf

    def __init__(self, options: LatencyOptions, placement: Placement) -> None:
        assert options.roofline is not None
        self.version = "1"
        self.timer = EstimateTimer()
        self._roofline = options.roofline
        self.device = (
            f"roofline {options.roofline.peak_tflops:.15g} TFLOP/s, "
            f"{options.roofline.bandwidth_gb_s:.15g} GB/s"
        )

    def prepare(self, module: nn.Module, inputs: tuple[Any, ...]) -> Call:
        """An estimate for the module."""
        with _Counter(self._roofline) as counter:
            module(*inputs)
        return Estimate(round(counter.latency_ns))

    def prepare_part(
        self, module: nn.Module, inputs: tuple[Any, ...]
    ) -> tuple[Call, tuple[Any, ...]]:
        """An estimate for the part."""
        return self.prepare(module, inputs), inputs


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the rooflines of all operations that are dispatched."""

    def __init__(self, roofline: Roofline) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.roofline = roofline
        self.latency_ns = 0.0

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function.overloadpacket not in flop_registry:
            # In inference mode conv2d and linear arrive as such, not as what is registered.
            with self:
                parts = function.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = function(*args, **kwargs)
        if not _is_view(function):
            num_bytes = sum(map(_num_bytes, pytree.tree_leaves((args, kwargs, result))))
            self.latency_ns += self.roofline.latency_ns(
                _flops(function, args, kwargs, result), num_bytes
            )
        return result


def _flops(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    count: Callable[..., int] | None = flop_registry.get(function.overloadpacket)
    return count(*args, **kwargs, out_val=result) if count else 0


def _num_bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _is_view(function: Any) -> bool:
    aliases = (returned.alias_info for returned in function._schema.returns)
    return any(alias is not None and not alias.is_write for alias in aliases)
