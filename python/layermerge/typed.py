"""Values of a dataclass against its annotations: what was read from a file is what it must be."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from layermerge.errors import InputError


def check_types(owner: Any) -> None:
    """Refuse an instance of a dataclass one of whose values is not of its annotated type.

    Dataclasses within are checked too. Whole numbers may stand for floats; NaN may not.

    Raises
    ------
    InputError
        Names the first such value.

    Examples
    --------
    >>> from layermerge.network import InputSpec
    >>> check_types(InputSpec("x", (1, "3"), "float32"))
    Traceback (most recent call last):
    layermerge.errors.InputError: shape must be whole numbers, got '3'
    """
    hints = _hints(type(owner))  # type: ignore[arg-type]
    for field in fields(owner):
        for value, kinds in _leaves(getattr(owner, field.name), hints[field.name]):
            if not any(_is_of(value, kind) for kind in kinds):
                expected = " or ".join(_NAMES.get(kind, str(kind)) for kind in kinds)
                raise InputError(f"{field.name} must be {expected}, got {_brief(value)}")
            if is_dataclass(value):
                check_types(value)


_NAMES: dict[Any, str] = {
    int: "whole numbers",
    float: "numbers",
    str: "text",
    type(None): "null",
    dict: "an object",
}


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _leaves(value: Any, hint: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Values that are no tuple or mapping, each with the types that it may have."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, tuple):
            yield value, (hint,)
        elif arguments[-1] is Ellipsis:
            for item in value:
                yield from _leaves(item, arguments[0])
        elif len(value) != len(arguments):
            yield value, (hint,)
        else:
            for item, kind in zip(value, arguments, strict=True):
                yield from _leaves(item, kind)
    elif origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        yield value, (dict,)
        if isinstance(value, dict):
            for key, item in value.items():
                yield from _leaves(key, arguments[0])
                yield from _leaves(item, arguments[1])
    elif origin in (typing.Union, types.UnionType):
        yield value, arguments
    elif hint is not Any:
        yield value, (hint,)


def _is_of(value: Any, kind: Any) -> bool:
    if kind is float:
        if isinstance(value, int):
            value = _as_float(value) if not isinstance(value, bool) else math.nan
        return isinstance(value, float) and not math.isnan(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str) and _is_unicode(value)
    return isinstance(kind, type) and isinstance(value, kind)


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _is_unicode(text: str) -> bool:
    """Whether it can be written: JSON may name halves of characters."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _brief(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
