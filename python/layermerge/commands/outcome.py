"""What `compress` and `demo` leave behind and print."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from layermerge.commands.json_output import print_document
from layermerge.commands.runs import REPORT_FILE, RESULT_FILE
from layermerge.errors import InfeasibleError, InputError
from layermerge.exporting import PLAN_FILE, WEIGHTS_FILE, save
from layermerge.pipeline import Compression
from layermerge.report.html import write_html
from layermerge.report.terminal import print_result
from layermerge.results import STUDY_FILE


def compress_to(
    directory: str, compress: Callable[[Path], Compression], *, model_name: str, as_json: bool
) -> None:
    """Compress, leave what comes of it in a folder, and print it; or that nothing can."""
    folder = _made(directory)
    try:
        compression = compress(folder)
    except InfeasibleError as error:
        if as_json:
            least_ms = error.least_latency_ns / 1e6
            print_document({"feasible": False, "least_latency_ms": least_ms})
        raise
    _show(compression, folder, model_name, as_json=as_json)


def _made(directory: str) -> Path:
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {directory} cannot be made a folder: {error}") from error
    return folder


def _show(compression: Compression, directory: Path, model_name: str, *, as_json: bool) -> None:
    """Save artefact, result and report in a folder; print the result."""
    save(compression.model, directory, model_name=model_name)
    command = shlex.join(["layermerge", *sys.argv[1:]])
    provenance = {"command": command, **compression.result.provenance}
    result = replace(compression.result, provenance=provenance)
    result.save(directory / RESULT_FILE)
    write_html(result, directory / REPORT_FILE)
    if as_json:
        derived = {
            "feasible": True,
            "speedup": result.speedup,
            "is_within_budget": result.is_within_budget,
            "directory": str(directory),
        }
        print_document({**asdict(result), **derived})
        return
    print_result(result)
    print(
        f"Saved in {directory}: {PLAN_FILE}, {WEIGHTS_FILE}, {REPORT_FILE}, {RESULT_FILE}; "
        f"{STUDY_FILE} keeps what was measured and evaluated"
    )
