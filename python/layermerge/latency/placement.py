"""Where and in which form networks are measured: device, dtype, memory layout, batch, threads."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from layermerge.errors import InputError
from layermerge.latency.heap import kept_heap
from layermerge.latency.options import LatencyOptions
from layermerge.model_checks import check_evaluation_mode

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Placement:
    """Device, dtype and memory layout of weights and inputs."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool

    def copy(self, module: nn.Module) -> nn.Module:
        """A copy of a module in evaluation mode, placed."""
        check_evaluation_mode(module)
        return self.move(copy.deepcopy(module))

    def move(self, module: nn.Module) -> nn.Module:
        """Place a module itself."""
        # Not every release of torch declares this argument of `Module.to`, which all of them take.
        layout: dict[str, Any] = {"memory_format": self._memory_format}
        return module.to(self.device, self.dtype, **layout)

    def values(self, values: Any) -> Any:
        """The same values with every tensor in them placed."""
        return pytree.tree_map_only(Tensor, self._tensor, values)

    def _tensor(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().to(self.device)
        if tensor.is_floating_point():
            tensor = tensor.to(self.dtype)
        return tensor.contiguous(memory_format=self._memory_format) if tensor.dim() == 4 else tensor

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def placement_of(options: LatencyOptions, example: Tensor) -> Placement:
    """The placement that options ask for, by default on the device of an example input."""
    device = resolve_device(options.device or str(example.device))
    if options.backend == "analytic":
        device = torch.device("meta")  # nothing runs: shapes are enough
    elif options.backend in ("cuda-graphs", "tensorrt") and device.type != "cuda":
        raise InputError(
            f"backend {options.backend!r} runs on a CUDA device only, and device is "
            f"{str(device)!r}: choose a device like 'cuda', or another backend"
        )
    return Placement(device, DTYPES[options.dtype], options.channels_last)


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


def tensors_of(values: Any) -> list[Tensor]:
    """The tensors in nested containers, in order."""
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def with_batch(inputs: dict[str, Any], batch: int | None) -> dict[str, Any]:
    """Inputs of another batch size: the same examples again and again.

    Tensors whose first dimension is not that of the first one are no examples, and stay: a mask, a
    table, a time step.
    """
    own = next((len(leaf) for leaf in tensors_of(inputs) if leaf.ndim), None)
    if batch is None or batch == own:
        return inputs

    def resized(tensor: Tensor) -> Tensor:
        if not tensor.ndim or len(tensor) != own:
            return tensor
        return tensor[torch.arange(batch, device=tensor.device) % len(tensor)]

    try:
        return pytree.tree_map_only(Tensor, resized, inputs)  # type: ignore[no-any-return]
    except (RuntimeError, OverflowError, IndexError) as error:
        raise InputError(
            f"a batch of {batch} of the example inputs cannot be made: give a smaller batch, or an "
            "example that holds an image"
        ) from error


@contextmanager
def inference(threads: int | None) -> Iterator[None]:
    """Run a block without autograd, with `threads` threads, on a heap that keeps what is freed.

    The random state is left alone.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with kept_heap(), torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(before)
