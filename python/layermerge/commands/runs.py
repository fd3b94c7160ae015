"""The files of a run, and reading its result."""

from __future__ import annotations

import argparse
from pathlib import Path

from layermerge.errors import InputError
from layermerge.results import Result, load_result

RESULT_FILE = "result.json"
REPORT_FILE = "report.html"


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a run."""
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help=f"folder that compress or demo wrote, or the {RESULT_FILE} in it",
    )


def result_path(run: Path) -> Path:
    """The file with the result of a run that is given by its folder or by that file.

    Raises
    ------
    InputError
        If there is none.
    """
    path = run / RESULT_FILE if run.is_dir() else run
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: name a folder that `layermerge compress` or `layermerge demo` "
            f"wrote with --out, or the {RESULT_FILE} in it"
        )
    return path


def load_run(run: Path) -> Result:
    """Read the result of a run."""
    return load_result(result_path(run))
