"""The plan: consecutive candidates that cover 0..L, with what was promised and how it was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layermerge.arguments import check_argument
from layermerge.dataflow import REMOVABLE
from layermerge.documents import read_document, write_document
from layermerge.errors import InputError
from layermerge.network import InputSpec, Layer, Network
from layermerge.typed import check_types
from layermerge.windows import Size, Window

if TYPE_CHECKING:
    from layermerge.candidates import Candidate

SCHEMA_VERSION = 2
DTYPES = (
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("bool", "uint8", "int8", "int16", "int32", "int64"),
)
"""Names that torch gives the types that inputs may have."""


@dataclass(frozen=True)
class PlannedSegment:
    """One step of a plan: layers start+1..end run as one convolution made of the `kept` ones.

    Attributes
    ----------
    kept : tuple of int
        Empty, if the segment is dropped: its input stands in for its output.
    activation, norm : str or None
        Added behind the merged convolution; see `Candidate`.
    """

    start: int
    end: int
    kernel_size: Size
    kept: tuple[int, ...]
    latency_ns: int = 0
    importance: float = 0.0
    activation: str | None = None
    norm: str | None = None

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
    remove : tuple of str
        What the network was traced to remove; see `trace`.
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
    remove: tuple[str, ...] = ("activation",)

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
        parts = [(s.start, s.end, s.kept, s.activation, s.norm) for s in self.segments]
        text = json.dumps([self.network_fingerprint, parts])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def explain(self) -> str:
        """Describe the plan, one line per segment."""
        return "\n".join(_describe(segment) for segment in self.segments)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        write_document(path, "plan", SCHEMA_VERSION, asdict(self))


def original_plan(network: Network) -> Plan:
    """The plan that keeps every layer and every activation."""
    check_argument("network", network, Network)
    return _plan_of(network, map(_original, network.layers))


def replace_segment(network: Network, candidate: Candidate) -> Plan:
    """The plan that keeps every layer but those that `candidate` replaces."""
    return plan_of(network, [candidate])


def plan_of(network: Network, candidates: Iterable[Candidate]) -> Plan:
    """The plan that these candidates make, without promises; other layers stay as they are."""
    segments = [planned_segment(candidate) for candidate in candidates]
    replaced = {layer for s in segments for layer in range(s.start + 1, s.end + 1)}
    others = [_original(layer) for layer in network.layers if layer.index not in replaced]
    return _plan_of(network, sorted([*segments, *others], key=lambda segment: segment.start))


def planned_segment(
    candidate: Candidate, latency_ns: int = 0, importance: float = 0.0
) -> PlannedSegment:
    """The step of a plan that a candidate is."""
    return PlannedSegment(
        candidate.start,
        candidate.end,
        candidate.kernel_size,
        candidate.kept,
        latency_ns,
        importance,
        candidate.activation,
        candidate.norm,
    )


def _original(layer: Layer) -> PlannedSegment:
    down, across = Window(layer.kernel_size, dilation=layer.dilation).growth
    return PlannedSegment(layer.index - 1, layer.index, (down + 1, across + 1), (layer.index,))


def _plan_of(network: Network, segments: Iterable[PlannedSegment]) -> Plan:
    return Plan(
        network.fingerprint,
        network.num_layers,
        network.inputs,
        tuple(segments),
        remove=network.remove,
    )


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
            tuple(segment["kernel_size"]),
            tuple(segment["kept"]),
            segment["latency_ns"],
            segment["importance"],
            segment["activation"],
            segment["norm"],
        )
        for segment in document.pop("segments")
    )
    remove = tuple(document.pop("remove"))
    if not set(remove) <= REMOVABLE.keys():
        raise InputError(f"remove must be of {', '.join(REMOVABLE)}; got {list(remove)}")
    plan = Plan(inputs=inputs, segments=segments, remove=remove, **document)
    check_types(plan)
    for spec in plan.inputs:
        if spec.dtype not in DTYPES or min(spec.shape, default=0) < 0:
            raise InputError(f"input {spec.name!r} must have a shape and a type, got {spec}")
    if any(min(segment.kernel_size) < 0 or segment.latency_ns < 0 for segment in plan.segments):
        raise InputError("kernel sizes and latencies must be at least 0")
    return plan


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
    if outside or list(segment.kept) != sorted(set(segment.kept)):
        raise InputError(
            f"segment ({segment.start}, {segment.end}] keeps {list(segment.kept)}: expected "
            f"layers of {segment.start + 1}..{segment.end}, in order"
        )


def _describe(segment: PlannedSegment) -> str:
    if segment.is_original:
        return f"{segment.end:4d}        as it is"
    if not segment.kept:
        return f"{segment.start + 1:4d}..{segment.end:<4d}  -> nothing: its input passes through"
    height, width = segment.kernel_size
    removed = segment.end - segment.start - len(segment.kept)
    kept = ", ".join(map(str, segment.kept))
    return (
        f"{segment.start + 1:4d}..{segment.end:<4d}  -> one {height}x{width} convolution from "
        f"layer{'s' if len(segment.kept) > 1 else ''} {kept}"
        + (f"; {removed} removed" if removed else "")
        + "".join(f"; then {part}" for part in (segment.norm, segment.activation) if part)
    )
