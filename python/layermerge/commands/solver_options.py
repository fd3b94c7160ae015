"""What `layermerge solve` and `layermerge frontier` share: tables, memory, and how they speak."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from layermerge.errors import InputError
from layermerge.milliseconds import MAX_NS
from layermerge.selection import MEMORY_LIMIT_BYTES

if TYPE_CHECKING:
    from layermerge.tables import ImportanceTable, LatencyTable

_OPTIONS = {
    "memory_limit_bytes": "--memory-limit",
    "bin_ns": "--bin-ms",
    "budget_ns": "--budget-ms",
    "max_points": "--max-points",
    "epsilon": "--epsilon",
    "gap": "--gap",
    "rounding": "--rounding",
}
"""The solver's arguments that its messages name, and the options that stand for them."""

_ARGUMENT = re.compile(rf"(?<![\w./\\-])({'|'.join(_OPTIONS)})(?![\w./\\-])")
_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*([kmgt]?)(i?)b?", re.ASCII | re.IGNORECASE)


def add_tables(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the tables."""
    parser.add_argument(
        "--latency",
        required=True,
        metavar="T.csv",
        help="latency of each entry: columns st, end, ker, is_dw, time in ms; CSV or Parquet",
    )
    parser.add_argument(
        "--importance",
        required=True,
        metavar="I.csv",
        help="importance of each entry: columns st, end, ker, is_dw, conv_comb, importance; CSV "
        "or Parquet",
    )


def read_tables(arguments: argparse.Namespace) -> tuple[LatencyTable, ImportanceTable]:
    """Read the tables that the arguments name."""
    from layermerge.table_files import read_importance, read_latency

    return read_latency(arguments.latency), read_importance(arguments.importance)


def add_memory_limit(parser: argparse.ArgumentParser, beyond: str) -> None:
    """Add how much memory the solver may take."""
    parser.add_argument(
        "--memory-limit",
        type=_bytes,
        default=MEMORY_LIMIT_BYTES,
        metavar="SIZE",
        help=f"memory for the solver, such as 500MB or 4GB; beyond it, {beyond}; default: 2GiB",
    )


@contextmanager
def naming_options() -> Iterator[None]:
    """Let messages of the solver name the options of the command line, not its arguments."""
    try:
        yield
    except InputError as error:
        raise InputError(_ARGUMENT.sub(lambda found: _OPTIONS[found[0]], str(error))) from error


def _bytes(text: str) -> int:
    """Read ``4GB`` or ``2GiB``."""
    size = _SIZE.fullmatch(text.strip())
    if not size:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB, 4GB or 2GiB")
    unit = (1024 if size[3] else 1000) ** " kmgt".index(size[2].lower() or " ")
    if (value := float(size[1]) * unit) > MAX_NS:
        raise argparse.ArgumentTypeError(f"{text!r} is more memory than there is")
    return int(value)
