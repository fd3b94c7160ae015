"""What a compression achieved, as data: written next to the artefact, read by the report."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from layermerge.checks import (
    check_integers,
    check_number,
    check_numbers,
    check_texts,
    check_tuples_of_integers,
    check_tuples_of_text,
)
from layermerge.documents import read_document, write_document
from layermerge.errors import InputError
from layermerge.search_results import SearchResult, as_object, parse_each, parse_search_result
from layermerge.typed import check_types

STUDY_FILE = "study.db"
"""Beside a result, what its run has measured and evaluated."""

SCHEMA_VERSION = 2
OLDER_VERSIONS = (1,)
"""Those that differ only in what they lack."""


@dataclass(frozen=True)
class Figures:
    """One network, measured.

    Attributes
    ----------
    score : float
        On the held-out data; accuracy as a fraction for classification.
    latency_ns : int
        Measured end to end, as deployed (batch norm folded).
    latency_spread : float
        Relative half-width of the 95 % confidence interval of that median.
    predicted_ns : int
        What the latency table says, calibration applied.
    layers : int
        Convolutions that run.
    parameters : int
    flops : int
        Multiply-adds x 2 of the convolutions, for one input.
    weight_range : float or None
        See `layermerge.weight_ranges.weight_range`; None if that is not recorded.

    Raises
    ------
    InputError
        If a figure is no finite number, or smaller than it can be.
    """

    score: float
    latency_ns: int
    latency_spread: float
    predicted_ns: int
    layers: int
    parameters: int
    flops: int
    weight_range: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "score")
        check_numbers(self, "latency_ns", least=1)
        check_numbers(
            self, "latency_spread", "predicted_ns", "layers", "parameters", "flops", least=0
        )
        if self.weight_range is not None:
            check_numbers(self, "weight_range", least=1)


@dataclass(frozen=True)
class Step:
    """One segment of the plan, or one barrier, with predicted latencies (uncalibrated).

    Attributes
    ----------
    start, end : int
        Positions; equal for a barrier.
    names : tuple of str
        The layers inside, or the barrier.
    kept : tuple of str
        Those that the merged convolution is made of.
    description : str
        What it computes now, such as ``"3x3, 16 -> 32, stride 2, relu6"``.
    before_ns, after_ns : int
        Latency of the original layers, and of what replaces them.
    name_descriptions : tuple of str
        What each of `names` computed, in the way of `description`; empty if that is not recorded.
    name_ns : tuple of int
        Latency of each of `names`; empty if that is not recorded.
    """

    start: int
    end: int
    names: tuple[str, ...]
    kept: tuple[str, ...]
    description: str
    before_ns: int
    after_ns: int
    name_descriptions: tuple[str, ...] = ()
    name_ns: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_integers(self, "start", "end", "before_ns", "after_ns", least=0)
        check_texts(self, "description")
        check_tuples_of_text(self, "names", "kept", "name_descriptions")
        check_tuples_of_integers(self, "name_ns", least=0)
        if not self.names:
            raise InputError("names must hold the layers of a step, got none")
        for field in ("name_descriptions", "name_ns"):
            if len(values := getattr(self, field)) not in (0, len(self.names)):
                raise InputError(
                    f"{field} must have one entry for each of {list(self.names)}, or none; "
                    f"got {list(values)}"
                )

    @property
    def is_barrier(self) -> bool:
        """Whether this is a fixed part."""
        return self.start == self.end


@dataclass(frozen=True)
class Result:
    """A compression, from beginning to end.

    Attributes
    ----------
    name : str
        Of the model.
    score_name : str
        What `score` is, such as ``"accuracy"``.
    environment : str
        Device, backend, batch and threads of every latency.
    base, compressed : Figures
    budget_ns : int
        Whole-network budget.
    calibration : float
        Measured over predicted latency of the base.
    float64_error, merge_error : float
        Merged against rewritten network, in float64 and in its own precision.
    steps : tuple of Step
        The whole network in order, barriers included.
    num_candidates, num_signatures, num_scored, num_unprofitable, num_failed : int
        Size of the search: entries, distinct measurements, short fine-tunes, entries left out
        because they are no faster than what they replace, and fine-tunes that failed.
    seconds : dict of str to float
        Time of each stage.
    provenance : dict
        Versions, seeds, command.
    search : SearchResult or None
        The frontier, and what is known of every segment; None if that is not recorded.
    """

    name: str
    score_name: str
    environment: str
    base: Figures
    compressed: Figures
    budget_ns: int
    calibration: float
    float64_error: float
    merge_error: float
    steps: tuple[Step, ...]
    num_candidates: int
    num_signatures: int
    num_scored: int
    num_unprofitable: int
    num_failed: int
    seconds: dict[str, float]
    provenance: dict[str, Any]
    search: SearchResult | None = None

    def __post_init__(self) -> None:
        if not self.steps:
            raise InputError("steps must hold the whole network, got none")
        check_texts(self, "name", "score_name", "environment")
        check_numbers(self, "budget_ns", least=1)
        check_numbers(self, "calibration", "float64_error", "merge_error", least=0)
        check_numbers(
            self,
            *("num_candidates", "num_signatures", "num_scored", "num_unprofitable", "num_failed"),
            least=0,
        )
        if not isinstance(self.provenance, dict):
            raise InputError(f"provenance must be an object, got {self.provenance!r}")
        for stage, seconds in self.seconds.items():
            check_number(f"seconds['{stage}']", seconds, least=0)

    @property
    def speedup(self) -> float:
        """Measured latency of the base over that of the compressed network."""
        return self.base.latency_ns / self.compressed.latency_ns

    @property
    def is_within_budget(self) -> bool:
        """Whether the measured latency keeps the budget."""
        return self.compressed.latency_ns <= self.budget_ns

    def save(self, path: str | Path) -> None:
        """Write the result as JSON."""
        write_document(path, "result", SCHEMA_VERSION, asdict(self))


def load_result(path: str | Path) -> Result:
    """Read a result from JSON.

    Raises
    ------
    InputError
        If the file is missing, is no result, or was written by a newer version.
    """
    return read_document(path, "result", SCHEMA_VERSION, _parse, older_versions=OLDER_VERSIONS)


def _parse(document: dict[str, Any]) -> Result:
    values = {
        field.name: document[field.name]
        for field in fields(Result)
        if field.name in document or field.default is MISSING
    }
    for name in ("base", "compressed"):
        values[name] = Figures(**as_object(name, values[name]))
    values["steps"] = parse_each(Step, values, "steps")
    as_object("seconds", values["seconds"])
    if values.get("search") is not None:
        values["search"] = parse_search_result(as_object("search", values["search"]))
    result = Result(**values)
    check_types(result)
    return result
