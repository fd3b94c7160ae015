"""Checks of the attributes of what may have been read from a file (no torch)."""

from __future__ import annotations

import math
from numbers import Real

from layermerge.errors import InputError, shown

MOST = 1e20
"""In absolute value: beyond what is counted here, and far from where floats overflow."""

MAX_SEED = 2**32 - 1
"""The largest seed that NumPy's generator takes."""


def check_numbers(owner: object, *names: str, least: float = -math.inf) -> None:
    """Refuse attributes that are no finite numbers, or less than they can be."""
    for name in names:
        check_number(name, getattr(owner, name), least)


def check_number(name: str, value: object, least: float = -math.inf) -> None:
    """Refuse what is no finite number, or less than it can be."""
    if (
        not isinstance(value, Real)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or value < least
    ):
        at_least = f" of at least {least}" if math.isfinite(least) else ""
        raise InputError(f"{name} must be a finite number{at_least}, got {value!r}")
    if abs(float(value)) > MOST:
        raise InputError(f"{name} must be at most {MOST:g} in absolute value, got {value!r}")


def check_integers(owner: object, *names: str, least: int) -> None:
    """Refuse attributes that are no integers, or less than they can be."""
    for name in names:
        check_integer(name, getattr(owner, name), least)


def check_integer(name: str, value: object, least: int) -> None:
    """Refuse what is no integer, or less than it can be."""
    check_number(name, value, least)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name} must be an integer, got {value!r}")


def check_seed(value: object) -> None:
    """Refuse what cannot seed the generators of Python, NumPy and torch alike."""
    check_integer("seed", value, least=0)
    assert isinstance(value, int)
    if value > MAX_SEED:
        raise InputError(f"seed must be at most 2^32 - 1, got {value}")


def check_instance(name: str, value: object, kind: type, expected: str) -> None:
    """Refuse what is not of a type or protocol; a class is not an instance of it."""
    if isinstance(value, type) or not isinstance(value, kind):
        raise InputError(f"{name} must be {expected}, got {shown(repr(value))}")


def check_truth(name: str, value: object) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}")


def check_texts(owner: object, *names: str) -> None:
    """Refuse attributes that are no text."""
    for name in names:
        if not isinstance(value := getattr(owner, name), str):
            raise InputError(f"{name} must be text, got {value!r}")


def check_tuples_of_text(owner: object, *names: str) -> None:
    """Refuse attributes that are no tuples of text."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, tuple) or not all(isinstance(each, str) for each in value):
            raise InputError(f"{name} must be a list of texts, got {value!r}")


def check_tuples_of_integers(owner: object, *names: str, least: int) -> None:
    """Refuse attributes that are no tuples of integers, or of some less than they can be."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, tuple):
            raise InputError(f"{name} must be a list of integers, got {value!r}")
        for place, each in enumerate(value):
            check_integer(f"{name}[{place}]", each, least)
