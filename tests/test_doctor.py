from __future__ import annotations

import json
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest

import layermerge
from layermerge import _core, installation
from layermerge.cli import main
from layermerge.commands import doctor
from layermerge.installation import BROKEN, MISSING, TOO_OLD, WORKS, Extra, Package, look_at


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package with the given code on the path, for this process and its children."""

    def put(name, release, code):
        (tmp_path / f"{name}.py").write_text(code)
        information = tmp_path / f"{name}-{release}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n"
        )

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return put


def test_a_package_that_imports_works(install):
    install("well", "1.10.2", "print('says something')")
    assert look_at("well", "1.9") == Package("well", "1.9", "1.10.2", WORKS)


def test_a_package_that_is_not_there_is_missing():
    assert look_at("layermerge-nonesuch") == Package("layermerge-nonesuch", "", None, MISSING)


def test_an_old_package_is_too_old_and_not_imported(install):
    install("old", "1.9.7", "raise SystemExit('imported')")
    assert look_at("old", "1.10") == Package("old", "1.10", "1.9.7", TOO_OLD)


def test_releases_are_compared_number_by_number(install):
    install("exactly", "1.9+cpu", "")
    for least in ("1.9", "1.9.0", "1.8.99", "0.10", ""):
        assert look_at("exactly", least).status == WORKS
    for least in ("1.9.1", "1.10", "2"):
        assert look_at("exactly", least).status == TOO_OLD


def test_a_package_without_a_version_is_broken(install):
    install("nameless", "", "")
    found = look_at("nameless")
    assert (found.status, found.version) == (BROKEN, None)


def test_what_a_package_prints_is_not_the_answer(monkeypatch):
    chatty = "import atexit; print('7'); print('{\"threads\": 7}'); atexit.register(print, '7')"
    monkeypatch.setattr(installation, "_IMPORT_TORCH", chatty)
    assert installation._imported("torch") == ({"threads": 7}, "")


@pytest.mark.parametrize(
    ("name", "code", "problem"),
    [
        ("raising", "import layermerge_nonesuch", "No module named 'layermerge_nonesuch'"),
        ("leaving", "import os; os._exit(7)", "ends Python with status 7"),
        ("crashing", "import os; os.abort()", "ends Python with status"),
    ],
)
def test_a_package_that_cannot_be_imported_is_broken(install, name, code, problem):
    install(name, "2.0", code)
    found = look_at(name)
    assert found.status == BROKEN
    assert problem in found.problem


def test_a_package_that_hangs_is_broken(install, monkeypatch):
    monkeypatch.setattr(installation, "_SECONDS_TO_IMPORT", 0.5)
    install("hanging", "2.0", "import time; time.sleep(60)")
    found = look_at("hanging")
    assert (found.status, found.problem) == (BROKEN, "importing it takes more than 0.5 s")


def test_every_extra_is_explained_or_for_developers():
    declared = set(metadata("layermerge").get_all("Provides-Extra"))
    assert declared <= {*installation.ENABLES, *installation.TOOLS_OF_DEVELOPERS}
    for extra in installation.ENABLES:
        assert [line for line in installation.requirements() if line.extra == extra]


def test_what_every_installation_needs_is_told_from_extras():
    needed = {line.name: line.least for line in installation.requirements() if not line.extra}
    backports = set() if sys.version_info >= (3, 11) else {"tomli"}
    assert set(needed) == {"numpy", "torch", "rich", "safetensors", *backports}
    assert all(needed.values())


@pytest.fixture
def one_extra(monkeypatch):
    monkeypatch.setattr(installation, "ENABLES", {"completion": "completion"})


def test_json_tells_it_all(capsys, one_extra):
    status = main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["layermerge"] == layermerge.__version__
    assert found["processor"]["name"]
    assert found["processor"]["usable_cores"] >= 1
    assert found["processor"]["solver_instructions"] in ("avx512f", "avx2", "baseline")
    packages = {package["name"]: package for package in found["packages"]}
    assert packages["numpy"]["version"] == metadata("numpy")["Version"]
    assert packages["numpy"]["status"] == WORKS
    assert packages["torch"]["status"] in (WORKS, MISSING)
    assert (packages["torch"]["details"].get("threads", 0) > 0) == (
        packages["torch"]["status"] == WORKS
    )
    assert status == (packages["torch"]["status"] != WORKS)
    (extra,) = found["extras"]
    assert extra["install"] == "pip install 'layermerge[completion]'"


def test_tables_tell_it_all(capsys, one_extra):
    works = all(package.status == WORKS for package in installation.required_packages())
    assert main(["doctor"]) == (0 if works else 1)
    found = capsys.readouterr().out
    for words in (layermerge.__version__, sys.version.split()[0], "numpy", "solver runs on"):
        assert words in found


def test_advice_names_what_is_wrong_and_what_to_do():
    packages = [Package("numpy", "1.24", "1.2", TOO_OLD), Package("torch", "2.4", None, MISSING)]
    extras = [
        Extra("onnx", "ONNX", (Package("onnx", "", "1.16", BROKEN, "ImportError: libfoo"),)),
        Extra("ray", "clusters", (Package("ray", "2.30", None, MISSING),)),
    ]
    gpus = {"nvidia_smi": ["NVIDIA H100, 570.1"], "torch": []}
    numpy, torch, gpu, onnx = doctor._advice(packages, gpus, extras)
    assert numpy == "numpy is too old: pip install 'numpy>=1.24'"
    assert torch == "torch is missing: pip install 'torch>=2.4'"
    assert "torch cannot use it" in gpu
    assert onnx.startswith("onnx 1.16 is broken: pip install --force-reinstall onnx")


@pytest.mark.skipif(sys.platform == "win32", reason="needs an executable script")
@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo banner; echo 'release 12.4, V12.4.99'", "release 12.4, V12.4.99"),
        ("echo 'Compiler Version 19.39' >&2; exit 2", "Compiler Version 19.39"),
        ("exit 0", "does not run"),
    ],
)
def test_compilers_say_what_they_are(tmp_path, monkeypatch, script, version):
    compiler = tmp_path / "nvcc"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._compilers() == [{"name": "nvcc", "path": str(compiler), "version": version}]


@pytest.mark.skipif(sys.platform == "win32", reason="needs an executable script")
@pytest.mark.parametrize(
    ("script", "gpus"),
    [("echo 'NVIDIA H100, 570.1'; echo", ["NVIDIA H100, 570.1"]), ("echo no driver; exit 9", [])],
)
def test_gpus_are_those_that_the_driver_lists(tmp_path, monkeypatch, script, gpus):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._gpus([])["nvidia_smi"] == gpus


def test_the_instructions_are_those_that_the_processor_has():
    information = Path("/proc/cpuinfo")
    if not information.exists():
        pytest.skip("no /proc/cpuinfo")
    flags = set(information.read_text().partition("flags")[2].partition("\n")[0].split())
    expected = next((name for name in ("avx512f", "avx2") if name in flags), "baseline")
    assert _core.vector_instructions() == expected
