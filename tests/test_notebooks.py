"""Notebooks run from top to bottom, and are kept without outputs.

They are run here as plain Python, which needs no Jupyter; `make docs` runs them in its kernel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
END = "import sys; print('torch loaded' if 'torch' in sys.modules else 'no torch loaded')"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path, kind):
    document = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in document["cells"] if cell["cell_type"] == kind]


def test_there_is_one_for_the_solver_and_one_for_a_network():
    assert [path.stem for path in NOTEBOOKS] == ["compress", "solver"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


def run(path, folder):
    """Run the code of a notebook in a fresh interpreter; return what it prints."""
    script = folder / f"{path.stem}.py"
    code = ["".join(cell["source"]) for cell in cells(path, "code")]
    script.write_text("\n\n".join([*code, END]), encoding="utf-8")
    environment = {**os.environ, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_notebook_on_the_solver_runs_without_torch(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    printed = run(FOLDER / "solver.ipynb", tmp_path)
    assert "floor: value" in printed
    assert "st,end,ker" in printed
    assert "no torch loaded" in printed


def test_the_notebook_on_a_network_makes_it_shallower(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    printed = run(FOLDER / "compress.ipynb", tmp_path)
    line = next(line for line in printed.splitlines() if "times as fast" in line)
    before, after = (int(word) for word in line.split()[:3] if word.isdigit())
    assert after < before
