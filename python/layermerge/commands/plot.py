"""`layermerge plot`: the plots of a run as a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from layermerge.commands.json_output import print_document
from layermerge.commands.runs import add_run, load_run

SUMMARY = "Draw the plots of a run to a file: PNG, SVG or PDF."
PLOTS = ("score", "frontier", "latency", "importance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    add_run(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="ends in .png, .svg or .pdf"
    )
    parser.add_argument(
        "--only",
        choices=PLOTS,
        help="one plot; default: all that the run has data for, in one picture",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Draw, and say where."""
    from layermerge.report.images import check_image_path, write_image

    check_image_path(arguments.out)
    drawn = write_image(load_run(arguments.run), arguments.out, only=arguments.only)
    if arguments.json:
        print_document({"file": str(arguments.out), "plots": list(drawn)})
    else:
        print(f"Written to {arguments.out}: {', '.join(drawn)}")
    return 0
