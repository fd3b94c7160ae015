"""`layermerge table export|import`: latency tables that travel between machines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from layermerge.commands.json_output import print_document
from layermerge.commands.options import add_latency, add_model, add_space, latency_options
from layermerge.commands.profile import Subject, load_subject
from layermerge.errors import InputError

if TYPE_CHECKING:
    from layermerge.latency.options import LatencyOptions

ENDINGS = (".csv", ".parquet")
SUMMARY = "Write the latencies of a model as a table, or take a table into a study."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    export = actions.add_parser(
        "export", help="write latencies to a file; what the study lacks is measured"
    )
    bring = actions.add_parser("import", help="take the latencies of a file into a study")
    for action in (export, bring):
        add_model(action)
        action.add_argument("table", metavar="TABLE", help="CSV, or Parquet if named *.parquet")
        action.add_argument("--study", required=True, metavar="FILE.db")
        add_latency(action)
        add_space(action)
        action.add_argument(
            "--json", action="store_true", help="print one JSON object, nothing else"
        )
    bring.add_argument(
        "--allow-foreign-table",
        action="store_true",
        help="take a table that was measured elsewhere as if it had been measured here",
    )
    bring.add_argument(
        "--replace",
        action="store_true",
        help="take its latencies in place of those that the study holds already",
    )


def run(arguments: argparse.Namespace) -> int:
    """Export or import."""
    if arguments.action == "export":
        _check_path(Path(arguments.table), Path(arguments.study))
    subject, options = load_subject(arguments), latency_options(arguments)
    done = _export if arguments.action == "export" else _import
    count, text = done(arguments, subject, options)
    if arguments.json:
        found = {"table": arguments.table, "study": arguments.study, "count": count}
        print_document(found)
    else:
        print(text)
    return 0


def _check_path(table: Path, study: Path) -> None:
    """Refuse where a table cannot be written before anything is measured for it."""
    if table.suffix not in ENDINGS:
        raise InputError(
            f"{table} must end in {' or '.join(ENDINGS)}: name the table so, like T{ENDINGS[0]}"
        )
    if not table.absolute().parent.is_dir():
        raise InputError(f"{table} cannot be written: name a file in a folder that exists")
    if table.resolve() == study.resolve():
        raise InputError(f"{table} is the study: name the table otherwise, or it would replace it")


def _export(
    arguments: argparse.Namespace, subject: Subject, options: LatencyOptions
) -> tuple[int, str]:
    from layermerge.latency.exchange import origin_path, write_profile

    profile = subject.profile(options, arguments.study)
    count = write_profile(profile, arguments.table)
    return count, (
        f"{count} entries in {arguments.table}; where they are from: {origin_path(arguments.table)}"
    )


def _import(
    arguments: argparse.Namespace, subject: Subject, options: LatencyOptions
) -> tuple[int, str]:
    from layermerge.latency.measuring import import_table

    count = import_table(
        arguments.table,
        subject.model,
        subject.network,
        subject.space,
        example_inputs=subject.inputs,
        study=arguments.study,
        options=options,
        allow_foreign=arguments.allow_foreign_table,
        replace=arguments.replace,
    )
    total = len(subject.space.signatures)
    return count, (
        f"{arguments.table} has latencies of {count} of {total} distinct convolutions; what "
        f"{arguments.study} lacks will be measured"
    )
