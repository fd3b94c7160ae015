"""What decides what a module does besides its weights: what it prints, and what that leaves out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import fx, nn

from layermerge.values import lasting

_OF_ALL_MODULES = frozenset(vars(nn.Module()))
_PLAIN = (type(None), bool, int, float, complex, str, torch.dtype)


def described(module: nn.Module) -> str:
    """A module as it prints itself, and a hash of its settings that are not printed, if any.

    `nn.MultiheadAttention` does not say how many heads it has, and a module of one's own nothing.

    Examples
    --------
    >>> described(nn.MaxPool2d(2))
    'MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)'
    """
    hidden = {name: found for name, each in module.named_modules() if (found := _hidden(each))}
    return lasting(repr(module)) + (f" {_digest(hidden)}" if hidden else "")


def structure(module: nn.Module) -> str:
    """Hash of all that decides how long a module takes, but its inputs: its code, too."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    parts = {
        "modules": described(module),
        "code": {name: [*_code(each)] for name, each in module.named_modules()},
        "weights": {name: f"{t.dtype}{list(t.shape)}" for name, t in tensors.items()},
    }
    return _digest(parts)


def _hidden(module: nn.Module) -> dict[str, str]:
    """Plain attributes of a module, unless it is one of torch's that print theirs."""
    is_printed = type(module).__module__.startswith("torch.nn.") and not [*module.children()]
    if is_printed or isinstance(module, fx.GraphModule):
        return {}
    attributes = vars(module).items()
    return {
        name: lasting(repr(value))
        for name, value in attributes
        if name not in _OF_ALL_MODULES and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    return isinstance(value, (*_PLAIN, FunctionType))


def _code(module: nn.Module) -> Iterator[str]:
    """What a module runs: its class, and the code of its forward."""
    yield f"{type(module).__module__}.{type(module).__qualname__}"
    if isinstance(module, fx.GraphModule):
        yield module.code
    code = getattr(type(module).forward, "__code__", None)
    if isinstance(code, CodeType):
        yield hashlib.sha256(code.co_code).hexdigest()
        yield lasting(repr((code.co_consts, code.co_names)))


def _digest(parts: Mapping[str, object]) -> str:
    content = json.dumps(parts, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]
