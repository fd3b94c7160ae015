"""Arguments of the public functions: those of another type are refused at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from layermerge.errors import InputError

_SOURCES: Mapping[str, str] = {
    "Network": "trace(model, example_inputs) makes one",
    "CandidateSpace": "SearchSpace().enumerate(network) makes one",
    "LatencyProfile": "measure_latency(model, network, space, ...) makes one",
    "ImportanceScores": "estimate_importance(model, network, space, ...) makes one",
    "Plan": "solve for one with make_plan, or read one from a file with load_plan",
    "Module": "give the model itself",
}
"""Where what a function takes comes from, by the name of its type."""


def check_argument(name: str, value: object, kind: type) -> None:
    """Refuse an argument that is not of the type it must have, and say where one comes from.

    Raises
    ------
    InputError

    Examples
    --------
    >>> from layermerge.network import Network
    >>> check_argument("network", "resnet18", Network)
    Traceback (most recent call last):
    layermerge.errors.InputError: network must be a Network, got str: trace(model, example_inputs) \
makes one
    """
    if not isinstance(value, kind):
        source = _SOURCES.get(kind.__name__, f"make one, {kind.__name__}(...)")
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise InputError(
            f"{name} must be {article} {kind.__name__}, got {type(value).__name__}: {source}"
        )


def as_path(name: str, value: object) -> Path:
    """The path that an argument gives; what is no path is refused.

    Raises
    ------
    InputError

    Examples
    --------
    >>> as_path("path", "plan.json").suffix
    '.json'
    >>> as_path("path", None)
    Traceback (most recent call last):
    layermerge.errors.InputError: path must be a path, text or pathlib.Path, got NoneType
    """
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise InputError(f"{name} must be a path, text or pathlib.Path, got {type(value).__name__}")
    if "\0" in os.fspath(value):
        raise InputError(f"{name} must be a path, got {value!r}, which holds a zero byte")
    return Path(value)
