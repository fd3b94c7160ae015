from __future__ import annotations

import difflib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import layermerge
from layermerge import errors

HEAVY = ("torch", "matplotlib", "sklearn", "pandas")


def run_python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    "module", ["layermerge", "layermerge.solver", "layermerge.cli", "layermerge.report"]
)
def test_import_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    result = run_python("-c", code)
    assert (result.returncode, result.stdout) == (0, "\n")


@pytest.mark.parametrize("name", layermerge.__all__)
def test_every_exported_name_exists(name):
    assert getattr(layermerge, name).__name__ == name
    assert name in dir(layermerge)


def test_unknown_names_are_refused_as_usual():
    with pytest.raises(AttributeError, match="'layermerge' has no attribute 'nonesuch'"):
        _ = layermerge.nonesuch


def test_the_version_is_that_of_the_distribution():
    assert layermerge.__version__ == version("layermerge")


def test_the_package_runs_as_a_module():
    result = run_python("-m", "layermerge", "--version")
    assert result.stdout == f"layermerge {layermerge.__version__}\n"
    assert run_python("-m", "layermerge", "solve", "--help").returncode == 0


def test_the_command_line_starts_without_numpy():
    heavy = "{'numpy', 'torch', 'rich', 'layermerge._core'} & sys.modules.keys()"
    found = run_python(
        "-c", f"import sys; from layermerge import cli; cli.build_parser(); print({heavy})"
    )
    assert found.stdout == "set()\n", found.stderr


def test_the_stub_of_the_core_is_what_the_binary_gives(tmp_path):
    pytest.importorskip("pybind11_stubgen")
    generated = run_python(
        *("-m", "pybind11_stubgen", "layermerge._core", "--numpy-array-use-type-var"),
        *("-o", str(tmp_path)),
    )
    assert generated.returncode == 0, generated.stderr
    committed = Path(layermerge.__file__).with_name("_core.pyi").read_text()
    fresh = (tmp_path / "layermerge" / "_core.pyi").read_text()
    assert list(difflib.unified_diff(committed.splitlines(), fresh.splitlines())) == []


@pytest.mark.parametrize(
    ("missing", "statement"),
    [
        ("torch", "import layermerge; layermerge.trace"),
        ("safetensors", "import layermerge; layermerge.save"),
        ("torch", "from layermerge.cli import main; main(['inspect', 'timm:resnet18'])"),
        ("rich", "from layermerge.cli import main; main(['doctor'])"),
    ],
)
def test_a_missing_dependency_of_the_package_itself_is_named(missing, statement):
    done = run_python("-c", f"import sys; sys.modules[{missing!r}] = None; {statement}")
    message = f"{missing} is not installed, and this needs it: pip install {missing}\n"
    assert done.stderr.endswith(message)
    assert "main" not in statement or "Traceback" not in done.stderr


def test_modules_that_are_missing_otherwise_are_not_explained_away():
    error = ModuleNotFoundError("No module named 'mine'", name="mine")
    assert errors.missing(error) is error
