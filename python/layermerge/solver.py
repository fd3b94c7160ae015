"""Tables to the best selection of entries under a latency budget."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from layermerge import _core
from layermerge.errors import InputError
from layermerge.milliseconds import MAX_NS, budget_from_ms
from layermerge.tables import ImportanceTable, LatencyTable, matching_rows

METHODS = ("binned",)
ROUNDINGS = ("up", "floor")
DEFAULT_BINS = 10_000
"""Bins that a budget is divided into unless `bin_ns` is given."""


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
    method, bin_ns, rounding
        How it was found.
    seconds : float
        Time that the core took.
    """

    entries: tuple[SelectedEntry, ...]
    value: float
    latency_ns: int
    budget_ns: int
    method: str
    bin_ns: int
    rounding: str
    seconds: float

    @property
    def activations(self) -> tuple[int, ...]:
        """Positions at which an entry ends: the activations that stay, the last one included."""
        return tuple(entry.end for entry in self.entries)

    @property
    def convolutions(self) -> tuple[int, ...]:
        """The layers that are kept."""
        return tuple(layer for entry in self.entries for layer in entry.kept)


def solve(
    latency: LatencyTable,
    importance: ImportanceTable,
    *,
    budget_ns: int | None = None,
    budget_ms: float | None = None,
    method: str = "binned",
    bin_ns: int | None = None,
    rounding: str = "up",
    memory_limit_bytes: int = 2 << 30,
) -> Selection:
    """Select consecutive entries that cover all positions, of largest importance in the budget.

    Parameters
    ----------
    latency, importance : LatencyTable, ImportanceTable
        With the same entries, in any order.
    budget_ns, budget_ms : int, float
        The budget, in one of the two units. Milliseconds are rounded down to whole nanoseconds.
    method : {"binned"}
        "binned" is the paper's dynamic programme over latency bins (arXiv 2406.12837, section 3.3).
    bin_ns : int, optional
        Width of a bin; by default a ten-thousandth of the budget.
    rounding : {"up", "floor"}
        How latencies become bins. "up" keeps the budget; "floor", the authors' way, may exceed it.
    memory_limit_bytes : int
        A problem whose tables would be larger is refused.

    Returns
    -------
    Selection
        Ties go to fewer bins of latency, then fewer entries, then the smallest rows.

    Raises
    ------
    InputError
        The tables or the options are not as expected.
    InfeasibleError
        No selection meets the budget; has the least achievable latency.

    Examples
    --------
    Two layers, each on its own or merged to a 5x5 convolution:

    >>> from layermerge.tables import Entries, ImportanceTable, LatencyTable
    >>> entries = Entries(
    ...     start=[0, 1, 0], end=[1, 2, 2], kernel_size=[(3, 3), (3, 3), (5, 5)],
    ...     stride=[(1, 1)] * 3, is_depthwise=[False] * 3,
    ... )
    >>> latency = LatencyTable(entries, latency_ns=[5, 6, 7], stdev_ns=[0, 0, 0])
    >>> importance = ImportanceTable(entries, [0.9, 0.8, 1.1], kept=((1,), (2,), (1, 2)))
    >>> solve(latency, importance, budget_ns=10).activations
    (2,)
    """
    _check_choice("method", method, METHODS)
    _check_choice("rounding", rounding, ROUNDINGS)
    budget = _budget(budget_ns, budget_ms)
    width_ns = max(1, budget // DEFAULT_BINS) if bin_ns is None else _integer("bin_ns", bin_ns, 1)
    memory_limit = _integer("memory_limit_bytes", memory_limit_bytes, 0)
    valued = matching_rows(latency, importance)
    began = perf_counter()
    problem = _core.Problem(
        latency.entries.start,
        latency.entries.end,
        latency.latency_ns,
        importance.importance[valued],
    )
    rows, value, latency_ns = _core.solve_binned(
        problem, budget, bin_ns=width_ns, rounding=rounding, memory_limit_bytes=memory_limit
    )
    seconds = perf_counter() - began
    entries = tuple(
        _selected(latency, importance, row, valued_row)
        for row, valued_row in zip(rows.tolist(), valued[rows].tolist(), strict=True)
    )
    return Selection(entries, value, latency_ns, budget, method, width_ns, rounding, seconds)


def _selected(
    latency: LatencyTable, importance: ImportanceTable, row: int, valued_row: int
) -> SelectedEntry:
    entries = latency.entries
    height, width = entries.kernel_size[row].tolist()
    return SelectedEntry(
        row=row,
        start=int(entries.start[row]),
        end=int(entries.end[row]),
        kernel_size=(height, width),
        is_depthwise=bool(entries.is_depthwise[row]),
        kept=importance.kept[valued_row],
        latency_ns=int(latency.latency_ns[row]),
        importance=float(importance.importance[valued_row]),
    )


def _budget(budget_ns: int | None, budget_ms: float | None) -> int:
    if budget_ns is not None and budget_ms is None:
        return _integer("budget_ns", budget_ns, 0)
    if budget_ms is not None and budget_ns is None:
        try:
            return budget_from_ms(budget_ms)
        except InputError as error:
            raise InputError(f"budget_ms {error}") from None
    raise InputError(
        f"give either budget_ns or budget_ms, got budget_ns={budget_ns} and budget_ms={budget_ms}"
    )


def _integer(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f"{name} must be an integer, got {value!r}")
    if not least <= value <= MAX_NS:
        raise InputError(f"{name} must be from {least} to 2^63 - 1, got {value}")
    return int(value)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
