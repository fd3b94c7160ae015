"""What the solver finds: a selection of entries, and how it was found."""

from __future__ import annotations

from dataclasses import dataclass

METHODS = ("exact", "binned")
ROUNDINGS = ("up", "floor")
MEMORY_LIMIT_BYTES = 2 << 30
"""Of labels or bins, unless another limit is given."""


@dataclass(frozen=True)
class SelectedEntry:
    """One entry of a selection: layers start+1..end run as one convolution made of the `kept` ones.

    Attributes
    ----------
    row : int
        Its row in the latency table.
    """

    row: int
    start: int
    end: int
    kernel_size: tuple[int, int]
    is_depthwise: bool
    kept: tuple[int, ...]
    latency_ns: int
    importance: float


@dataclass(frozen=True)
class Statistics:
    """How much work a proof took.

    Attributes
    ----------
    arcs_removed, arcs_left : int
        Entries that the bounds ruled out, and those left to search.
    labels : int
        Partial selections made by the search.
    ties_resolved : bool
        Whether the documented order decided between equal selections. It does in every solution
        but those that end at a gap, at the memory limit, or early because they meet the bound.
    """

    arcs_removed: int
    arcs_left: int
    labels: int
    ties_resolved: bool


@dataclass(frozen=True)
class Selection:
    """Consecutive entries that cover 0..L, and how they were found.

    Attributes
    ----------
    entries : tuple of SelectedEntry
        In order of position.
    value : float
        Sum of the importances.
    latency_ns, budget_ns : int
        Exact sum of the latencies, and the budget. With `rounding="floor"` the first may exceed the
        second.
    method : str
        How it was found.
    seconds : float
        Time that the core took.
    upper_bound : float or None
        No selection within the budget has a larger value; the value itself if that is optimal.
        None for "binned", which proves nothing.
    optimal : bool
        Whether the value is proven to be the largest, to a relative 1e-9.
    bin_ns, rounding
        The options of "binned", else None.
    statistics : Statistics or None
        Of "exact".
    """

    entries: tuple[SelectedEntry, ...]
    value: float
    latency_ns: int
    budget_ns: int
    method: str
    seconds: float
    upper_bound: float | None = None
    optimal: bool = False
    bin_ns: int | None = None
    rounding: str | None = None
    statistics: Statistics | None = None

    @property
    def gap(self) -> float | None:
        """What may be missing to the optimum, relative to the value: 0 if it is optimal."""
        if self.upper_bound is None:
            return None
        missing = self.upper_bound - self.value
        return missing / abs(self.value) if missing and self.value else missing

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows of the entries in the latency table."""
        return tuple(entry.row for entry in self.entries)

    @property
    def activations(self) -> tuple[int, ...]:
        """Positions at which an entry ends: the activations that stay, the last one included."""
        return tuple(entry.end for entry in self.entries)

    @property
    def convolutions(self) -> tuple[int, ...]:
        """The layers that are kept."""
        return tuple(layer for entry in self.entries for layer in entry.kept)
