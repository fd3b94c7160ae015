"""`layermerge report`: the page of a run, from its result."""

from __future__ import annotations

import argparse
from pathlib import Path

from layermerge.commands.json_output import print_document
from layermerge.commands.runs import REPORT_FILE, add_run, load_run, result_path
from layermerge.errors import InputError

SUMMARY = "Write the page of a run again: one HTML file that needs nothing but itself."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    add_run(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.html",
        help=f"default: {REPORT_FILE} beside the result",
    )
    parser.add_argument(
        "--picture",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.png",
        help="show this picture too, under its file's name; may be given again",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Write the page and say where."""
    from layermerge.report.comparison import headline
    from layermerge.report.html import write_html

    if arguments.out is not None and arguments.out.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            f"--out {arguments.out} must end in .html: the page is HTML. `layermerge plot` draws "
            "to PNG, SVG and PDF"
        )
    result = load_run(arguments.run)
    out = arguments.out or result_path(arguments.run).with_name(REPORT_FILE)
    write_html(result, out, {path.stem: _read_picture(path) for path in arguments.picture})
    if arguments.json:
        print_document({"report": str(out), "headline": headline(result)})
        return 0
    print(headline(result))
    if result.search is None:
        print(
            "The result does not hold the frontier and the segments, as older releases did not "
            "record them: the page has none. Run the same command again to have them; what its "
            "study holds is not done again."
        )
    print(f"Written to {out}")
    return 0


def _read_picture(path: Path) -> bytes:
    """The content of a picture's file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the picture {path}: {error.strerror}") from error
