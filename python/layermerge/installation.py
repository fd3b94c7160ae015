"""What is installed of what LayerMerge can use, and whether it works (no torch).

Packages are imported in processes of their own: one that is broken, or that takes the interpreter
down with it, is a finding and not a failure.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from layermerge.processor import usable_cores

WORKS, MISSING, TOO_OLD, BROKEN = "works", "missing", "too old", "broken"

ENABLES: Mapping[str, str] = {
    "demo": "layermerge demo; the data set digits",
    "report": "plots of frontiers and latencies",
    "parquet": "tables as Parquet files",
    "onnx": "models as ONNX files; latency in ONNX Runtime",
    "tensorrt": "latency in TensorRT",
    "models": "models of timm and torchvision; data sets of images",
    "diffusers": "models of diffusers",
    "hub": "data sets of the Hugging Face hub",
    "ray": "importance on a cluster",
    "accelerate": "fine-tuning on several GPUs",
    "tensorboard": "logs of fine-tuning for TensorBoard",
    "peers": "comparison of the solver with others",
    "completion": "layermerge completion: the shell completes subcommands and options",
}
"""What each optional extra is for, as users see it."""

TOOLS_OF_DEVELOPERS = ("test", "browser", "bench", "dev", "docs", "wheels")

_IMPORT_NAMES = {"scikit-learn": "sklearn"}
_SECONDS_TO_IMPORT = 120

_IMPORT = "import importlib, sys; importlib.import_module(sys.argv[1])"
_IMPORT_TORCH = """
import json, torch
cuda = torch.version.cuda if torch.cuda.is_available() else None
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({
    "threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability(),
    "cuda": cuda, "gpus": names, "mps": torch.backends.mps.is_available(),
}))
"""


@dataclass(frozen=True)
class Package:
    """A package that LayerMerge uses: which release is installed, and how it does.

    Attributes
    ----------
    least : str
        The oldest release that will do; empty if any will.
    version : str or None
        The release that is installed.
    status : str
        One of `WORKS`, `MISSING`, `TOO_OLD`, `BROKEN`.
    problem : str
        What importing it said, if it is broken.
    details : mapping
        Of torch: threads, instructions, and the GPUs that it can use.
    """

    name: str
    least: str
    version: str | None
    status: str
    problem: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Extra:
    """An optional extra: what it enables, and the packages that it needs."""

    name: str
    enables: str
    packages: tuple[Package, ...]

    @property
    def works(self) -> bool:
        """Whether all of its packages do."""
        return all(package.status == WORKS for package in self.packages)

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'layermerge[{self.name}]'"


@dataclass(frozen=True)
class Requirement:
    """A line of the package's metadata, as far as it matters here."""

    name: str
    least: str
    extra: str


def required_packages() -> list[Package]:
    """Look at what every installation needs."""
    return _look_at_all([line for line in requirements() if not line.extra])


def extras() -> list[Extra]:
    """Look at what the optional extras need."""
    lines = [line for line in requirements() if line.extra in ENABLES]
    lines = [line for line in lines if line.name != "layermerge"]  # an extra that adds to another
    packages = _look_at_all(lines)
    return [
        Extra(
            name,
            enables,
            tuple(p for line, p in zip(lines, packages, strict=True) if line.extra == name),
        )
        for name, enables in ENABLES.items()
    ]


def _look_at_all(lines: list[Requirement]) -> list[Package]:
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(lambda line: look_at(line.name, line.least), lines))


@cache
def requirements() -> list[Requirement]:
    """Read what the installed package says that it needs."""
    found = []
    for line in requires("layermerge") or []:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        least = re.search(r">=\s*([0-9.]+)", line)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", line)
        below = re.search(r"python_version\s*<\s*['\"]([0-9.]+)['\"]", line)
        if below and list(sys.version_info[:2]) >= _parts(below[1])[:2]:
            continue
        assert name
        found.append(Requirement(name[0], least[1] if least else "", extra[1] if extra else ""))
    return found


@cache
def look_at(name: str, least: str = "") -> Package:
    """Find out which release of a package is installed, and import it elsewhere."""
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Package(name, least, None, MISSING)
    if not installed:
        return Package(name, least, None, BROKEN, "what is installed of it does not say a version")
    if _parts(installed) < _parts(least):
        return Package(name, least, installed, TOO_OLD)
    details, problem = _imported(name)
    status = BROKEN if problem else WORKS
    return Package(name, least, installed, status, problem, details)


def _parts(release: str) -> list[int]:
    """Major, minor and micro of a release; those that are not written are 0."""
    numbers = re.findall(r"\d+", release.partition("+")[0])[:3]
    return [int(number) for number in numbers] + [0] * (3 - len(numbers))


def _imported(name: str) -> tuple[dict[str, Any], str]:
    """What importing a package tells, or what is wrong with it."""
    script = _IMPORT_TORCH if name == "torch" else _IMPORT
    module = _IMPORT_NAMES.get(name, name.replace("-", "_"))
    try:
        child = subprocess.run(
            [sys.executable, "-c", script, module],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_SECONDS_TO_IMPORT,
        )
    except subprocess.TimeoutExpired:
        return {}, f"importing it takes more than {_SECONDS_TO_IMPORT} s"
    except OSError as error:
        return {}, f"no process to import it in: {error}"
    if child.returncode:
        said = child.stderr.strip().splitlines()
        return {}, said[-1] if said else f"importing it ends Python with status {child.returncode}"
    return _last_document(child.stdout), ""


def _last_document(printed: str) -> dict[str, Any]:
    """The answer among what else packages print as they are loaded and as Python ends."""
    for line in reversed(printed.splitlines()):
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, dict):
            return document
    return {}
