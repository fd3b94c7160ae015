"""Lend a network to functions of the user's, and have it back in the state that it was in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layermerge.callbacks import check_in_place, finite
from layermerge.errors import TrainingError
from layermerge.model_checks import not_finite_statistics


@contextmanager
def modes_kept() -> Iterator[None]:
    """Put torch's settings back after somebody else's code.

    Gradient mode, default dtype and device, threads, and autocasting.
    """
    has_gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    threads, device = torch.get_num_threads(), torch.get_default_device()
    casts = {kind: torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")}
    try:
        yield
    finally:
        torch.set_grad_enabled(has_gradients)
        torch.set_default_dtype(dtype)
        for kind, is_enabled in casts.items():
            torch.set_autocast_enabled(kind, is_enabled)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextmanager
def training_kept(network: nn.Module) -> Iterator[None]:
    """Put each module back into training or evaluation mode after a block."""
    modules = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, is_training in modules:
            module.training = is_training


@contextmanager
def lent(network: nn.Module) -> Iterator[None]:
    """Put a network back after a block that may only look at it.

    All attributes of its modules, hooks and submodules included; values of parameters and buffers,
    which of them are frozen, their precision and device.
    """
    modules = [(vars(module), _contents(vars(module))) for module in network.modules()]
    tensors = [
        (tensor, tensor.data, _copied(tensor.data), tensor.requires_grad)
        for tensor in (*network.parameters(), *network.buffers())
    ]
    try:
        with modes_kept():
            yield
    finally:
        for attributes, contents in modules:
            _restore(attributes, contents)
        for tensor, data, values, has_gradient in tensors:
            if not _is_same_memory(tensor, data):
                tensor.data = data
            if values is not None and not torch.equal(data, values):
                with torch.inference_mode():
                    data.copy_(values)
            if tensor.requires_grad != has_gradient:
                tensor.requires_grad_(has_gradient)


def _is_same_memory(tensor: Tensor, data: Tensor) -> bool:
    """Whether a tensor still shows the memory that it did."""
    if tensor.dtype != data.dtype or tensor.device != data.device or tensor.layout != data.layout:
        return False
    if tensor.layout is not torch.strided or tensor.is_meta:
        return True
    places = [(each.data_ptr(), each.shape, each.stride()) for each in (tensor, data)]
    return places[0] == places[1]


def _contents(attributes: dict[str, Any]) -> dict[str, tuple[Any, dict[Any, Any] | None]]:
    """Each attribute, and what it holds where it is a plain dictionary, as of hooks."""
    return {
        name: (value, dict(value) if type(value) in (dict, OrderedDict) else None)
        for name, value in attributes.items()
    }


def _restore(
    attributes: dict[str, Any], contents: dict[str, tuple[Any, dict[Any, Any] | None]]
) -> None:
    attributes.clear()
    attributes.update((name, value) for name, (value, _) in contents.items())
    for value, held in contents.values():
        if held is not None:  # the same dictionary: the handles of hooks refer to it
            value.clear()
            value.update(held)


def _copied(data: Tensor) -> Tensor | None:
    return data.clone() if data.layout is torch.strided and not data.is_meta else None


def scored(name: str, function: Callable[[nn.Module], Any], network: nn.Module) -> float:
    """What a function makes of a network: a finite number, or an error that names the function."""
    with lent(network):
        return finite(name, function(network))


def train_in_place(name: str, train_fn: Callable[[nn.Module], Any], network: nn.Module) -> None:
    """Let a function of the user's train a network, and see that it is the same one afterwards.

    Raises
    ------
    TrainingError
        If the function returns another network, changes more than the values of the weights, or
        they are no longer finite.
    """
    before, hooks = _tensors(network), _num_hooks(network)
    with modes_kept():
        check_in_place(name, train_fn(network), network)
    take_off_wrapper(network)
    _check_same(name, before, _tensors(network))
    if _num_hooks(network) > hooks:
        raise TrainingError(
            f"{name} leaves a hook on the network, which is no part of it: remove it at the end, "
            "by the handle that registering returned"
        )
    _check_finite(network)


def _check_finite(module: nn.Module) -> None:
    """Refuse a network whose weights are no longer finite: its training diverged."""
    for name, weight in module.named_parameters():
        if not torch.isfinite(weight).all():
            raise TrainingError(f"fine-tuning diverged: parameter {name!r} holds NaN or infinity")
    for name, each in module.named_modules():
        if (bad := not_finite_statistics(each)) is not None:
            raise TrainingError(f"fine-tuning diverged: {bad} of {name!r} holds NaN or infinity")


def take_off_wrapper(network: nn.Module) -> None:
    """Give a network its own forward again, where accelerate left one in mixed precision."""
    attributes = vars(network)
    own = attributes.pop("_original_forward", None)
    if own is None:
        return
    attributes.pop("forward", None)
    if getattr(own, "__func__", None) is not type(network).forward:
        attributes["forward"] = own


def _num_hooks(network: nn.Module) -> int:
    """Hooks of its modules that may change what they compute."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()
    )


def _tensors(module: nn.Module) -> dict[str, str]:
    """What describes parameters and buffers but their values, and devices unless they have none."""
    tensors = {"parameter": module.named_parameters(), "buffer": module.named_buffers()}
    return {
        f"{kind} {name!r}": f"{str(value.dtype).removeprefix('torch.')} of shape "
        f"{tuple(value.shape)}" + " on the device meta" * value.is_meta
        for kind, named in tensors.items()
        for name, value in named
    }


def _check_same(name_of_function: str, before: dict[str, str], after: dict[str, str]) -> None:
    """Refuse training that changed more than values."""
    for name in {**before, **after}:
        was, now = before.get(name, "missing"), after.get(name, "missing")
        if was != now:
            raise TrainingError(
                f"{name_of_function} must train in place, and leave structure and precision as they"
                f" are: {name} was {was}, and is {now}"
            )
