"""Latency and importance tables.

A table has one row per entry. The segment (start, end], the size of the merged kernel and whether
the merged convolution is depthwise identify an entry; both tables must have the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from layermerge import _core
from layermerge.errors import InputError

MAX_POSITION = 2**24
"""The core's limit."""

Key = tuple[int, int, int, int, bool]
"""What identifies an entry: start, end, kernel height and width, depthwise or not."""


@dataclass(frozen=True)
class Entries:
    """The entries of a table, column by column.

    Attributes
    ----------
    start, end : int32 array [n]
        The segment's positions.
    kernel_size : int32 array [n, 2]
        Height and width of the merged kernel; 0 where the table does not say.
    stride : int32 array [n, 2]
        Stride of the merged convolution.
    is_depthwise : bool array [n]
        Whether the merged convolution is depthwise.
    """

    start: NDArray[np.int32]
    end: NDArray[np.int32]
    kernel_size: NDArray[np.int32]
    stride: NDArray[np.int32]
    is_depthwise: NDArray[np.bool_]

    def __post_init__(self) -> None:
        rows = len(self.start)
        for name, dtype, shape in (
            ("start", np.int32, (rows,)),
            ("end", np.int32, (rows,)),
            ("kernel_size", np.int32, (rows, 2)),
            ("stride", np.int32, (rows, 2)),
            ("is_depthwise", np.bool_, (rows,)),
        ):
            object.__setattr__(self, name, frozen_array(name, getattr(self, name), dtype, shape))

    def __len__(self) -> int:
        return len(self.start)

    def keys(self) -> Iterator[Key]:
        """Yield what identifies each entry, in order."""
        height, width = self.kernel_size.T.tolist()
        return zip(
            self.start.tolist(),
            self.end.tolist(),
            height,
            width,
            self.is_depthwise.tolist(),
            strict=True,
        )

    def rows_by_key(self, table: str) -> dict[Key, int]:
        """Row of each entry; an entry given twice is refused."""
        rows: dict[Key, int] = {}
        for row, key in enumerate(self.keys()):
            first = rows.setdefault(key, row)
            if first != row:
                raise InputError(
                    f"{table}: {describe(key)} is given twice, in rows {first} and {row} "
                    "(counted from 0): remove one"
                )
        return rows


@dataclass(frozen=True)
class LatencyTable:
    """Latency of each entry.

    Attributes
    ----------
    entries : Entries
    latency_ns : int64 array [n]
    stdev_ns : int64 array [n]
        Spread of the measurements; 0 where it is not known.
    source : str
        File or device, for error messages.
    """

    entries: Entries
    latency_ns: NDArray[np.int64]
    stdev_ns: NDArray[np.int64]
    source: str = "the latency table"

    def __post_init__(self) -> None:
        for name in ("latency_ns", "stdev_ns"):
            column = frozen_array(name, getattr(self, name), np.int64, (len(self.entries),))
            object.__setattr__(self, name, column)


@dataclass(frozen=True)
class ImportanceTable:
    """Importance of each entry, and the layers it keeps.

    Attributes
    ----------
    entries : Entries
    importance : float64 array [n]
    kept : tuple of tuple of int
        The layers (1-based) that each entry's merged convolution is made of.
    source : str
        File or study, for error messages.
    """

    entries: Entries
    importance: NDArray[np.float64]
    kept: tuple[tuple[int, ...], ...]
    source: str = "the importance table"

    def __post_init__(self) -> None:
        column = frozen_array("importance", self.importance, np.float64, (len(self.entries),))
        object.__setattr__(self, "importance", column)
        if len(self.kept) != len(self.entries):
            raise InputError(f"kept must have {len(self.entries)} elements, got {len(self.kept)}")


def look_up_latency(
    signature: ArrayLike, measured_signature: ArrayLike, measured_ns: ArrayLike
) -> NDArray[np.int64]:
    """Latencies of many entries from the measurements that they share.

    Entries whose merged convolutions are alike take the same time: a signature says in integers, of
    any meaning, what is alike.

    Parameters
    ----------
    signature : int array [n, width]
        Signature of each entry.
    measured_signature : int array [m, width]
        Those that were measured, in any order; one that comes twice must have one latency.
    measured_ns : int array [m]
        Their latencies, at least 0.

    Returns
    -------
    int64 array [n]
        Latency of each entry, as `solve` takes it.

    Raises
    ------
    InputError
        If a signature was not measured, or an argument is not as described.

    Examples
    --------
    Input channels, output channels and kernel size of three entries:

    >>> look_up_latency([[16, 16, 3], [16, 32, 3], [16, 16, 3]], [[16, 32, 3], [16, 16, 3]], [9, 5])
    array([5, 9, 5])
    """
    wanted = _integers("signature", signature, "one row per entry")
    measured = _integers("measured_signature", measured_signature, "one row per measurement")
    times = _integers("measured_ns", measured_ns, "one number per measurement")
    return _core.LatencyTable(measured, times).lookup(wanted)


