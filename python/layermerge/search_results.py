"""What a search found, as data: the frontier, and what is known of every segment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from layermerge.checks import (
    check_integers,
    check_numbers,
    check_texts,
    check_tuples_of_integers,
    check_tuples_of_text,
)
from layermerge.errors import InputError, shown

T = TypeVar("T")


@dataclass(frozen=True)
class FrontierPoint:
    """A plan that no other, of the entries that are known, beats in latency and importance.

    Attributes
    ----------
    latency_ns : int
        Of the whole network, as predicted.
    importance : float
    score : float
        As predicted: that of the original network and the changes of all replacements.
    layers : int
        Convolutions that run.
    segments : tuple of str
        Keys of its candidates that are not original; see `Candidate.key`.
    is_chosen : bool
        Whether this is the plan of the result.
    """

    latency_ns: int
    importance: float
    score: float
    layers: int
    segments: tuple[str, ...]
    is_chosen: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, "importance", "score")
        check_integers(self, "latency_ns", "layers", least=0)
        check_tuples_of_text(self, "segments")


@dataclass(frozen=True)
class SegmentFinding:
    """What is known of the entries that replace the layers start+1..end.

    Attributes
    ----------
    start, end : int
    num_entries, num_scored, num_unevaluated, num_unprofitable, num_failed : int
        How many entries there are; that have a score; that the search had no need of; that are no
        faster than what they replace; of which the fine-tune failed.
    is_chosen : bool
        Whether the plan has one of them.
    kernel_size : (int, int)
        Of the best scored entry; (0, 0) if that has no convolution, or none is scored.
    kept : tuple of int
        Its layers.
    latency_ns, replaced_ns : int
        Its latency and that of the layers that it replaces.
    delta, importance : float or None
        Its change of the score, and what the objective makes of it; None if none is scored.
    """

    start: int
    end: int
    num_entries: int
    num_scored: int = 0
    num_unevaluated: int = 0
    num_unprofitable: int = 0
    num_failed: int = 0
    is_chosen: bool = False
    kernel_size: tuple[int, ...] = (0, 0)
    kept: tuple[int, ...] = ()
    latency_ns: int = 0
    replaced_ns: int = 0
    delta: float | None = None
    importance: float | None = None

    def __post_init__(self) -> None:
        counts = "num_scored", "num_unevaluated", "num_unprofitable", "num_failed"
        check_integers(self, "num_entries", least=1)
        check_integers(self, "start", *counts, "latency_ns", "replaced_ns", least=0)
        check_integers(self, "end", least=self.start + 1)
        check_tuples_of_integers(self, "kernel_size", "kept", least=0)
        if len(self.kernel_size) != 2:
            raise InputError(f"kernel_size must be height and width, got {self.kernel_size!r}")
        if sum(getattr(self, name) for name in counts) != self.num_entries:
            raise InputError(
                f"segment {self.start}..{self.end} has {self.num_entries} entries, which the "
                f"numbers of each kind must sum to: {', '.join(counts)}"
            )
        if self.delta is not None or self.importance is not None:
            check_numbers(self, "delta", "importance")


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes
    ----------
    objective : str
        What makes importances of changes of the score.
    base_score : float
        Of the original network, on the data that importance is estimated on.
    frontier : tuple of FrontierPoint
        By rising latency; the chosen plan is among them.
    segments : tuple of SegmentFinding
        Those that may be replaced, by (start, end).
    """

    objective: str
    base_score: float
    frontier: tuple[FrontierPoint, ...]
    segments: tuple[SegmentFinding, ...]

    def __post_init__(self) -> None:
        check_texts(self, "objective")
        check_numbers(self, "base_score")
        latencies_ns = [point.latency_ns for point in self.frontier]
        if latencies_ns != sorted(latencies_ns):
            raise InputError("the points of frontier must be by rising latency")
        if sum(point.is_chosen for point in self.frontier) != 1:
            raise InputError("frontier must have exactly one point that is chosen")

    @property
    def chosen(self) -> FrontierPoint:
        """The point of the plan."""
        return next(point for point in self.frontier if point.is_chosen)


def parse_search_result(document: Mapping[str, Any]) -> SearchResult:
    """Make a search result of what JSON holds of it."""
    return SearchResult(
        document["objective"],
        document["base_score"],
        parse_each(FrontierPoint, document, "frontier"),
        parse_each(SegmentFinding, document, "segments"),
    )


def parse_each(kind: Callable[..., T], document: Mapping[str, Any], name: str) -> tuple[T, ...]:
    """Make values of the objects that a list in a JSON object holds, tuples of their lists."""
    if not isinstance(document[name], list):
        raise InputError(f"{name} must be a list of objects, got {shown(repr(document[name]))}")
    return tuple(
        kind(
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in as_object(f"{name}[{place}]", each).items()
            }
        )
        for place, each in enumerate(document[name])
    )


def as_object(name: str, value: Any) -> dict[str, Any]:
    """What must be an object of JSON."""
    if not isinstance(value, dict):
        raise InputError(f"{name} must be an object, got {shown(repr(value))}")
    return value
