"""Hashes of modules and functions by all that they hold, which are the same in every process."""

from __future__ import annotations

import argparse
import functools
import hashlib
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from types import CodeType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from layermerge.configuration import OF_ALL_MODULES
from layermerge.values import lasting
from layermerge.weights import add_to_digest

_SIMPLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_HOOKS = sorted(name for name in OF_ALL_MODULES if name.endswith("_hooks"))
_PRINTED = frozenset(sys.stdlib_module_names) - {"__main__"} | {"numpy"}
"""Packages whose objects say by their text what they are."""
_CODE = (FunctionType, staticmethod, classmethod, property)
"""What counts of the names that Python itself gives to things of classes."""
_PASSING = ("_compiled_call_impl", "_is_torch_compile", "_use_default_values")
"""Of compiled modules, and of diffusers: others, or in another order, in each process."""


def structure(module: nn.Module) -> str:
    """Hash of all that decides how long a module takes, but its inputs: its code, too."""
    return _Fingerprints(has_values=False).of(module)[:16]


def fingerprint_model(module: nn.Module) -> str:
    """Hash of all that decides what a module computes, and what training makes of it.

    Classes and code of its modules, their attributes and hooks; values of parameters, of all
    buffers and of other tensors, and which are frozen. What is called from outside of it is known
    by name alone.
    """
    return _Fingerprints(has_values=True).of(module)[:16]


def fingerprint_function(function: Callable[..., Any]) -> str:
    """Hash of what a function computes: its code, defaults, and what it carries with it.

    Functions that it calls are known by name alone.
    """
    return _Fingerprints(has_values=True).of(function)[:16]