def _integers(name: str, values: ArrayLike, expected: str) -> NDArray[np.int64]:
    try:
        given = np.asarray(values)
    except ValueError:
        raise InputError(f"{name} must have {expected}, got rows of different lengths") from None
    return frozen_array(name, given, np.int64, given.shape)


def frozen_array(
    name: str, values: ArrayLike, dtype: DTypeLike, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Copy values to a read-only contiguous array; a lossy conversion is refused."""
    given = np.asarray(values)
    if given.shape != shape:
        raise InputError(f"{name} must have the shape {shape}, got {given.shape}")
    if given.size and not np.can_cast(given.dtype, dtype, "same_kind"):
        raise InputError(f"{name} must be an array of {np.dtype(dtype)}, got {given.dtype}")
    array = np.array(given, dtype=dtype, order="C")
    is_exact = np.can_cast(given.dtype, dtype, "safe")
    if not is_exact and not np.array_equal(array, given, equal_nan=array.dtype.kind == "f"):
        raise InputError(f"{name} has values that do not fit in {np.dtype(dtype)}")
    array.flags.writeable = False
    return array


def describe(key: Key) -> str:
    """Name an entry in words."""
    start, end, height, width, is_depthwise = key
    kernel = f" with kernel {height}x{width}" if height else ""
    return f"segment {start}..{end}{kernel}{' (depthwise)' if is_depthwise else ''}"


def matching_rows(latency: LatencyTable, importance: ImportanceTable) -> NDArray[np.intp]:
    """Rows of the importance table in the order of the latency table's entries.

    Raises
    ------
    InputError
        An entry is given twice, or in one table only.
    """
    timed_codes, valued_codes = _codes(latency.entries, importance.entries)
    by_code, valued_by_code = np.argsort(timed_codes), np.argsort(valued_codes)
    codes = timed_codes[by_code]
    if np.array_equal(codes, valued_codes[valued_by_code]) and (np.diff(codes) > 0).all():
        rows = np.empty(len(codes), dtype=np.intp)
        rows[by_code] = valued_by_code
        return rows
    raise _difference(latency, importance)


def _codes(*tables: Entries) -> list[NDArray[np.int64]]:
    """Give numbers to entries so that equal ones, and only they, have equal numbers."""
    parts = zip(*map(_columns, tables), strict=True)
    columns = [np.concatenate(part).astype(np.int64) for part in parts]
    code = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        above = column - column.min(initial=0)
        most, span = int(code.max(initial=0)), int(above.max(initial=0)) + 1
        if (most + 1) * span > 2**62:
            code = np.unique(code, return_inverse=True)[1].astype(np.int64)
        code = code * span + above
    ends = np.cumsum([len(table) for table in tables])
    return np.split(code, ends[:-1])


def _columns(entries: Entries) -> tuple[NDArray[Any], ...]:
    height, width = entries.kernel_size.T
    return entries.start, entries.end, height, width, entries.is_depthwise


def has_repeats(entries: Entries) -> bool:
    """Whether an entry is given twice."""
    (codes,) = _codes(entries)
    return len(np.unique(codes)) < len(codes)


def _difference(latency: LatencyTable, importance: ImportanceTable) -> InputError:
    timed = latency.entries.rows_by_key(latency.source)
    valued = importance.entries.rows_by_key(importance.source)
    for has, has_not, names in (
        (timed, valued, (latency.source, importance.source)),
        (valued, timed, (importance.source, latency.source)),
    ):
        missing = [key for key in has if key not in has_not]
        if missing:
            others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
            return InputError(
                f"{describe(missing[0])}{others}: in {names[0]}, but not in {names[1]}. "
                "Both tables must have the same entries"
            )
    raise AssertionError("the tables differ, but not in their entries")
