"""Lend a network to functions of the user's, and have it back in the state that it was in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from layermerge.callbacks import finite


@contextmanager
def modes_kept() -> Iterator[None]:
    """Put torch's gradient mode and default dtype back after a block of somebody else's code."""
    has_gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_grad_enabled(has_gradients)
        torch.set_default_dtype(dtype)


@contextmanager
def lent(network: nn.Module) -> Iterator[None]:
    """Put a network back after a block that may only look at it.

    Training and evaluation mode of each module, which parameters are frozen, precision and device.
    Values that are changed in place stay changed.
    """
    modules = [(module, module.training) for module in network.modules()]
    stores = [store for module, _ in modules for store in _stores(module)]
    tensors = [
        (store, name, tensor, tensor.data, tensor.requires_grad)
        for store in stores
        for name, tensor in store.items()
        if tensor is not None
    ]
    try:
        with modes_kept():
            yield
    finally:
        for module, is_training in modules:
            module.training = is_training
        for store, name, tensor, data, has_gradient in tensors:
            if tensor.dtype != data.dtype or tensor.device != data.device:
                tensor.data = data
            if tensor.requires_grad != has_gradient:
                tensor.requires_grad_(has_gradient)
            store[name] = tensor


def _stores(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module._parameters, module._buffers


def scored(name: str, function: Callable[[nn.Module], Any], network: nn.Module) -> float:
    """What a function makes of a network: a finite number, or an error that names the function."""
    with lent(network):
        return finite(name, function(network))
