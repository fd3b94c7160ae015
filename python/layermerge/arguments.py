"""Arguments of the public functions: those of another type are refused at once."""

from __future__ import annotations

from collections.abc import Mapping

from layermerge.checks import check_instance

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
    layermerge.errors.InputError: network must be a Network, got 'resnet18': \
trace(model, example_inputs) makes one
    """
    source = _SOURCES.get(kind.__name__)
    expected = f"a {kind.__name__}: {source}" if source else f"{kind.__name__}(...)"
    check_instance(name, value, kind, expected)
