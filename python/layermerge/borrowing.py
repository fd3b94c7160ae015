"""Copy a model without its weights, for as long as they are only read."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


def copy_borrowing_weights(model: nn.Module) -> nn.Module:
    """A copy of a model whose parameters show the memory of the model's own."""
    return copy.deepcopy(
        model,
        {
            id(own): nn.Parameter(own.data, own.requires_grad)
            for own in model.parameters()
            if _may_be_borrowed(own)
        },
    )


@contextmanager
def giving_back(model: nn.Module) -> Iterator[None]:
    """Undo what is written into the memory of the model's parameters, as a forward may do."""
    guard = _KeepBefore(own for own in model.parameters() if _may_be_borrowed(own))
    try:
        with guard:
            yield
    finally:
        guard.restore()


def _may_be_borrowed(own: nn.Parameter) -> bool:
    # Parameters of other types have memory of their own kind; those made in inference mode cannot
    # be shown by one that can be trained.
    return type(own) is nn.Parameter and not own.is_inference() and own.layout is torch.strided


class _KeepBefore(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Keeps the values of parameters that an operation is about to write to."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self._owners: dict[int, list[Tensor]] = {}
        for own in parameters:
            self._owners.setdefault(_memory(own), []).append(own.data)
        self._before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for value in pytree.tree_leaves((args, kwargs)):
                if isinstance(value, Tensor):
                    self._keep(value)
        # A scripted function comes here past the recording, which must not see its insides either.
        with torch._C.DisableTorchFunction():
            return func(*args, **kwargs)

    def _keep(self, value: Tensor) -> None:
        owners = self._owners.pop(_memory(value), ())
        self._before += [(own, own.clone()) for own in owners]

    def restore(self) -> None:
        for own, value in self._before:
            own.copy_(value)


def _memory(value: Tensor) -> int:
    return value.untyped_storage()._cdata if value.layout is torch.strided else 0
