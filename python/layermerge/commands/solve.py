"""`layermerge solve`: the best selection of entries from two CSV files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from layermerge.errors import InfeasibleError, InputError
from layermerge.milliseconds import budget_from_ms, format_ms, ns_from_ms
from layermerge.solver import METHODS, ROUNDINGS, SelectedEntry, Selection, solve
from layermerge.table_files import read_importance, read_latency

SUMMARY = "Choose what to merge: the most important entries that meet a latency budget."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.add_argument(
        "--latency",
        required=True,
        metavar="T.csv",
        help="latency of each entry: columns st, end, ker, is_dw, time in ms",
    )
    parser.add_argument(
        "--importance",
        required=True,
        metavar="I.csv",
        help="importance of each entry: columns st, end, ker, is_dw, conv_comb, importance",
    )
    parser.add_argument(
        "--budget-ms",
        required=True,
        type=_nanoseconds(budget_from_ms),
        metavar="B",
        help="latency budget of the selection, in ms",
    )
    parser.add_argument("--method", choices=METHODS, default="binned", help="default: binned")
    parser.add_argument(
        "--bin-ms",
        type=_nanoseconds(ns_from_ms),
        metavar="W",
        help="width of a latency bin, in ms; default: a ten-thousandth of the budget",
    )
    parser.add_argument(
        "--rounding",
        choices=ROUNDINGS,
        default="up",
        help="how latencies become bins: up keeps the budget; floor, the way of the paper's "
        "authors, may exceed it; default: up",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Solve and print; infeasible budgets are reported in JSON as well."""
    latency = read_latency(arguments.latency)
    importance = read_importance(arguments.importance)
    try:
        selection = solve(
            latency,
            importance,
            budget_ns=arguments.budget_ms,
            method=arguments.method,
            bin_ns=arguments.bin_ms,
            rounding=arguments.rounding,
        )
    except InfeasibleError as error:
        if arguments.json:
            _print_json(_infeasible(error, arguments))
        raise
    if arguments.json:
        _print_json(_found(selection))
    else:
        _print_table(selection)
    return 0


def _nanoseconds(convert: Callable[[str], int]) -> Callable[[str], int]:
    def milliseconds(text: str) -> int:
        try:
            return convert(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return milliseconds


def _found(selection: Selection) -> dict[str, Any]:
    return {
        "value": selection.value,
        "latency_ms": selection.latency_ns / 1e6,
        "budget_ms": selection.budget_ns / 1e6,
        "feasible": True,
        "segments": [_segment(entry) for entry in selection.entries],
        "activations": selection.activations,
        "convolutions": selection.convolutions,
        "method": selection.method,
        "seconds": selection.seconds,
    }


def _segment(entry: SelectedEntry) -> dict[str, Any]:
    height, width = entry.kernel_size
    return {
        "start": entry.start,
        "end": entry.end,
        "kernel_size": height if height == width else [height, width],
        "kept": entry.kept,
    }


def _infeasible(error: InfeasibleError, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "value": None,
        "latency_ms": None,
        "budget_ms": arguments.budget_ms / 1e6,
        "feasible": False,
        "least_latency_ms": error.least_latency_ns / 1e6,
        "segments": [],
        "activations": [],
        "convolutions": [],
        "method": arguments.method,
        "seconds": None,
    }


def _print_json(document: dict[str, Any]) -> None:
    json.dump(document, sys.stdout, allow_nan=False)
    print()


def _print_table(selection: Selection) -> None:
    from rich.console import Console
    from rich.table import Table

    kept = selection.latency_ns <= selection.budget_ns
    table = Table(
        title=f"{len(selection.entries)} convolutions, importance {selection.value:.6g}",
        caption=f"{format_ms(selection.latency_ns)} ms of {format_ms(selection.budget_ns)} ms: "
        f"budget {'kept' if kept else 'EXCEEDED (rounding floor)'}; {selection.method}, bins of "
        f"{format_ms(selection.bin_ns)} ms rounded {selection.rounding}, "
        f"solved in {selection.seconds * 1e3:.2f} ms",
    )
    for heading in ("segment", "kernel", "kept layers", "latency ms", "importance"):
        table.add_column(heading, justify="left" if heading == "kept layers" else "right")
    for entry in selection.entries:
        table.add_row(
            f"{entry.start}..{entry.end}",
            f"{entry.kernel_size[0]}x{entry.kernel_size[1]}" + " dw" * entry.is_depthwise,
            " ".join(map(str, entry.kept)),
            format_ms(entry.latency_ns),
            f"{entry.importance:.6f}",
        )
    Console().print(table)
