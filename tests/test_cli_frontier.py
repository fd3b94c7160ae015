from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from layermerge.cli import main

REFERENCE = Path(__file__).parent / "data" / "reference"
TABLES = (
    f"--latency={REFERENCE / 'resnet34.s1.time.csv'}",
    f"--importance={REFERENCE / 'resnet34.s1.importance.csv'}",
)


def found(capsys, *options):
    assert main(["frontier", *TABLES, *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_point_is_what_a_solve_with_its_budget_finds(capsys):
    points = found(capsys)["points"]
    assert len(points) > 50
    for point in points[::20]:
        budget = f"--budget-ms={point['latency_ms']:.6f}"
        assert main(["solve", *TABLES, budget, "--json"]) == 0
        solution = json.loads(capsys.readouterr().out)
        assert solution["latency_ms"] == point["latency_ms"]
        assert solution["value"] == pytest.approx(point["value"], rel=1e-12)


def test_an_approximation_says_its_error(capsys):
    everything, some = found(capsys), found(capsys, "--epsilon", "0.5")
    assert everything["error"] == 0
    assert 0 < some["error"] <= 0.5
    assert len(some["points"]) < len(everything["points"])
    assert len(found(capsys, "--max-points", "7")["points"]) <= 7


def test_the_table_shows_the_ends(capsys):
    ends = [found(capsys)["points"][k]["latency_ms"] for k in (0, -1)]
    assert main(["frontier", *TABLES]) == 0
    output = capsys.readouterr().out
    assert all(f"{end:.6f}" in output for end in ends)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_an_image_is_drawn(capsys, tmp_path, ending):
    pytest.importorskip("matplotlib")
    found(capsys, f"--plot={tmp_path / 'out'}.{ending}")
    assert (tmp_path / f"out.{ending}").stat().st_size > 1000


def test_a_page_is_drawn(capsys, tmp_path):
    pytest.importorskip("plotly")
    assert main(["frontier", *TABLES, f"--plot={tmp_path / 'told.html'}"]) == 0
    assert f"Drawn to {tmp_path / 'told.html'}" in capsys.readouterr().out
    found(capsys, f"--plot={tmp_path / 'out.html'}")
    assert "latency budget" in (tmp_path / "out.html").read_text()


@pytest.mark.parametrize(("ending", "package"), [("png", "matplotlib"), ("html", "plotly")])
def test_a_missing_package_is_named(capsys, tmp_path, monkeypatch, ending, package):
    for name in (package, "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["frontier", *TABLES, f"--plot={tmp_path / 'out'}.{ending}"]) == 1
    error = capsys.readouterr().err
    assert f"{package} is not installed" in error
    assert "pip install 'layermerge[report]'" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot=out.jpeg2000"], "a name that ends in one of .png, .svg, .pdf, .html"),
        (
            ["--memory-limit=1kB"],
            "needs more than the memory limit of 0.001 MB for labels: raise --memory-limit, or "
            "give --epsilon > 0 or --max-points",
        ),
        (["--plot=/nonesuch/out.svg"], "cannot write /nonesuch/out.svg: its folder does not exist"),
    ],
)
def test_bad_options_exit_with_2(capsys, options, message):
    assert main(["frontier", *TABLES, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--epsilon=-1", "'-1' is not a number of at least 0"),
        ("--max-points=1", "'1' is not a whole number of 2 or more"),
    ],
)
def test_bad_usage_exits_with_2(capsys, option, message):
    with pytest.raises(SystemExit) as caught:
        main(["frontier", *TABLES, option])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
