"""Build the sdist and the wheels, and try them where there is neither torch nor a compiler.

    python scripts/wheels.py                 # for every CPython that is found
    python scripts/wheels.py --python 3.11   # for one
    python scripts/wheels.py --check FOLDER  # only try wheels that something else has built

The sdist is built twice and must be the same bytes; each wheel is built from the sdist alone. The
first one is built twice too, in other folders, and must be the same bytes. On Linux, wheels are
repaired to the oldest manylinux tag that their symbols allow. Each wheel is then installed into an
empty environment whose PATH has no compiler, and the tests that need no torch are run there, far
from the source tree.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
MINORS = range(10, 15)
MAX_WHEEL_BYTES = 2 * 1024 * 1024
NEWEST_GLIBC = (2, 28)
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "cmake", "ninja", "ld")

TEST_REQUIREMENTS = (
    *("numpy", "rich"),  # what the solver itself needs
    *("pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100", "scipy", "shtab>=1.11"),
)
TESTS_WITHOUT_TORCH = (
    "test_binned.py",
    "test_bounds.py",
    "test_cli_completion.py",
    "test_cli_frontier.py",
    "test_cli_solve.py",
    "test_doctor.py",
    "test_exact.py",
    "test_frontier.py",
    "test_kernel_sizes.py",
    "test_latency_table.py",
    "test_lazy.py",
    "test_milliseconds.py",
    "test_problem.py",
    "test_progress.py",
    "test_results.py",
    "test_sentinel.py",
    "test_solver.py",
    "test_source_files.py",
    "test_store.py",
    "test_table_files.py",
    "test_tables.py",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Build and check; any failure ends the run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--python", action="append", metavar="3.X", help="build for this one; may be repeated"
    )
    parser.add_argument(
        "--check", type=Path, metavar="FOLDER", help="build nothing, try the wheels in this folder"
    )
    arguments = parser.parse_args(argv)
    interpreters = chosen_interpreters(arguments.python)
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.check:
            check_all(arguments.check, interpreters, Path(scratch))
        else:
            build_all(interpreters, Path(scratch))
    return 0


def chosen_interpreters(versions: Sequence[str] | None) -> dict[str, str]:
    """Find the interpreters that are asked for, by default all; say which there are."""
    found = find_interpreters()
    missing = [version for version in versions or () if version not in found]
    if missing:
        sys.exit(f"no CPython {', '.join(missing)}; found: {', '.join(found) or 'none'}")
    chosen = {version: found[version] for version in versions or found}
    for minor in MINORS:
        version = f"3.{minor}"
        print(f"CPython {version}: {chosen.get(version, 'not asked for, or not here')}")
    return chosen


def build_all(interpreters: dict[str, str], scratch: Path) -> None:
    """Build the sdist and a wheel for each interpreter into `DIST`, and check them."""
    shutil.rmtree(DIST, ignore_errors=True)
    sdist = build_sdist(scratch)
    shutil.unpack_archive(sdist, scratch)
    source = scratch / sdist.name.removesuffix(".tar.gz")
    for number, (version, interpreter) in enumerate(interpreters.items()):
        wheel = build_wheel(sdist, interpreter, scratch / version / "first")
        if number == 0:
            assert_same_bytes(wheel, build_wheel(sdist, interpreter, scratch / version / "second"))
        kept = Path(shutil.copy(wheel, DIST))
        check_wheel(kept, interpreter, scratch / version, source)
    print("\n".join(["", "built and checked:", *sorted(path.name for path in DIST.iterdir())]))


def check_all(folder: Path, interpreters: dict[str, str], scratch: Path) -> None:
    """Check each wheel of a folder that there is an interpreter for, and one at the least."""
    checked = 0
    for version, interpreter in interpreters.items():
        for wheel in folder.glob(f"*-cp{version.replace('.', '')}-*.whl"):
            check_wheel(wheel.resolve(), interpreter, scratch / version, ROOT)
            checked += 1
    if not checked:
        sys.exit(f"no wheel in {folder} for any of these interpreters")


def find_interpreters() -> dict[str, str]:
    """Find one CPython of each supported version: on PATH first, then what pyenv has installed."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found: dict[str, str] = {}
    for minor in MINORS:
        version = f"3.{minor}"
        own = [sys.executable] if sys.version_info[:2] == (3, minor) else []
        installed = sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python")))
        for candidate in (*own, shutil.which(f"python{version}"), *installed):
            if candidate and _version_of(candidate) == f"cpython {version}":
                found[version] = candidate
                break
    return found


def _version_of(interpreter: str) -> str | None:
    code = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [interpreter, "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):  # such as a pyenv shim of an inactive version
        return None
    return answer.stdout.strip()


def build_sdist(scratch: Path) -> Path:
    """Build the sdist twice; return it, in `DIST`."""
    for folder in (DIST, scratch / "sdist"):
        run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT)
    (sdist,) = DIST.glob("*.tar.gz")
    assert_same_bytes(sdist, scratch / "sdist" / sdist.name)
    return sdist


