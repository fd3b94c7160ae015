"""`layermerge solve`: the best selection of entries from two CSV files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from layermerge.commands.json_output import print_document
from layermerge.commands.options import at_least_zero, positive
from layermerge.commands.solver_options import (
    add_memory_limit,
    add_tables,
    naming_options,
    read_tables,
)
from layermerge.errors import InfeasibleError, InputError
from layermerge.milliseconds import budget_from_ms, format_ms, ns_from_ms
from layermerge.selection import METHODS, ROUNDINGS, SelectedEntry, Selection

if TYPE_CHECKING:
    from layermerge.tables import ImportanceTable, LatencyTable

SUMMARY = "Choose what to merge: the most important entries that meet a latency budget."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    add_tables(parser)
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        "--budget-ms",
        action="append",
        type=_nanoseconds(budget_from_ms),
        metavar="B",
        help="latency budget of the selection, in ms; give it again for more budgets",
    )
    budget.add_argument(
        "--speedup",
        type=positive,
        metavar="S",
        help="budget as a speedup over every layer on its own, as the tables have it",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        help="exact: the optimum, proven; binned: the paper's dynamic programme over latency bins; "
        "default: exact, or binned if --bin-ms or --rounding is given",
    )
    parser.add_argument(
        "--gap",
        type=_share,
        default=0.0,
        metavar="G",
        help="exact: stop once the value is proven to be within this share of the optimum, such as "
        "0.01; default: 0",
    )
    parser.add_argument(
        "--bin-ms",
        type=_nanoseconds(ns_from_ms, least_ns=1),
        metavar="W",
        help="binned: width of a latency bin, in ms; default: a ten-thousandth of the budget",
    )
    parser.add_argument(
        "--rounding",
        choices=ROUNDINGS,
        help="binned: how latencies become bins: up keeps the budget; floor, the way of the "
        "paper's authors, may exceed it; default: up",
    )
    add_memory_limit(
        parser, "exact ends with the best it has and its gap, and binned asks for wider bins"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Solve and print; infeasible budgets are reported in JSON as well."""
    tables = read_tables(arguments)
    with naming_options():
        outcomes = _outcomes(arguments, tables)
    found = [outcome for outcome in outcomes if isinstance(outcome, Selection)]
    if arguments.json:
        budgets = arguments.budget_ms or [None]
        documents = [
            _found(outcome)
            if isinstance(outcome, Selection)
            else _infeasible(outcome, budget, arguments)
            for outcome, budget in zip(outcomes, budgets, strict=True)
        ]
        print_document(documents[0] if len(documents) == 1 else {"solutions": documents})
    else:
        for selection in found:
            _print_table(selection)
    if errors := [outcome for outcome in outcomes if isinstance(outcome, InfeasibleError)]:
        raise errors[-1]
    return 0


def _outcomes(
    arguments: argparse.Namespace, tables: tuple[LatencyTable, ImportanceTable]
) -> list[Selection | InfeasibleError]:
    """Solve for each budget."""
    from layermerge.solver import solve, solve_many

    limit = arguments.memory_limit
    is_exact = arguments.method != "binned" and not _has_binned_options(arguments)
    if arguments.budget_ms is not None and is_exact:
        return solve_many(*tables, arguments.budget_ms, gap=arguments.gap, memory_limit_bytes=limit)
    outcomes: list[Selection | InfeasibleError] = []
    for budget_ns in arguments.budget_ms or [None]:
        try:
            outcomes.append(
                solve(
                    *tables,
                    budget_ns=budget_ns,
                    speedup=arguments.speedup,
                    method=arguments.method,
                    gap=arguments.gap,
                    bin_ns=arguments.bin_ms,
                    rounding=arguments.rounding,
                    memory_limit_bytes=limit,
                )
            )
        except InfeasibleError as error:
            outcomes.append(error)
    return outcomes


def _has_binned_options(arguments: argparse.Namespace) -> bool:
    return arguments.bin_ms is not None or arguments.rounding is not None


def _nanoseconds(convert: Callable[[str], int], least_ns: int = 0) -> Callable[[str], int]:
    def milliseconds(text: str) -> int:
        try:
            ns = convert(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        if ns < least_ns:
            raise argparse.ArgumentTypeError(
                f"must be at least {format_ms(least_ns)} milliseconds, got {text}"
            )
        return ns

    return milliseconds


def _share(text: str) -> float:
    value = at_least_zero(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a share of the optimum, from 0 to less than 1, such as 0.01"
        )
    return value


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
        "upper_bound": selection.upper_bound,
        "optimal": selection.optimal,
    }


def _segment(entry: SelectedEntry) -> dict[str, Any]:
    height, width = entry.kernel_size
    return {
        "start": entry.start,
        "end": entry.end,
        "kernel_size": height if height == width else [height, width],
        "kept": entry.kept,
    }


def _infeasible(
    error: InfeasibleError, budget_ns: int | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    return {
        "value": None,
        "latency_ms": None,
        "budget_ms": None if budget_ns is None else budget_ns / 1e6,
        "feasible": False,
        "least_latency_ms": error.least_latency_ns / 1e6,
        "segments": [],
        "activations": [],
        "convolutions": [],
        "method": arguments.method or ("binned" if _has_binned_options(arguments) else "exact"),
        "seconds": None,
        "upper_bound": None,
        "optimal": False,
    }


def _how(selection: Selection) -> str:
    if selection.bin_ns is not None:
        return f"binned, bins of {format_ms(selection.bin_ns)} ms rounded {selection.rounding}"
    if selection.optimal:
        return "exact, proven optimal"
    return f"feasible, gap {100 * (selection.gap or 0):.3g} %"


def _print_table(selection: Selection) -> None:
    from rich.console import Console
    from rich.table import Table

    kept = selection.latency_ns <= selection.budget_ns
    table = Table(
        title=f"{len(selection.entries)} convolutions, importance {selection.value:.6g}",
        caption=f"{format_ms(selection.latency_ns)} ms of {format_ms(selection.budget_ns)} ms: "
        f"budget {'kept' if kept else 'EXCEEDED (rounding floor)'}; {_how(selection)}, "
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
