"""How a module says what it is: what it prints, and the settings that this leaves out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn

from layermerge.values import lasting

OF_ALL_MODULES = frozenset(vars(nn.Module()))
"""Attributes that every module has."""
_PLAIN = (type(None), bool, int, float, complex, str, torch.dtype, Enum)


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


def _hidden(module: nn.Module) -> dict[str, str]:
    """Plain attributes of a module, unless it is one of torch's that print theirs."""
    is_printed = type(module).__module__.startswith("torch.nn.") and not [*module.children()]
    if is_printed or isinstance(module, fx.GraphModule):
        return {}
    attributes = vars(module).items()
    return {
        name: lasting(repr(value))
        for name, value in attributes
        if name not in OF_ALL_MODULES and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if is_dataclass(value) and not isinstance(value, type):
        return all(_is_plain(getattr(value, field.name)) for field in fields(value))
    return isinstance(value, (*_PLAIN, FunctionType))


def _digest(parts: Mapping[str, object]) -> str:
    content = json.dumps(parts, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]