def build_wheel(sdist: Path, interpreter: str, folder: Path) -> Path:
    """Build a wheel from the sdist, in isolation, and repair it on Linux."""
    portable = ("--config-settings", "cmake.define.LAYERMERGE_PORTABLE=ON")
    run(
        *(sys.executable, "-m", "pip", "--python", interpreter, "--quiet", "wheel", "--no-deps"),
        *(portable if sys.platform == "linux" else ()),
        *("--wheel-dir", folder, sdist),
    )
    (wheel,) = folder.glob("*.whl")
    return repair(wheel, folder / "repaired") if sys.platform == "linux" else wheel


def repair(wheel: Path, folder: Path) -> Path:
    """Give a wheel the oldest manylinux tag that its symbols allow; say which and why."""
    environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    shown = run("auditwheel", "show", wheel, environment=environment)
    newest = max(
        (tuple(map(int, version)) for version in re.findall(r"GLIBC_(\d+)\.(\d+)", shown)),
        default=(0, 0),
    )
    print(f"{wheel.name}: the newest symbols it needs are of glibc {newest[0]}.{newest[1]}")
    if newest > NEWEST_GLIBC:
        sys.exit(f"that is newer than manylinux_2_28 allows:\n{shown}")
    run("auditwheel", "repair", "--wheel-dir", folder, wheel, environment=environment)
    (repaired,) = folder.glob("*.whl")
    print(f"  so it is {repaired.name}")
    return repaired


def assert_same_bytes(first: Path, second: Path) -> None:
    """Fail if two builds differ."""
    if not filecmp.cmp(first, second, shallow=False):
        kept = Path(tempfile.mkdtemp(prefix="layermerge-differing-"))
        for name, path in (("first", first), ("second", second)):
            (kept / name).mkdir()
            shutil.copy(path, kept / name)
        sys.exit(f"{first.name} is not reproducible: two builds of the same source are in {kept}")
    print(f"{first.name}: two builds are the same, byte by byte")


def check_size(wheel: Path) -> None:
    """Fail if a wheel is too large."""
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size / 1024:.0f} KiB")
    if size >= MAX_WHEEL_BYTES:
        sys.exit(f"a wheel must be smaller than {MAX_WHEEL_BYTES} bytes")


def check_wheel(wheel: Path, interpreter: str, folder: Path, source: Path) -> None:
    """Install without a compiler into an empty environment; run the source's torch-free tests."""
    check_size(wheel)
    environment = folder / "environment"
    run(interpreter, "-m", "venv", environment)
    scripts = environment / ("Scripts" if sys.platform == "win32" else "bin")
    variables = {"PATH": str(scripts)}
    for name in COMPILERS:
        assert shutil.which(name, path=variables["PATH"]) is None
    python = scripts / "python"
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install")
    run(*pip, "--no-deps", wheel, environment=variables)
    run(*pip, "--only-binary=:all:", *TEST_REQUIREMENTS, environment=variables)
    assert_fails(python, "-c", "import torch", environment=variables)
    tests = folder / "elsewhere"
    shutil.copytree(source / "tests", tests / "tests")
    shutil.copy(source / "pyproject.toml", tests)
    where = run(
        *(python, "-c", "from layermerge import _core as c; print(c.vector_instructions(), c)"),
        environment=variables,
        folder=tests,
    )
    print(f"  the core runs on {where.split()[0]}")
    assert str(environment) in where, f"not the installed wheel: {where}"
    reference = "tests/data/reference/resnet34.s1"
    run(
        *(scripts / "layermerge", "solve", "--budget-ms", "300"),
        *("--latency", f"{reference}.time.csv", "--importance", f"{reference}.importance.csv"),
        environment=variables,
        folder=tests,
    )
    summary = run(
        *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *(f"tests/{name}" for name in TESTS_WITHOUT_TORCH),
        environment=variables,
        folder=tests,
    )
    print(f"  without torch and compiler: {summary.strip().splitlines()[-1]}")


def run(
    *command: str | Path, environment: dict[str, str] | None = None, folder: Path | None = None
) -> str:
    """Run a command; return what it prints, or end with it if the command fails."""
    done = _completed(command, environment, folder)
    if done.returncode:
        print(done.stdout)
        sys.exit(f"failed with status {done.returncode}: {' '.join(map(str, command))}")
    return done.stdout


def assert_fails(*command: str | Path, environment: dict[str, str]) -> None:
    """Fail if a command does not."""
    if not _completed(command, environment, None).returncode:
        sys.exit(f"should have failed: {' '.join(map(str, command))}")


def _completed(
    command: Sequence[str | Path], environment: dict[str, str] | None, folder: Path | None
) -> subprocess.CompletedProcess[str]:
    variables = {
        "SOURCE_DATE_EPOCH": _source_date_epoch(),
        **os.environ,
        **(environment or {}),
    }
    variables.pop("PYTHONPATH", None)
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@cache
def _source_date_epoch() -> str:
    """Return the time of the last commit; outside a repository, that of the earliest zip file."""
    found = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "315532800"


if __name__ == "__main__":
    sys.exit(main())
