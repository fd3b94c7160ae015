"""The restrictions of enumeration: whether they are valid, and what they leave out."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from numbers import Integral, Real

from layermerge.candidates import METHODS, CandidateSpace
from layermerge.errors import InputError
from layermerge.network import Network, Segment


def check_restrictions(
    network: Network,
    method: str,
    limits: dict[str, float | None],
    breaks: Collection[int],
) -> None:
    """Refuse options that name no method or position of the network."""
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    for name in ("max_kernel", "max_segment", "max_weights"):
        limit = limits[name]
        if limit is not None and (not isinstance(limit, Integral) or limit < 1):
            raise InputError(f"{name} must be a whole number of at least 1, got {limit!r}")
    check_ratio(limits["max_flops_ratio"])
    _check_collection("breaks", breaks, "positions")
    for position in breaks:
        _check_place("breaks", "position", position, range(network.num_layers + 1))


def check_ratio(ratio: float | None) -> None:
    """Refuse a limit of FLOPs that nothing could be within."""
    if ratio is not None and not (isinstance(ratio, Real) and ratio > 0):
        raise InputError(f"max_flops_ratio must be a number greater than 0, got {ratio!r}")


def frozen_layers(network: Network, frozen: Collection[int | str]) -> frozenset[int]:
    """The layers that are left as they are, each given by its number or by the name of a module.

    Parameters
    ----------
    network : Network
    frozen : collection of int or str
        A name stands for the layer of that name, or for all layers of the module of that name.

    Raises
    ------
    InputError
        If one of them is no layer, and holds none.
    """
    _check_collection("frozen", frozen, "layers")
    found: set[int] = set()
    for place in frozen:
        if isinstance(place, str):
            found.update(_layers_of_module(network, place))
        else:
            _check_place("frozen", "layer", place, range(1, network.num_layers + 1))
            found.add(place)
    return frozenset(found)


def _layers_of_module(network: Network, name: str) -> list[int]:
    found = [layer.index for layer in network.layers if f"{layer.name}.".startswith(f"{name}.")]
    if not found:
        paths = [layer.name.split(".") for layer in network.layers]
        known = {".".join(path[:end]) for path in paths for end in range(1, len(path) + 1)}
        near = difflib.get_close_matches(name, sorted(known), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "layermerge inspect lists the layers"
        raise InputError(f"frozen names {name!r}, which holds no layer of {network.name}; {hint}")
    return found


def _check_collection(name: str, places: object, words: str) -> None:
    if not isinstance(places, Collection) or isinstance(places, str):
        raise InputError(f"{name} must be a collection of {words}, got {places!r}")


def _check_place(name: str, word: str, place: object, allowed: range) -> None:
    if not isinstance(place, Integral) or place not in allowed:
        raise InputError(f"{name} names {word} {place!r}; {word}s are {allowed[0]}..{allowed[-1]}")


def is_allowed(
    segment: Segment, max_segment: int | None, frozen: Collection[int], breaks: Collection[int]
) -> bool:
    """Whether a segment may be merged at all."""
    length = segment.end - segment.start
    if length == 1:
        return True
    return (
        (max_segment is None or length <= max_segment)
        and not any(layer in segment.indices for layer in frozen)
        and not any(segment.start < position < segment.end for position in breaks)
    )


@dataclass(frozen=True)
class Limits:
    """What a merged convolution may cost."""

    max_flops_ratio: float | None
    max_weights: int | None

    def why_skipped(self, weights: int, flops: int, replaced_flops: int) -> str:
        """The limit that it exceeds in words; empty if there is none."""
        if self.max_weights is not None and weights > self.max_weights:
            return f"more than {self.max_weights} weights"
        if self.max_flops_ratio is not None and flops > self.max_flops_ratio * replaced_flops:
            return f"more than {self.max_flops_ratio:g} times the FLOPs"
        return ""

    def applied(self, space: CandidateSpace) -> CandidateSpace:
        """Leave out the candidates above the limits, and count them."""
        left, skipped = [], Counter[str]()
        for candidate in space.candidates:
            layers = space.network.layers[candidate.start : candidate.end]
            reason = self.why_skipped(
                candidate.signature.num_weights,
                candidate.signature.flops,
                sum(layer.flops for layer in layers),
            )
            if reason and not candidate.is_original:
                skipped[reason] += 1
            else:
                left.append(candidate)
        return replace(space, candidates=tuple(left), skipped=dict(skipped))
