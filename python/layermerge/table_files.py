"""Tables as CSV or Parquet files, in the columns of the authors' programs.

LayerMerge (github.com/snu-mllab/LayerMerge): `id,st,end,ker,str,is_dw,time,stdev` and
`id,st,end,ker,str,is_dw,conv_comb,importance`, times in milliseconds. Without `ker,str,is_dw` they
are those of the earlier Depth method (github.com/snu-mllab/Efficient-CNN-Depth-Compression), which
has one entry per segment and keeps all its layers. `id` is written, and not read.

Files named *.parquet hold the same columns; they are read and written as the CSV text they stand
for. Plain text is parsed by the core; text with anything uncommon in it, or wrong, by this module.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import TypeVar

import numpy as np

from layermerge.arguments import check_argument
from layermerge.errors import InputError, shown
from layermerge.milliseconds import format_ms, ns_from_ms
from layermerge.table_content import (
    quick_columns,
    quick_entries,
    quick_kept,
    read_content,
    write_content,
)
from layermerge.tables import (
    MAX_POSITION,
    Entries,
    ImportanceTable,
    Key,
    LatencyTable,
    describe,
)

T = TypeVar("T")

_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_PAIR = re.compile(r"(\d{1,9})\s*[x,]\s*(\d{1,9})", re.ASCII)
_LAYERS = re.compile(r"(\d{1,9}\s*,\s*)*(\d{1,9})?", re.ASCII)
_BRACKETS = {"(": ")", "[": "]"}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def read_latency(path: str | Path) -> LatencyTable:
    """Read a latency table.

    Milliseconds become the nearest whole nanoseconds, computed in decimal.

    Raises
    ------
    InputError
        The file cannot be read or has a bad value; says the line and the column.
    """
    content = read_content(path)
    quick = quick_columns(content, "time", "stdev")
    if quick is not None and (entries := quick_entries(quick)) is not None:
        latency_ns = quick["time"]
        stdev_ns = quick.get("stdev", np.zeros(len(entries), dtype=np.int64))
    else:
        file = _CsvFile(path, content)
        file.refuse_swapped("importance", needed="time")
        latency_ns = np.array(file.parsed("time", ns_from_ms), dtype=np.int64)
        stdev_ns = np.array(file.parsed("stdev", _parse_spread, absent="0"), dtype=np.int64)
        entries = _read_entries(file)
    return LatencyTable(entries, latency_ns, stdev_ns, source=str(path))


def read_importance(path: str | Path) -> ImportanceTable:
    """Read an importance table.

    Raises
    ------
    InputError
        The file cannot be read or has a bad value; says the line and the column.
    """
    content = read_content(path)
    quick = quick_columns(content, "importance", "conv_comb")
    if quick is not None and (entries := quick_entries(quick)) is not None:
        kept = quick_kept(quick, entries)
        if kept is not None:
            return ImportanceTable(entries, quick["importance"], kept, source=str(path))
    file = _CsvFile(path, content)
    file.refuse_swapped("time", needed="importance")
    importance = np.array(file.parsed("importance", _parse_finite), dtype=np.float64)
    entries = _read_entries(file)
    return ImportanceTable(entries, importance, _read_kept(file, entries), source=str(path))


def write_latency(table: LatencyTable, path: str | Path) -> None:
    """Write a latency table; reading it gives the table again."""
    check_argument("table", table, LatencyTable)
    times = [format_ms(ns) for ns in table.latency_ns.tolist()]
    spreads = [format_ms(ns) for ns in table.stdev_ns.tolist()]
    _write(path, table.entries, {"time": times, "stdev": spreads})


def write_importance(table: ImportanceTable, path: str | Path) -> None:
    """Write an importance table; reading it gives the table again."""
    check_argument("table", table, ImportanceTable)
    values = [repr(value) for value in table.importance.tolist()]
    _write(path, table.entries, {"conv_comb": list(map(str, table.kept)), "importance": values})


class _CsvFile:
    """The columns of a CSV file as text; every complaint says where."""

    def __init__(self, path: str | Path, content: bytes) -> None:
        self._path = path
        rows = self._rows(content)
        if not rows:
            raise InputError(f"{path} is empty: expected a line with the names of the columns")
        names = [name.strip() for name in rows[0][1]]
        separator = next((mark for mark in ";\t|" if mark in names[0]), None)
        if separator and len(names) == 1:
            raise InputError(
                f"{path} separates its columns by {separator!r}: separate them by commas, and "
                "write decimals with a point"
            )
        for place, name in enumerate(names):
            if name and name in names[:place]:
                raise InputError(
                    f"{path} has two columns '{shown(name)}': remove or rename one of them, so "
                    "that it is clear which to read"
                )
        self.lines = [line for line, _ in rows[1:]]
        for line, row in rows[1:]:
            if len(row) != len(names):
                raise InputError(
                    f"{path}, line {line}: expected {len(names)} fields, as in the first line, "
                    f"got {len(row)}"
                )
        if not self.lines:
            raise InputError(f"{path} has no entries: only the names of the columns")
        columns = zip(*(row for _, row in rows[1:]), strict=True)
        self._columns = dict(zip(names, columns, strict=True))

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def refuse_swapped(self, other: str, needed: str) -> None:
        """Say that this looks like the other table, if it does."""
        if other in self and needed not in self:
            kind = {"time": "a latency", "importance": "an importance"}[other]
            raise InputError(
                f"{self._path} looks like {kind} table: it has a column '{other}' and no "
                f"'{needed}'. Swap the latency and the importance table (--latency, --importance)"
            )

    def parsed(self, name: str, parse: Callable[[str], T], *, absent: str | None = None) -> list[T]:
        """Parse each field of a column; `absent` stands for the fields of a missing column."""
        if name not in self and absent is None:
            raise InputError(
                f"{self._path} has no column '{name}': its columns are "
                f"{shown(', '.join(self._columns), 300)}"
            )
        values = []
        for row, field in enumerate(self._columns.get(name, (absent or "",) * len(self.lines))):
            try:
                values.append(parse(field))
            except InputError as error:
                raise self.error(name, row, str(error)) from None
        return values

    def error(self, name: str, row: int, message: str) -> InputError:
        return InputError(f"{self._path}, line {self.lines[row]}, column '{name}': {message}")

    def _rows(self, content: bytes) -> list[tuple[int, list[str]]]:
        """Rows that are not blank, with the number of the line each ends on."""
        try:
            text = content.decode("utf-8-sig")
            if "\0" in text:
                raise InputError(f"{self._path} is not a CSV file: it holds binary data")
            reader = csv.reader(io.StringIO(text, newline=""))
            return [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
        except UnicodeDecodeError as error:
            raise InputError(f"{self._path} is not a CSV file in UTF-8: {error}") from error
        except csv.Error as error:
            raise InputError(f"{self._path} is not a CSV file: {error}") from error


def _read_entries(file: _CsvFile) -> Entries:
    start = file.parsed("st", _parse_position)
    end = file.parsed("end", _parse_position)
    for row, (first, last) in enumerate(zip(start, end, strict=True)):
        if last <= first:
            raise file.error("end", row, f"must be above st = {first}, got {last}")
    described = any(name in file for name in ("ker", "str", "is_dw"))
    kernel_size = file.parsed("ker", _parse_pair, absent=None if described else "0")
    stride = file.parsed("str", _parse_pair, absent="1")
    is_depthwise = file.parsed("is_dw", _parse_truth, absent=None if described else "0")
    entries = Entries(
        start=np.array(start, dtype=np.int32),
        end=np.array(end, dtype=np.int32),
        kernel_size=np.array(kernel_size, dtype=np.int32),
        stride=np.array(stride, dtype=np.int32),
        is_depthwise=np.array(is_depthwise, dtype=np.bool_),
    )
    _check_distinct(file, entries)
    return entries


def _check_distinct(file: _CsvFile, entries: Entries) -> None:
    first: dict[Key, int] = {}
    for row, key in enumerate(entries.keys()):
        seen = first.setdefault(key, row)
        if seen != row:
            message = (
                f"{describe(key)} is given twice, first in line {file.lines[seen]}: remove one"
            )
            raise file.error("st, end, ker, is_dw", row, message)


def _read_kept(file: _CsvFile, entries: Entries) -> tuple[tuple[int, ...], ...]:
    segments = list(zip(entries.start.tolist(), entries.end.tolist(), strict=True))
    if "conv_comb" not in file and "ker" not in file:
        return tuple(tuple(range(start + 1, end + 1)) for start, end in segments)
    kept = file.parsed("conv_comb", _parse_layers)
    for row, ((start, end), layers) in enumerate(zip(segments, kept, strict=True)):
        if any(layer <= start or layer > end for layer in layers):
            message = f"must name layers among {start + 1}..{end}, got {layers}"
            raise file.error("conv_comb", row, message)
    return tuple(kept)


def _parse_position(text: str) -> int:
    digits = text.strip()
    if not re.fullmatch(r"\d+", digits, re.ASCII):
        raise InputError(f"must be a whole number >= 0, got '{shown(text)}'")
    if len(digits.lstrip("0")) > 9 or int(digits) > MAX_POSITION:
        raise InputError(f"must be at most {MAX_POSITION}, as all positions, got {shown(digits)}")
    return int(digits)


def _parse_pair(text: str) -> tuple[int, int]:
    """Parse one number for both axes, or height and width: `3`, `3x5`, `(3, 5)`."""
    pair = _PAIR.fullmatch(_unwrapped(text))
    if pair:
        return int(pair[1]), int(pair[2])
    if not _WHOLE.fullmatch(text.strip()):
        raise InputError(f"must be a number, or two such as '3x5', got '{shown(text)}'")
    return int(text), int(text)


def _parse_truth(text: str) -> bool:
    if text.strip().lower() not in _TRUTH:
        raise InputError(f"must be True or False, got '{shown(text)}'")
    return _TRUTH[text.strip().lower()]


def _parse_layers(text: str) -> tuple[int, ...]:
    """Parse layers such as `(1, 2)`; they are sorted."""
    layers = _unwrapped(text)
    if not _LAYERS.fullmatch(layers):
        raise InputError(f"must be layers such as '(1, 2)', got '{shown(text)}'")
    numbers = tuple(sorted(int(number) for number in re.findall(r"\d+", layers)))
    if len(set(numbers)) != len(numbers):
        raise InputError(f"must name each layer once, got '{shown(text)}'")
    return numbers


def _unwrapped(text: str) -> str:
    """What a pair of brackets holds; other text as it is."""
    stripped = text.strip()
    if stripped and _BRACKETS.get(stripped[0]) == stripped[-1:]:
        return stripped[1:-1].strip()
    return stripped


def _parse_finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise InputError(f"must be a number, got '{shown(text)}'") from None
    if not isfinite(number):
        raise InputError(f"must be finite, got '{shown(text)}'")
    return number


def _parse_spread(text: str) -> int:
    """Parse a spread; one that is not known (one measurement has none) is 0."""
    return 0 if text.strip().lower() in ("", "nan") else ns_from_ms(text)


def _write(path: str | Path, entries: Entries, columns: dict[str, Sequence[str]]) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["id", "st", "end", "ker", "str", "is_dw", *columns])
    described = zip(
        entries.start.tolist(),
        entries.end.tolist(),
        map(_written_pair, entries.kernel_size.tolist()),
        map(_written_pair, entries.stride.tolist()),
        entries.is_depthwise.tolist(),
        *columns.values(),
        strict=True,
    )
    writer.writerows((row, *fields) for row, fields in enumerate(described))
    write_content(path, file.getvalue().encode())


def _written_pair(pair: Sequence[int]) -> str:
    height, width = pair
    return str(height) if height == width else f"{height}x{width}"
