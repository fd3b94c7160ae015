"""The bytes of table files, as CSV text, and their plain form read quickly by the core."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermerge import _core
from layermerge.arguments import as_path
from layermerge.errors import InputError, MissingDependencyError
from layermerge.tables import MAX_POSITION, Entries, has_repeats
from layermerge.whole_files import write_whole

_KINDS = {
    "st": "w",
    "end": "w",
    "ker": "p",
    "str": "p",
    "is_dw": "t",
    "time": "m",
    "stdev": "m",
    "conv_comb": "l",
    "importance": "f",
}
_ENTRY_COLUMNS = ("st", "end", "ker", "str", "is_dw")


_UNPACK = "unpack it first"
_OTHER_FORMATS = {
    b"\x1f\x8b": f"compressed by gzip: {_UNPACK} (gunzip)",
    b"BZh": f"compressed by bzip2: {_UNPACK} (bunzip2)",
    b"\xfd7zXZ\0": f"compressed by xz: {_UNPACK} (unxz)",
    b"\x28\xb5\x2f\xfd": f"compressed by zstd: {_UNPACK} (unzstd)",
    b"PK\3\4": "an Excel workbook or a zip archive: save it as CSV (UTF-8), or unpack it first",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save it as CSV (UTF-8)",
    b"SQLite format 3\0": "an SQLite database, such as a study: write the table as CSV",
    b"\x93NUMPY": "a NumPy array: write it as CSV, or give solve() the arrays themselves",
    b"\xff\xfe": "text in UTF-16: save it as CSV in UTF-8",
    b"\xfe\xff": "text in UTF-16: save it as CSV in UTF-8",
}
"""By the bytes that a file begins with: what it is, and what to do."""


def read_content(path: str | Path) -> bytes:
    """Read a file as CSV text; a Parquet file as the text it stands for."""
    file = as_path("path", path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"cannot read {str(path)!r}: {error}") from error
    for beginning, what in _OTHER_FORMATS.items():
        if content.startswith(beginning):
            raise InputError(f"{path} is {what}")
    is_parquet = file.suffix == ".parquet" or content.startswith(b"PAR1")
    return _csv_of_parquet(path, content) if is_parquet else content


def write_content(path: str | Path, content: bytes) -> None:
    """Write CSV text; as Parquet if the file's name says so."""
    file = as_path("path", path)
    if file.suffix == ".parquet":
        content = _parquet_of_csv(content)
    try:
        write_whole(file, content)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}. Name a file in a folder that exists and that "
            "you may write to"
        ) from error


def _parquet_of_csv(content: bytes) -> bytes:
    try:
        from pyarrow import csv, parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "parquet") from error
    file = io.BytesIO()
    parquet.write_table(csv.read_csv(io.BytesIO(content)), file)
    return file.getvalue()


def _csv_of_parquet(path: str | Path, content: bytes) -> bytes:
    try:
        import pyarrow
        from pyarrow import csv, parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "parquet") from error
    text = io.BytesIO()
    try:
        csv.write_csv(parquet.read_table(pyarrow.BufferReader(content)), text)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a Parquet file with plain columns: {reason}") from error
    return text.getvalue()


def quick_columns(content: bytes, *names: str) -> dict[str, Any] | None:
    """Read the columns of these names and of the entries; None if the text is not plain.

    The first name must be there; then all that `Entries` needs is, too.
    """
    line_end = content.find(b"\n")
    header = content[:line_end].removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    columns = [name.strip().strip('"') for name in header.split(",")]
    wanted = {*_ENTRY_COLUMNS, *names}
    if line_end < 0 or len({*columns}) < len(columns) or not {"st", "end", names[0]} <= {*columns}:
        return None
    kinds = "".join(_KINDS[name] if name in wanted else "s" for name in columns)
    parsed = _core.parse_table(content, line_end + 1, kinds)
    return None if parsed is None else dict(zip(columns, parsed, strict=True))


def quick_entries(columns: dict[str, Any]) -> Entries | None:
    """Make entries of quick columns; None if one is wrong, for someone else to say."""
    start, end = columns["st"], columns["end"]
    described = [name in columns for name in ("ker", "str", "is_dw")]
    if not len(start) or (end <= start).any() or end.max() > MAX_POSITION:
        return None
    if any(described) and not columns.keys() >= _NEEDED:
        return None
    pairs = np.ones((len(start), 2), dtype=np.int32)
    entries = Entries(
        start=start,
        end=end,
        kernel_size=_pairs(columns["ker"]) if "ker" in columns else 0 * pairs,
        stride=_pairs(columns["str"]) if "str" in columns else pairs,
        is_depthwise=columns.get("is_dw", np.zeros(len(start))).astype(np.bool_),
    )
    return None if has_repeats(entries) else entries


_NEEDED = {"ker", "is_dw"}


def quick_kept(columns: dict[str, Any], entries: Entries) -> tuple[tuple[int, ...], ...] | None:
    """Take the layers that each entry keeps; None if they are not there, or one is wrong."""
    kept: tuple[tuple[int, ...], ...] | None = columns.get("conv_comb")
    if kept is None:
        return None
    first = np.fromiter((row[0] if row else 2**31 for row in kept), np.int64, len(kept))
    last = np.fromiter((row[-1] if row else 0 for row in kept), np.int64, len(kept))
    inside = (first > entries.start) & (last <= entries.end)
    return kept if inside.all() else None


def _pairs(flat: NDArray[np.int64]) -> NDArray[np.int32]:
    return flat.reshape(-1, 2).astype(np.int32)
