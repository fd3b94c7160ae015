"""`layermerge frontier`: what every latency budget can buy, from two tables."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from layermerge.commands.json_output import print_document
from layermerge.commands.options import at_least, at_least_zero
from layermerge.commands.solver_options import (
    add_memory_limit,
    add_tables,
    naming_options,
    read_tables,
)
from layermerge.errors import InputError

if TYPE_CHECKING:
    from layermerge.solver import Frontier

SUMMARY = "Find every selection that no other beats in both latency and importance."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    add_tables(parser)
    parser.add_argument(
        "--max-points",
        type=at_least(2),
        metavar="N",
        help="find at most N points, where most changes",
    )
    parser.add_argument(
        "--epsilon",
        type=at_least_zero,
        default=0.0,
        metavar="E",
        help="leave out points of which the importance is within E of another's; default: 0, all",
    )
    add_memory_limit(parser, "a frontier of all points is refused")
    parser.add_argument(
        "--plot", type=Path, metavar="OUT", help="draw it to this file: .png, .svg, .pdf or .html"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Find the frontier and print, and draw it if asked to."""
    from layermerge.solver import frontier

    if arguments.plot is not None:
        from layermerge.frontier_plot import check_plot_path

        check_plot_path(arguments.plot)
    tables = read_tables(arguments)
    with naming_options():
        found = frontier(
            *tables,
            max_points=arguments.max_points,
            epsilon=arguments.epsilon,
            memory_limit_bytes=arguments.memory_limit,
        )
    if arguments.plot is not None:
        from layermerge.frontier_plot import plot_frontier

        try:
            plot_frontier(found, arguments.plot)
        except OSError as error:
            raise InputError(f"cannot write {arguments.plot}: {error.strerror}") from error
    if arguments.json:
        print_document(
            {
                "points": [
                    {"latency_ms": ns / 1e6, "value": value}
                    for ns, value in zip(
                        found.latency_ns.tolist(), found.value.tolist(), strict=True
                    )
                ],
                "error": found.error,
            }
        )
    else:
        _print_summary(found)
        if arguments.plot is not None:
            print(f"Drawn to {arguments.plot}")
    return 0


def _print_summary(found: Frontier) -> None:
    from rich.console import Console
    from rich.table import Table

    most_rows = 25
    step = max(1, -(-len(found) // most_rows))
    rows = sorted({*range(0, len(found), step), len(found) - 1})
    table = Table(
        title=f"{len(found)} points",
        caption=("all of them" if found.error == 0 else f"to within {found.error:.6g}")
        + (f", one in {step} shown" if step > 1 else ""),
    )
    for heading in ("latency ms", "importance"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(f"{found.latency_ns[row] / 1e6:.6f}", f"{found.value[row]:.6f}")
    Console().print(table)
