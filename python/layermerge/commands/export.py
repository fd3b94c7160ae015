"""`layermerge export RUN`: what a run made as one file that runs elsewhere, checked."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from layermerge.commands.json_output import print_document
from layermerge.commands.options import positive
from layermerge.commands.runs import RESULT_FILE
from layermerge.errors import InputError
from layermerge.results import STUDY_FILE

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
    _check_finished(folder)
    _check_out(arguments)
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


def _check_finished(folder: Path) -> None:
    """Refuse a folder that holds no compressed network."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: name one that compress or demo wrote")
    if (folder / STUDY_FILE).exists() and not (folder / RESULT_FILE).exists():
        raise InputError(
            f"the run in {folder} has not finished: give its compress or demo command again, which "
            "goes on where it was"
        )


def _check_out(arguments: argparse.Namespace) -> None:
    """Refuse to write over what is no export of this kind."""
    if arguments.to != "safetensors":
        if arguments.out is not None and Path(arguments.out).suffix != f".{arguments.to}":
            raise InputError(
                f"--out {arguments.out} must end in .{arguments.to}, as --to {arguments.to} writes "
                "such a file"
            )
        return
    if arguments.out is None:
        raise InputError(
            f"{arguments.run} holds model.safetensors already: name another folder to write it to, "
            "--out"
        )
    out = Path(arguments.out)
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out {out} is a folder with files in it: name a new or an empty one")


def _save(merged: fx.GraphModule, folder: Path, *, as_json: bool) -> None:
    from layermerge.exporting import PLAN_FILE, WEIGHTS_FILE, save

    save(merged, folder)
    files = [str(folder / name) for name in (PLAN_FILE, WEIGHTS_FILE)]
    if as_json:
        print_document({"format": "safetensors", "files": files})
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
        print_document(document)
        return
    inputs = ", ".join(f"{n} {'x'.join(map(str, shape))}" for n, shape in exported.inputs.items())
    sizes = ", ".join(map(str, exported.batch_sizes))
    print(f"Wrote {exported.path}: {size:,} bytes; input {inputs}.")
    print(
        f"Checked in {exported.runtime} against torch at batch size {sizes}: the outputs differ by "
        f"at most {exported.error:.1e} of the largest."
    )
