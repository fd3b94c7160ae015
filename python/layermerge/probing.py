"""Run a model on random values like the example's, at several batch sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layermerge.batching import Batch
from layermerge.errors import ExampleError


def _run(model: nn.Module, arguments: Mapping[str, Any]) -> Any:
    try:
        with torch.no_grad(), keeping_buffers(model):
            return model(**arguments)
    except Exception as error:
        shapes = ", ".join(
            f"{name} {tuple(value.shape)} {value.dtype}"
            for name, value in arguments.items()
            if isinstance(value, Tensor)
        )
        raise ExampleError(
            f"{type(model).__name__} does not run on the example inputs ({shapes}): "
            f"{_first_line(error)}"
        ) from error


def first_that_runs(model: nn.Module, arguments: dict[str, Tensor]) -> tuple[Batch, Any]:
    """The first pair of batch sizes that the model runs at, and what it computes at the second."""
    for batch in _batches(arguments):
        try:
            if batch.first != batch.example:
                _run(model, probe(arguments, batch, batch.first, 1))
            return batch, _run(model, probe(arguments, batch, batch.second, 1))
        except ExampleError:
            if batch.first == batch.second:
                raise
    raise AssertionError("the last pair is that of the example")


def _batches(arguments: dict[str, Tensor]) -> Iterator[Batch]:
    """Pairs of batch sizes to record at, from the best to that of the example alone."""
    candidates = [name for name, value in arguments.items() if value.dim() > 0]
    images = [name for name in candidates if arguments[name].dim() == 4]
    if not candidates:
        yield Batch("", 0, 0, 0)
        return
    name = (images or candidates)[0]
    size = arguments[name].size(0)
    yield Batch(name, 1, 2, size)
    yield Batch(name, size, 2 * size, size)
    yield Batch(name, size, size, size)


def probe(
    arguments: dict[str, Tensor], batch: Batch, size: int, seed: int, *, is_positive: bool = False
) -> dict[str, Tensor]:
    """Random values in place of the example's, at another batch size: normal, or 1/2 to 3/2.

    An example of zeros would hide what a capture gets wrong.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        name: _noise_like(_resized(value, batch.example, size), generator, is_positive=is_positive)
        for name, value in arguments.items()
    }


def _resized(value: Tensor, size: int, wanted: int) -> Tensor:
    """An input at another batch size; one that has no batch stays as it is."""
    if value.dim() == 0 or value.size(0) != size or size == 0:
        return value
    return value[torch.arange(wanted, device=value.device) % size]


def _noise_like(value: Tensor, generator: torch.Generator, *, is_positive: bool) -> Tensor:
    if not value.is_floating_point():
        return value.clone()
    return noise(value.shape, generator, is_positive=is_positive).to(value)


def noise(shape: Sequence[int], generator: torch.Generator, *, is_positive: bool) -> Tensor:
    """Normal random numbers, or ones between 1/2 and 3/2 where a network takes no others."""
    if is_positive:
        return 0.5 + torch.rand(shape, generator=generator, dtype=torch.float32)
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextmanager
def keeping_buffers(model: nn.Module) -> Iterator[None]:
    """Undo what a run changes of a model's buffers, such as a count of its calls."""
    held = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in held:
                module._buffers[name] = buffer
                buffer.copy_(value)
