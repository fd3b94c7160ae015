"""Checks of the functions that users give: to score, to train, to evaluate (no torch)."""

from __future__ import annotations

import inspect
import math
from numbers import Real
from typing import TYPE_CHECKING, Any

from layermerge.checks import MOST
from layermerge.errors import InputError, TrainingError, shown

if TYPE_CHECKING:
    from torch import nn


def check_callbacks(**functions: object) -> None:
    """Refuse what cannot be called.

    Raises
    ------
    InputError
        Names the first such argument.
    """
    for name, function in functions.items():
        if not callable(function):
            raise InputError(f"{name} must be a function of a network, got {function!r}")


def check_in_place(name: str, returned: object, network: nn.Module) -> None:
    """Refuse training that leaves the network that it was given as it was, and returns another.

    Raises
    ------
    TrainingError
    """
    if inspect.isgenerator(returned) or inspect.iscoroutine(returned):
        returned.close()
        raise TrainingError(
            f"{name} returned a {type(returned).__name__}, which has not run: it must be a plain "
            "function that trains before it returns, without `yield` or `async`"
        )
    if returned is not network and hasattr(returned, "parameters"):
        raise TrainingError(
            f"{name} returned another network ({type(returned).__name__}), which is not looked at: "
            "it must train the one that it is given, in place"
        )


def finite(name: str, returned: Any) -> float:
    """What a function that scores has returned: a finite number, or a tensor that holds one.

    Raises
    ------
    InputError
        If it is anything else.
    """
    value = returned
    try:
        if hasattr(returned, "item"):  # of torch or NumPy
            value = returned.item()
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        score = float(value) if is_number else math.nan
    except (TypeError, ValueError, RuntimeError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"{name} must return a finite number, got {shown(repr(returned))}")
    if abs(score) > MOST:
        raise InputError(f"{name} must return at most {MOST:g} in absolute value, got {score:g}")
    return score
