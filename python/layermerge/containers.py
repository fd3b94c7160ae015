"""Tensors inside containers: arguments and results of what is recorded."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from layermerge.canonical import Call

_PLAIN: tuple[type, ...] = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    type(...),
    torch.dtype,
)
_PLAIN += (torch.device, torch.layout, torch.memory_format)


class UnrecordableError(Exception):
    """Something that a graph cannot hold; the message says what."""


def is_plain(value: Any) -> bool:
    """Whether a value is a constant that a graph can hold."""
    return isinstance(value, _PLAIN)


def is_container(value: Any) -> bool:
    """Whether `parts` sees into a value (or it is a tensor)."""
    return isinstance(value, (Tensor, tuple, list, Mapping)) or is_dataclass(value)


def is_dataclass(value: Any) -> bool:
    """Whether a value is an object of a class made by `dataclasses.dataclass`."""
    return hasattr(type(value), "__dataclass_fields__")


def parts(value: Any) -> Iterator[tuple[Any, Any, Callable[..., Any]]]:
    """The parts of a container: key, part, and the function that gets one by the other."""
    if isinstance(value, (tuple, list)):
        yield from ((index, part, operator.getitem) for index, part in enumerate(value))
    elif isinstance(value, Mapping):
        yield from ((key, part, operator.getitem) for key, part in value.items())
    elif is_dataclass(value):
        names = type(value).__dataclass_fields__
        yield from ((name, getattr(value, name), getattr) for name in names)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested containers, each once."""
    found: dict[int, Tensor] = {}
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            found[id(value)] = value
        elif isinstance(value, slice):
            waiting += [value.start, value.stop, value.step]
        elif not is_plain(value):
            waiting += [part for _, part, _ in parts(value)]
    return list(found.values())


def map_tensors(value: Any, of_tensor: Callable[[Tensor], Any]) -> Any:
    """Replace the tensors in arguments.

    Raises
    ------
    UnrecordableError
        If there is something among the arguments that a graph cannot hold.
    """
    if isinstance(value, Tensor):
        return of_tensor(value)
    if isinstance(value, (tuple, list)):
        mapped = [map_tensors(part, of_tensor) for part in value]
        if hasattr(value, "_fields"):
            return type(value)(*mapped)
        return mapped if isinstance(value, list) else tuple(mapped)
    if type(value) is dict:
        return {key: map_tensors(part, of_tensor) for key, part in value.items()}
    if isinstance(value, slice):
        return slice(*(map_tensors(p, of_tensor) for p in (value.start, value.stop, value.step)))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, range):
        return list(value)
    if not is_plain(value):
        raise UnrecordableError(f"a {type(value).__name__} is passed as an argument")
    return value


def written(
    value: Any, node_of: Callable[[Tensor], fx.Node], make_node: Callable[[Call], fx.Node]
) -> Any:
    """Write a model's result with nodes in place of tensors.

    Tuples, lists, dicts and constants stay; an object of another class, such as a dataclass or an
    ordered dict, becomes a node that calls the class.
    """

    def inner(part: Any) -> Any:
        return written(part, node_of, make_node)

    if isinstance(value, Tensor):
        return node_of(value)
    if type(value) in (tuple, list):
        return type(value)(map(inner, value))
    if type(value) is dict:
        return {key: inner(part) for key, part in value.items()}
    if is_plain(value):
        return value
    cls = type(value)
    if is_dataclass(value):
        kwargs = {name: inner(part) for name, part in _fields(value).items()}
        return make_node(Call("call_function", cls, (), kwargs))
    if isinstance(value, Mapping):
        items = [(key, inner(part)) for key, part in value.items()]
        return make_node(Call("call_function", cls, (items,)))
    if isinstance(value, tuple):
        args = tuple(map(inner, value))
        return make_node(Call("call_function", cls, args if hasattr(cls, "_fields") else (args,)))
    raise UnrecordableError(f"a {cls.__name__} is returned")


def _fields(value: Any) -> dict[str, Any]:
    fields = type(value).__dataclass_fields__
    return {name: getattr(value, name) for name, field in fields.items() if field.init}
