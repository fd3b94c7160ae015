"""Arguments of the public functions: those of another type are refused at once."""

from __future__ import annotations

from collections.abc import Mapping

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
        raise InputError(f"{name} must be a {kind.__name__}, got {type(value).__name__}: {source}")
