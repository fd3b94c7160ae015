"""What decides what a module does: what it prints, what that leaves out, its code and weights."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from layermerge.values import lasting
from layermerge.weights import add_to_digest

_OF_ALL_MODULES = frozenset(vars(nn.Module()))
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


def structure(module: nn.Module) -> str:
    """Hash of all that decides how long a module takes, but its inputs: its code, too."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    parts = {
        "modules": described(module),
        "code": {name: [*_code(each)] for name, each in module.named_modules()},
        "weights": {name: f"{t.dtype}{list(t.shape)}" for name, t in tensors.items()},
    }
    return _digest(parts)


def fingerprint_model(module: nn.Module) -> str:
    """Hash of all that decides what a module computes, and what training makes of it.

    That is its `structure`, the values of its parameters, of all buffers and of tensors that are
    plain attributes, the code of functions that are, and which parameters are frozen.
    """
    digest = hashlib.sha256(structure(module).encode())
    for name, tensor in module.named_parameters():
        add_to_digest(digest, f"{name} {tensor.requires_grad}", tensor)
    for name, buffer in module.named_buffers():
        add_to_digest(digest, name, buffer)
    for name, each in module.named_modules():
        own = {key: value for key, value in vars(each).items() if key not in _OF_ALL_MODULES}
        _add_arrays(digest, name, own)
        for leaf in pytree.tree_leaves(own):
            for line in _code_of(leaf):
                digest.update(line.encode())
    return digest.hexdigest()[:16]


def fingerprint_function(function: Callable[..., Any]) -> str:
    """Hash of what a function computes: its code, defaults, and what it carries with it.

    Functions that it calls are known by name alone.
    """
    carried: list[Any] = []
    while isinstance(function, partial):
        carried += [function.args, function.keywords]
        function = function.func
    if isinstance(function, nn.Module):
        carried.append(fingerprint_model(function))
    elif isinstance(function, MethodType):
        carried.append(vars(function.__self__))
    elif isinstance(function, FunctionType):
        carried += [function.__defaults__, function.__kwdefaults__, _closure(function)]
    else:  # an object that can be called
        carried.append(getattr(function, "__dict__", {}))
    digest = hashlib.sha256(lasting(repr(function)).encode())
    for leaf in pytree.tree_leaves(carried):
        if isinstance(leaf, nn.Module):
            leaf = fingerprint_model(leaf)
        digest.update(lasting(repr(leaf)).encode())
    _add_arrays(digest, "", carried)
    called = function if isinstance(function, FunctionType) else type(function).__call__
    for line in _code_of(getattr(function, "__func__", called)):
        digest.update(line.encode())
    return digest.hexdigest()[:16]


def _closure(function: FunctionType) -> list[Any]:
    """Values of the names of an outer function; a cell may be empty yet."""
    return [*inspect.getclosurevars(function).nonlocals.values()]


def _add_arrays(digest: hashlib._Hash, name: str, values: Any) -> None:
    """Add the tensors and arrays among values to a hash."""
    for leaf in pytree.tree_leaves(values):
        if isinstance(leaf, np.ndarray) and leaf.dtype != object:
            leaf = torch.from_numpy(np.ascontiguousarray(leaf))
        if isinstance(leaf, Tensor):
            add_to_digest(digest, name, leaf)


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
    if is_dataclass(value) and not isinstance(value, type):
        return all(_is_plain(getattr(value, field.name)) for field in fields(value))
    return isinstance(value, (*_PLAIN, FunctionType))


def _code(module: nn.Module) -> Iterator[str]:
    """What a module runs: its class, and the code of its forward if it is not torch's."""
    yield f"{type(module).__module__}.{type(module).__qualname__}"
    if isinstance(module, fx.GraphModule):
        yield module.code
    elif not type(module).__module__.startswith("torch.") or "forward" in vars(module):
        yield from _code_of(module.forward)


def _code_of(function: Any) -> Iterator[str]:
    code = getattr(function, "__code__", None)
    if isinstance(code, CodeType):
        yield from _lines_of(code)


def _lines_of(code: CodeType) -> Iterator[str]:
    """Code without the file and line that it is at, and that of functions inside it."""
    yield hashlib.sha256(code.co_code).hexdigest()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _lines_of(constant)
        elif isinstance(constant, frozenset):  # in another order in each process
            yield repr(sorted(map(repr, constant)))
        else:
            yield lasting(repr(constant))


def _digest(parts: Mapping[str, object]) -> str:
    content = json.dumps(parts, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]
