"""`layermerge doctor`: what is installed, what works, and what is missing for what."""

from __future__ import annotations

import argparse
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import layermerge
from layermerge.commands.json_output import print_document
from layermerge.processor import cpu_name, usable_cores

if TYPE_CHECKING:
    from layermerge.installation import Extra, Package

SUMMARY = "Show versions, devices, compilers and optional extras, and what is wrong with them."

COMPILERS = ("c++", "g++", "clang++", "cl", "nvcc")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Look at everything and print it; fail if what layermerge needs is missing or broken."""
    from rich.console import Console

    from layermerge import _core
    from layermerge.installation import WORKS, extras, required_packages

    with Console(stderr=True).status("importing what is installed"):
        packages, optional = required_packages(), extras()
    gpus = _gpus(packages)
    document = {
        "layermerge": layermerge.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "processor": {
            "name": cpu_name(),
            "usable_cores": usable_cores(),
            "solver_instructions": _core.vector_instructions(),
        },
        "gpus": gpus,
        "packages": [asdict(package) for package in packages],
        "compilers": _compilers(),
        "extras": [{**asdict(e), "works": e.works, "install": e.install} for e in optional],
        "advice": list(_advice(packages, gpus, optional)),
    }
    if arguments.json:
        print_document(document)
    else:
        _print_tables(document, packages, optional)
    return 0 if all(package.status == WORKS for package in packages) else 1


def _compilers() -> list[dict[str, str]]:
    return [
        {"name": name, "path": path, "version": _version_of(path)}
        for name in COMPILERS
        if (path := shutil.which(name))
    ]


def _gpus(packages: list[Package]) -> dict[str, Any]:
    """GPUs that the system has, and those that torch can use."""
    torch = next((package.details for package in packages if package.name == "torch"), {})
    tool = shutil.which("nvidia-smi")
    query = "--query-gpu=name,driver_version", "--format=csv,noheader"
    listed = _output(tool, *query).splitlines() if tool else []
    return {
        "nvidia_smi": [line.strip() for line in listed if line.strip()],
        "torch": torch.get("gpus", []),
        "torch_cuda": torch.get("cuda"),
        "torch_mps": torch.get("mps", False),
    }


def _output(*command: str, may_fail: bool = False) -> str:
    """What a command prints; nothing if it does not run, or fails and may not."""
    import subprocess

    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if may_fail or not done.returncode else ""


def _version_of(compiler: str) -> str:
    """The first line that has a release in it, of what a compiler says about itself."""
    # MSVC names itself before it complains of the option.
    lines = _output(compiler, "--version", may_fail=True).splitlines()
    return next((line.strip() for line in lines if re.search(r"\d\.\d", line)), "does not run")


def _advice(packages: list[Package], gpus: dict[str, Any], optional: list[Extra]) -> Iterator[str]:
    """What to do about what is wrong, most important first."""
    from layermerge.installation import BROKEN, TOO_OLD, WORKS

    for package in packages:
        if package.status != WORKS:
            needed = f"'{package.name}>={package.least}'" if package.least else package.name
            yield f"{package.name} is {package.status}: pip install {needed}"
    if gpus["nvidia_smi"] and not gpus["torch"]:
        yield (
            "there is an NVIDIA GPU, but torch cannot use it: install a build of torch with CUDA "
            "that the driver supports"
        )
    for extra in optional:
        for package in extra.packages:
            if package.status == TOO_OLD:
                yield f"{package.name} {package.version} is too old: {extra.install}"
            elif package.status == BROKEN:
                yield (
                    f"{package.name} {package.version} is broken: pip install --force-reinstall "
                    f"{package.name}, or pip uninstall {package.name}"
                )


def _print_tables(document: dict[str, Any], packages: list[Package], optional: list[Extra]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    here = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _lines(document, packages):
        here.add_row(name, escape(value))
    console.print(here)
    table = Table(title="optional extras")
    for heading in ("extra", "enables", "packages", "status"):
        table.add_column(heading)
    for extra in optional:
        names = "\n".join(map(_described, extra.packages))
        table.add_row(
            extra.name, escape(extra.enables), escape(names), "works" if extra.works else "-"
        )
    console.print(table)
    for extra in optional:
        if not extra.works:
            console.print(f"for {escape(extra.enables)}: {escape(extra.install)}", soft_wrap=True)
    for line in document["advice"]:
        console.print(escape(line), style="bold", soft_wrap=True)


def _lines(document: dict[str, Any], packages: list[Package]) -> Iterator[tuple[str, str]]:
    yield "layermerge", document["layermerge"]
    yield "Python", f"{document['python']}, {document['platform']}"
    for package in packages:
        yield package.name, _described(package).removeprefix(package.name).strip(" :")
    processor = document["processor"]
    yield (
        "processor",
        f"{processor['name']}, {processor['usable_cores']} usable cores; the solver runs on "
        f"{processor['solver_instructions']}",
    )
    gpus = document["gpus"]
    usable = [f"{name} (CUDA {gpus['torch_cuda']})" for name in gpus["torch"]]
    usable += ["Apple GPU (MPS)"] if gpus["torch_mps"] else []
    yield "GPUs", "\n".join(usable) or "none that torch can use"
    compilers = [f"{compiler['name']}: {compiler['version']}" for compiler in document["compilers"]]
    yield "compilers", "\n".join(compilers) or "none; --backend compile needs a C++ compiler"


def _described(package: Package) -> str:
    from layermerge.installation import BROKEN, MISSING, TOO_OLD

    if package.status == MISSING:
        return f"{package.name}: missing"
    if package.status == TOO_OLD:
        return f"{package.name} {package.version}: too old, {package.least} or later is needed"
    if package.status == BROKEN:
        return f"{package.name} {package.version}: broken: {package.problem}"
    return f"{package.name} {package.version}"
