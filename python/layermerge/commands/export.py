"""`layermerge export RUN`: what a run made as one file that runs elsewhere, checked."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from layermerge.commands.options import positive
from layermerge.errors import InputError

if TYPE_CHECKING:
    from torch import fx

    from layermerge.interchange import Exported

SUMMARY = "Write a compressed network as ONNX, for torch.export, or as weights; and check the file."
FORMATS = ("onnx", "pt2", "safetensors")
EPILOG = """\
formats:
  onnx          model.onnx, checked and run in ONNX Runtime beside torch (extra: onnx)
  pt2           model.pt2, for torch.export.load, which needs no class
  safetensors   a folder with plan.json and model.safetensors, for layermerge.load

examples:
  layermerge export runs/demo --to onnx
  layermerge export runs/compress --to pt2 --model model.py:make --out faster.pt2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", metavar="RUN", help="folder that compress or demo wrote")
    parser.add_argument("--to", required=True, choices=FORMATS, help="see below")
    parser.add_argument(
        "--out", metavar="FILE", help="default: RUN/model.onnx or RUN/model.pt2; else a folder"
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="what the original model is made by, as in compress; default: what the run says, if a "
        "library makes it",
    )
    parser.add_argument(
        "--tolerance",
        type=positive,
        metavar="R",
        help="most that outputs may differ from torch's, relative to the largest; default: what "
        "rounding explains, 0.0001 in fp32",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Export and print what was written."""
    folder = Path(arguments.run)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: name one that compress or demo wrote")
    if arguments.to == "safetensors" and arguments.out is None:
        raise InputError(
            f"{folder} holds model.safetensors already: name another folder to write it to, --out"
        )
    from layermerge.exporting import load

    merged = load(folder, arguments.model)
    if arguments.to == "safetensors":
        _save(merged, Path(arguments.out), as_json=arguments.json)
        return 0
    path = Path(arguments.out or folder / f"model.{arguments.to}")
    from layermerge.interchange import export_onnx, export_pt2

    export = {"onnx": export_onnx, "pt2": export_pt2}[arguments.to]
    exported = export(merged, path, tolerance=arguments.tolerance)
    _show(exported, arguments.to, as_json=arguments.json)
    return 0


def _save(merged: fx.GraphModule, folder: Path, *, as_json: bool) -> None:
    from layermerge.exporting import PLAN_FILE, WEIGHTS_FILE, save

    save(merged, folder)
    files = [str(folder / name) for name in (PLAN_FILE, WEIGHTS_FILE)]
    if as_json:
        print(json.dumps({"format": "safetensors", "files": files}))
    else:
        print(f"Wrote {' and '.join(files)}, for layermerge.load.")


def _show(exported: Exported, form: str, *, as_json: bool) -> None:
    size = exported.path.stat().st_size
    if as_json:
        document = {
            "format": form,
            "files": [str(exported.path)],
            "bytes": size,
            "is_batch_dynamic": exported.is_batch_dynamic,
            "batch_sizes": exported.batch_sizes,
            "inputs": exported.inputs,
            "runtime": exported.runtime,
            "error": exported.error,
        }
        print(json.dumps(document))
        return
    inputs = ", ".join(f"{n} {'x'.join(map(str, shape))}" for n, shape in exported.inputs.items())
    sizes = ", ".join(map(str, exported.batch_sizes))
    print(f"Wrote {exported.path}: {size:,} bytes; input {inputs}.")
    print(
        f"Checked in {exported.runtime} against torch at batch size {sizes}: the outputs differ by "
        f"at most {exported.error:.1e} of the largest."
    )
