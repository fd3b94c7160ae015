from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name):
    """Run an example; return what its main function returns."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main()


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
