"""`layermerge report` and `layermerge plot`: from the result of a run to its page and its plots."""

from __future__ import annotations

import functools
import json
import math
import operator
import random
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from layermerge.cli import main
from layermerge.errors import InputError
from layermerge.report import render_html
from layermerge.report.images import write_image
from layermerge.results import load_result
from sample_results import SAMPLES

RESULT = SAMPLES["searched"]()
SIGNATURES = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    RESULT.save(folder / "result.json")
    return folder


def test_the_page_is_written_beside_the_result(capsys, run):
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_text(encoding="utf-8") == render_html(RESULT)
    assert str(run / "report.html") in capsys.readouterr().out


def test_the_page_is_written_where_it_is_asked_for(capsys, run, tmp_path):
    out = tmp_path / "page.html"
    assert main(["report", str(run / "result.json"), f"--out={out}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(out)
    assert out.read_text(encoding="utf-8") == render_html(RESULT)
    assert not (run / "report.html").exists()


def test_pictures_are_shown_under_their_names(capsys, run, tmp_path):
    picture = tmp_path / "samples of both.png"
    picture.write_bytes(SIGNATURES[".png"] + b"content")
    assert main(["report", str(run), f"--picture={picture}"]) == 0
    assert "samples of both" in (run / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["report", str(run), f"--picture={tmp_path / 'none.png'}"]) == 2
    assert "cannot read the picture" in capsys.readouterr().err


def test_the_page_of_a_result_without_a_search_says_what_it_lacks(capsys, run):
    replace(RESULT, search=None).save(run / "result.json")
    assert main(["report", str(run)]) == 0
    assert "The result does not hold the frontier" in capsys.readouterr().out
    assert "The frontier" not in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [["report"], ["plot", "--out=x.png"]])
def test_what_is_no_run_is_one_message(capsys, command, tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        assert main([*command, str(place)]) == 2
        message = capsys.readouterr().err
        assert str(place) in message
        assert "does not exist: name a folder that" in message
    (tmp_path / "result.json").write_text("{}")
    assert main([*command, str(tmp_path)]) == 2
    assert "is not a LayerMerge result" in capsys.readouterr().err


WRONG = (None, True, -1, 0, 2.5, 1e308, math.nan, 10**400, "x", "", [], {}, [1], ["a"], {"a": 1})


def places(value, path=()):
    """The paths of all that is in a JSON document."""
    children = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in children:
        yield (*path, key)
        if isinstance(child, (dict, list)):
            yield from places(child, (*path, key))


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_result_is_refused_or_has_a_page(tmp_path, seed):
    path = tmp_path / "result.json"
    SAMPLES["dropped and gated"]().save(path)
    document = path.read_text()
    draw = random.Random(seed)
    refused = 0
    for _ in range(150):
        damaged = json.loads(document)
        *parents, last = draw.choice(list(places(damaged)))
        owner = functools.reduce(operator.getitem, parents, damaged)
        owner[last] = draw.choice(WRONG)
        path.write_text(json.dumps(damaged))
        try:
            result = load_result(path)
        except InputError:
            refused += 1
        else:
            assert render_html(result).startswith("<!doctype html>")
    assert refused > 75


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("base",), None, "base must be an object, got None"),
        (("steps",), {}, "steps must be a list of objects, got {}"),
        (("steps", 0), None, r"steps\[0\] must be an object, got None"),
        (("search",), 1, "search must be an object, got 1"),
        (("search", "frontier"), None, "frontier must be a list of objects, got None"),
        (("search", "segments", 1), [], r"segments\[1\] must be an object, got \[\]"),
        (("seconds",), None, "seconds must be an object, got None"),
    ],
)
def test_what_is_no_object_is_named(tmp_path, place, value, message):
    path = tmp_path / "result.json"
    RESULT.save(path)
    document = json.loads(path.read_text())
    *parents, last = place
    functools.reduce(operator.getitem, parents, document)[last] = value
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message):
        load_result(path)


def test_a_page_is_html(capsys, run):
    assert main(["report", str(run), "--out=page.pdf"]) == 2
    assert "--out page.pdf must end in .html" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_one_message(capsys, run, tmp_path):
    assert main(["report", str(run), f"--out={tmp_path / 'none' / 'page.html'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("ending", SIGNATURES)
def test_plots_are_drawn_to_each_kind_of_file(capsys, run, tmp_path, ending):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    out = tmp_path / f"plots{ending}"
    assert main(["plot", str(run), f"--out={out}", "--json"]) == 0
    assert out.read_bytes().startswith(SIGNATURES[ending])
    plots = ["score", "frontier", "latency", "importance"]
    assert json.loads(capsys.readouterr().out) == {"file": str(out), "plots": plots}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_result_can_be_drawn(name, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    result = SAMPLES[name]()
    drawn = write_image(result, tmp_path / "plots.svg")
    assert ("frontier" in drawn) == ("importance" in drawn) == (result.search is not None)
    groups = ElementTree.parse(tmp_path / "plots.svg").iter(f"{SVG}g")
    axes = [group for group in groups if group.get("id", "").startswith("axes_")]
    assert len(axes) == len(drawn) + ("importance" in drawn), "the map has a scale of its own"


def test_the_same_result_gives_the_same_file(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    for name in ("first.svg", "second.svg"):
        assert write_image(RESULT, tmp_path / name, only="frontier") == ("frontier",)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


def test_a_plot_without_data_is_refused(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    with pytest.raises(InputError, match="holds no data for the plot 'frontier'"):
        write_image(SAMPLES["sample"](), tmp_path / "x.png", only="frontier")
    with pytest.raises(InputError, match="there is no plot 'sound': choose one of score"):
        write_image(RESULT, tmp_path / "x.png", only="sound")


def test_another_ending_is_refused_before_the_run_is_read(capsys, tmp_path):
    assert main(["plot", str(tmp_path), f"--out={tmp_path / 'x.gif'}"]) == 2
    assert ".png, .svg, .pdf" in capsys.readouterr().err


def test_without_matplotlib_the_error_names_what_to_install(capsys, run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["plot", str(run), f"--out={tmp_path / 'x.png'}"]) == 1
    assert "pip install 'layermerge[report]'" in capsys.readouterr().err
    assert main(["report", str(run)]) == 0
