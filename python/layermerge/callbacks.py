"""Checks of the functions that users give: to score, to train, to evaluate (no torch)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from layermerge.errors import InputError

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


def evaluated(evaluate: Callable[[nn.Module], Any], network: nn.Module) -> float:
    """The score of a network.

    Raises
    ------
    InputError
        If it is no finite number.
    """
    value = evaluate(network)
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"evaluate_fn (or score_fn) must return a finite number, got {value!r}")
    return score
