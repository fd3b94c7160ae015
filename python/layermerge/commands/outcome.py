"""What `compress` and `demo` leave behind and print."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from layermerge.exporting import save
from layermerge.pipeline import Compression
from layermerge.report.html import write_html
from layermerge.report.terminal import print_result

RESULT_FILE = "result.json"
REPORT_FILE = "report.html"


def show(compression: Compression, directory: Path, *, as_json: bool) -> None:
    """Save artefact, result and report in a folder; print the result."""
    save(compression.model, directory)
    result = compression.result
    result.save(directory / RESULT_FILE)
    write_html(result, directory / REPORT_FILE)
    if as_json:
        derived = {"speedup": result.speedup, "is_within_budget": result.is_within_budget}
        print(json.dumps({**asdict(result), **derived, "directory": str(directory)}))
        return
    print_result(result)
    print(f"Saved in {directory}: plan.json, model.safetensors, {REPORT_FILE}, {RESULT_FILE}")
