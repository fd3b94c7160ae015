"""The plan: consecutive candidates that cover 0..L, with what was promised and how it was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layermerge.documents import read_document, write_document
from layermerge.errors import InputError
from layermerge.network import InputSpec, Network, Size

if TYPE_CHECKING:
    from layermerge.candidates import Candidate

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class PlannedSegment:
    """One step of a plan: layers start+1..end run as one convolution made of the `kept` ones."""

    start: int
    end: int
    kernel_size: Size
    kept: tuple[int, ...]
    latency_ns: int = 0
    importance: float = 0.0

    @property
    def is_original(self) -> bool:
        """Whether the layer stays as it is."""
        return self.end - self.start == 1 == len(self.kept)


@dataclass(frozen=True)
class Plan:
    """Which activations and convolutions stay.

    Attributes
    ----------
    network_fingerprint : str
        `Network.fingerprint` of the network that it was made for.
    inputs : tuple of InputSpec
        Example inputs that the network was traced with.
    budget_ns : int or None
        Whole-network budget; None when none was set.
    latency_ns : int or None
        Predicted whole-network latency; None when nothing was measured.
    importance : float
        Objective value, the sum over the segments.
    certificate : str
        What is proven about the objective, in words.
    provenance : mapping
        Versions, device, seeds: whatever is needed to get the plan again.
    """

    network_fingerprint: str
    num_layers: int
    inputs: tuple[InputSpec, ...]
    segments: tuple[PlannedSegment, ...]
    budget_ns: int | None = None
    latency_ns: int | None = None
    importance: float = 0.0
    certificate: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_integers("num_layers", self.num_layers)
        if self.num_layers < 1:
            raise InputError(f"num_layers must be at least 1, got {self.num_layers}")
        position = 0
        for segment in self.segments:
            _check_segment(segment, position)
            position = segment.end
        if position != self.num_layers:
            raise InputError(
                f"the plan covers positions 0..{position}; expected 0..{self.num_layers}"
            )

    @property
    def activations(self) -> tuple[int, ...]:
        """Positions at which a segment ends: the activations that stay."""
        return tuple(segment.end for segment in self.segments)

    @property
    def convolutions(self) -> tuple[int, ...]:
        """The layers that are kept."""
        return tuple(layer for segment in self.segments for layer in segment.kept)

    @property
    def fingerprint(self) -> str:
        """Hash of the network and of what is kept of it: what compressed weights belong to."""
        kept = [(segment.start, segment.end, segment.kept) for segment in self.segments]
        text = json.dumps([self.network_fingerprint, kept])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def explain(self) -> str:
        """Describe the plan, one line per segment."""
        return "\n".join(_describe(segment) for segment in self.segments)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        write_document(path, "plan", SCHEMA_VERSION, asdict(self))


def original_plan(network: Network) -> Plan:
    """The plan that keeps every layer and every activation."""
    segments = tuple(
        PlannedSegment(layer.index - 1, layer.index, layer.kernel_size, (layer.index,))
        for layer in network.layers
    )
    return Plan(network.fingerprint, network.num_layers, network.inputs, segments)


def replace_segment(network: Network, candidate: Candidate) -> Plan:
    """The plan that keeps every layer but those that `candidate` replaces."""
    outside = [
        segment
        for segment in original_plan(network).segments
        if segment.end <= candidate.start or segment.start >= candidate.end
    ]
    changed = PlannedSegment(candidate.start, candidate.end, candidate.kernel_size, candidate.kept)
    segments = sorted([*outside, changed], key=lambda segment: segment.start)
    return Plan(network.fingerprint, network.num_layers, network.inputs, tuple(segments))


def load_plan(path: str | Path) -> Plan:
    """Read a plan from JSON.

    Raises
    ------
    InputError
        If the file is missing, is no plan, or was written by a newer version.
    """
    return read_document(path, "plan", SCHEMA_VERSION, _parse)


def _parse(document: dict[str, Any]) -> Plan:
    inputs = tuple(
        InputSpec(spec["name"], tuple(spec["shape"]), spec["dtype"])
        for spec in document.pop("inputs")
    )
    segments = tuple(
        PlannedSegment(
            segment["start"],
            segment["end"],
            (segment["kernel_size"][0], segment["kernel_size"][1]),
            tuple(segment["kept"]),
            segment["latency_ns"],
            segment["importance"],
        )
        for segment in document.pop("segments")
    )
    return Plan(inputs=inputs, segments=segments, **document)


def _check_integers(name: str, *values: object) -> None:
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{name} must be integers, got {value!r}")


def _check_segment(segment: PlannedSegment, position: int) -> None:
    _check_integers("start, end and kept layers", segment.start, segment.end, *segment.kept)
    if segment.start != position or segment.end <= segment.start:
        raise InputError(
            f"segment ({segment.start}, {segment.end}] does not continue the plan at position "
            f"{position}: segments must be consecutive"
        )
    outside = [layer for layer in segment.kept if not segment.start < layer <= segment.end]
    if outside or not segment.kept or list(segment.kept) != sorted(set(segment.kept)):
        raise InputError(
            f"segment ({segment.start}, {segment.end}] keeps {list(segment.kept)}: expected at "
            f"least one of its layers {segment.start + 1}..{segment.end}, in order"
        )


def _describe(segment: PlannedSegment) -> str:
    if segment.is_original:
        return f"{segment.end:4d}        as it is"
    height, width = segment.kernel_size
    removed = segment.end - segment.start - len(segment.kept)
    kept = ", ".join(map(str, segment.kept))
    return (
        f"{segment.start + 1:4d}..{segment.end:<4d}  -> one {height}x{width} convolution from "
        f"layer{'s' if len(segment.kept) > 1 else ''} {kept}"
        + (f"; {removed} removed" if removed else "")
    )