class _Fingerprints:
    """Of values of any kind, each looked at once.

    Parameters
    ----------
    has_values : bool
        Whether values of tensors count, or their shapes alone.
    """

    def __init__(self, *, has_values: bool) -> None:
        self._has_values = has_values
        self._known: dict[int, str] = {}
        self._alive: list[object] = []

    def of(self, value: Any) -> str:
        """The fingerprint of a value."""
        value = _before_compiling(value)
        if isinstance(value, _SIMPLE):
            return f"{type(value).__name__} {value!r}"
        if id(value) not in self._known:
            self._known[id(value)] = "a cycle"  # where it is met again before it is known
            self._alive.append(value)  # so that no other gets its id
            digest = hashlib.sha256()
            for part in self._parts(value):
                digest.update(f"{part}\n".encode())
            self._known[id(value)] = digest.hexdigest()
        return self._known[id(value)]

    def _parts(self, value: Any) -> Iterator[str]:
        if isinstance(value, type):
            yield _name_of(value)
            yield from self._class(value)
        elif isinstance(value, (Tensor, np.ndarray)):
            yield from self._array(value)
        elif isinstance(value, nn.Module):
            yield from self._module(value)
        elif isinstance(value, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
            yield str(value)  # what else they hold is what was dispatched so far
        elif isinstance(value, FunctionType):
            yield from self._function(value)
        elif isinstance(value, MethodType):
            yield from map(self.of, (value.__func__, value.__self__))
        elif isinstance(value, functools.partial):
            yield from map(self.of, (value.func, value.args, value.keywords))
        elif isinstance(value, (staticmethod, classmethod)):
            yield from map(self.of, (_name_of(type(value)), value.__func__))
        elif isinstance(value, property):
            yield from map(self.of, (value.fget, value.fset))
        elif isinstance(value, functools.cached_property):
            yield self.of(value.func)
        elif isinstance(value, Mapping):
            yield _name_of(type(value))
            for key, each in sorted(value.items(), key=lambda item: _text(item[0])):
                if not (isinstance(key, str) and key in _PASSING):
                    yield from map(self.of, (key, each))
        elif isinstance(value, (list, tuple, deque)):
            yield _name_of(type(value))
            yield from map(self.of, value)
        elif isinstance(value, (set, frozenset)):  # in another order in each process
            yield from sorted(map(self.of, value))
        else:
            yield from self._object(value)

    def _array(self, value: Any) -> Iterator[str]:
        if isinstance(value, np.ndarray):
            yield f"{value.dtype} {value.shape}"
            if value.dtype == object:
                yield from map(self.of, value.flat)
            elif self._has_values:
                yield hashlib.sha256(value.tobytes()).hexdigest()
            return
        if self._has_values:
            digest = hashlib.sha256()
            add_to_digest(digest, str(value.requires_grad), value)
            yield digest.hexdigest()
        else:
            yield f"{value.dtype} {[] if value.is_nested else [*value.shape]}"

    def _module(self, module: nn.Module) -> Iterator[str]:
        yield _name_of(type(module))
        attributes = vars(module)
        if isinstance(module, fx.GraphModule):
            yield module.code
        elif isinstance(module, torch.jit.ScriptModule):
            with suppress(RuntimeError):  # it has no forward
                code, constants = module.code_with_constants
                # Of several types of one name all but the first have a number.
                yield re.sub(r"___torch_mangle_\d+\.", "", code)
                yield self.of(constants.const_mapping)
        else:
            yield module.extra_repr()
            yield from self._class(type(module))
            for name in sorted(attributes.keys() - OF_ALL_MODULES - {*_PASSING}):
                yield from (name, self.of(attributes[name]))
        for name in _HOOKS:
            for hook in attributes.get(name, {}).values():
                yield from (name, self.of(hook))
        named = (
            module.named_parameters(recurse=False),
            module.named_buffers(recurse=False),
            module.named_children(),
        )
        for each in named:
            for name, value in each:
                yield from (name, self.of(value))

    def _function(self, function: FunctionType) -> Iterator[str]:
        yield _name_of(function)
        yield from _lines_of(function.__code__)
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # it is empty yet
                yield self.of(cell.cell_contents)
        for part in (function.__defaults__, function.__kwdefaults__, vars(function)):
            yield self.of(part)

    def _class(self, kind: type) -> Iterator[str]:
        """What classes that are not torch's or Python's define."""
        for base in kind.__mro__:
            package = base.__module__.partition(".")[0]
            if package == "torch" or package in _PRINTED:
                continue
            for name, member in sorted(vars(base).items()):
                if not name.startswith("__") or isinstance(member, _CODE):
                    yield from (name, self.of(member))

    def _object(self, value: Any) -> Iterator[str]:
        kind = type(value)
        yield _name_of(kind)
        is_namespace = isinstance(value, (SimpleNamespace, argparse.Namespace))
        is_printed = kind.__module__.partition(".")[0] in _PRINTED and not is_namespace
        held = dict(getattr(value, "__dict__", {}))
        for base in kind.__mro__:
            for name in _as_tuple(vars(base).get("__slots__", ())):
                with suppress(AttributeError):  # it is not set
                    held[name] = getattr(value, name)
        if "__wrapped__" in held:
            yield self.of(held["__wrapped__"])
        elif is_printed or isinstance(value, Enum) or not held:
            yield _text(value)
        else:
            for name in sorted(held.keys() - {*_PASSING}):
                yield from (name, self.of(held[name]))
        yield from self._class(kind)


def _before_compiling(value: Any) -> Any:
    """What was given to `torch.compile`."""
    if isinstance(value, nn.Module):
        return value._orig_mod if "dynamo_ctx" in vars(value) else value
    if isinstance(value, FunctionType):
        return vars(value).get("_torchdynamo_orig_callable", value)
    return value


def _text(value: Any) -> str:
    """What an object says of itself, if it can."""
    try:
        return lasting(repr(value))
    except Exception as error:  # of its own code
        return type(error).__name__


def _as_tuple(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _name_of(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _lines_of(code: CodeType) -> Iterator[str]:
    """Code without the file and line that it is at, and that of functions inside it."""
    yield hashlib.sha256(code.co_code).hexdigest()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _lines_of(constant)
        elif isinstance(constant, frozenset):
            yield repr(sorted(map(repr, constant)))
        else:
            yield lasting(repr(constant))
