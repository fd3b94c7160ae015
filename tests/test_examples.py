from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments):
    """Run an example; return what its main function returns."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module.main(*arguments)


@pytest.mark.parametrize(("name", "least"), [("segmentation", 0.6), ("diffusion", -0.5)])
def test_the_example_makes_its_network_faster_and_keeps_its_score(name, least, capsys):
    result = run(name).result
    assert result.compressed.layers < result.base.layers
    assert result.speedup > 1.1
    assert result.base.score > least
    assert result.compressed.score > result.base.score - 0.1 * abs(result.base.score)
    printed = capsys.readouterr().out
    assert f"{result.speedup:.2f} times as fast" in printed
    assert "entries evaluated" in printed or "proven" in printed


@pytest.mark.slow
def test_a_ddpm_is_trained_compressed_and_sampled(tmp_path, capsys):
    pytest.importorskip("diffusers")
    base, compressed = run("ddpm", [str(tmp_path), "--fast", "--speedups", "1.1", "50"])
    assert "50 times: left out. no plan meets the budget" in capsys.readouterr().out
    assert (base["network"], base["speedup"]) == ("base", 1)
    assert compressed["speedup"] >= 1.1
    assert compressed["convolutions"] < base["convolutions"]
    assert 0 < compressed["loss"] < 2
    assert compressed["distance"] >= 0
    page = (tmp_path / "1.1 times.html").read_text(encoding="utf-8")
    assert 'alt="Real digits, then samples of each network"' in page
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3
