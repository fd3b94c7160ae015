"""A result as one self-contained HTML page: no scripts, no fonts, nothing from the network."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from layermerge.arguments import as_path
from layermerge.errors import InputError
from layermerge.report.breakdown import latency_bars
from layermerge.report.comparison import (
    budget_verdict,
    compare,
    headline,
    notes,
    speed_verdict,
    speedup_spread,
)
from layermerge.report.diagram import network_diagram
from layermerge.report.formats import count, format_latency, format_seconds
from layermerge.report.frontier import frontier_plot
from layermerge.report.heat_map import describe_segments, heat_map, heat_map_legend
from layermerge.report.layer_table import layer_table
from layermerge.report.markup import Markup, element, join, typeset
from layermerge.report.parts import Role, step_role
from layermerge.report.scatter import score_plot
from layermerge.results import Result
from layermerge.whole_files import write_whole

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
PNG = b"\x89PNG\r\n\x1a\n"
NO_PICTURES: Mapping[str, bytes] = {}


def render_html(result: Result, pictures: Mapping[str, bytes] = NO_PICTURES) -> str:
    """Render a result as a page that needs nothing but itself.

    Parameters
    ----------
    result : Result
    pictures : mapping of str to bytes
        PNG files to show, such as samples of a generator, by their captions.

    Returns
    -------
    str
        HTML 5, to be written as UTF-8.

    Raises
    ------
    InputError
        If a picture is no PNG file.
    """
    for caption, content in pictures.items():
        if not content.startswith(PNG):
            raise InputError(f"picture {caption!r} is not a PNG file: convert it to one")
    page = element("html", _head(result), element("body", _main(result, pictures)), lang="en")
    return f"<!doctype html>\n{page}\n"


def write_html(
    result: Result, path: str | Path, pictures: Mapping[str, bytes] = NO_PICTURES
) -> None:
    """Write the page of a result to a file; see `render_html`."""
    write_whole(as_path("path", path), render_html(result, pictures).encode())


def _head(result: Result) -> Markup:
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    return element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        element("title", f"LayerMerge: {result.name}, {result.speedup:.2f}x as fast"),
        element("style", Markup(style)),
    )


def _main(result: Result, pictures: Mapping[str, bytes]) -> Markup:
    return element(
        "main",
        element("h1", typeset(headline(result))),
        _tiles(result),
        element("div", _comparison(result), _plot(result), class_="columns first-wider"),
        *_pictures(pictures),
        *_frontier(result),
        _bars(result),
        _diagram(result),
        *_heat_map(result),
        _layers(result),
        element("div", _search(result), _stages(result), class_="columns"),
        _provenance(result),
    )


def _tiles(result: Result) -> Markup:
    score = next(iter(compare(result)))
    verdict = "good" if result.is_within_budget else "bad"
    return element(
        "dl",
        _tile(
            "speed-up",
            f"{result.speedup:.2f}x",
            f"±{speedup_spread(result):.2f}, {speed_verdict(result)}",
        ),
        _tile(result.score_name, score.change, f"{score.base} -> {score.compressed}"),
        _tile(
            "latency",
            format_latency(result.compressed.latency_ns),
            f"from {format_latency(result.base.latency_ns)}",
        ),
        _tile("budget", format_latency(result.budget_ns), budget_verdict(result), class_=verdict),
        class_="tiles",
    )


def _tile(name: str, value: str, remark: str, **attributes: object) -> Markup:
    return element(
        "div",
        element("dt", name),
        element("dd", typeset(value), class_="value"),
        element("dd", typeset(remark), class_="remark"),
        **attributes,
    )


def _comparison(result: Result) -> Markup:
    headings = ("", "base", "compressed", "change")
    head = element("tr", *(element("th", heading, scope="col") for heading in headings))
    rows = (
        element(
            "tr",
            element("th", row.quantity, scope="row"),
            *(element("td", typeset(cell)) for cell in (row.base, row.compressed, row.change)),
        )
        for row in compare(result)
    )
    return _section(
        "Base and compressed",
        _scrolling(
            element("table", element("thead", head), element("tbody", *rows), class_="numbers"),
            "Base and compressed",
        ),
        *(element("p", note, class_="note") for note in notes(result)),
    )


def _plot(result: Result) -> Markup:
    return _section(
        f"{result.score_name} and latency",
        element("figure", score_plot(result)),
        element(
            "p",
            "Bars are 95 % confidence intervals of the latency; the uncertainty of the score is "
            "not shown. The score axis does not start at zero.",
            class_="note",
        ),
    )


def _pictures(pictures: Mapping[str, bytes]) -> Iterator[Markup]:
    if pictures:
        figures = (
            element(
                "figure",
                element(
                    "img",
                    src=f"data:image/png;base64,{base64.b64encode(content).decode()}",
                    alt=caption,
                ),
                element("figcaption", caption),
            )
            for caption, content in pictures.items()
        )
        yield _section("Pictures", element("div", *figures, class_="columns"))


def _frontier(result: Result) -> Iterator[Markup]:
    if result.search is not None:
        yield _section(
            "The frontier",
            element("figure", frontier_plot(result, result.search)),
            element(
                "p",
                "Plans that no other beats in predicted latency and importance, of the entries "
                "that were evaluated; the larger dot is the plan that was chosen. Point at it, tap "
                "it, or use the arrow keys to see what a plan does.",
                class_="note",
            ),
        )


def _heat_map(result: Result) -> Iterator[Markup]:
    if result.search is not None and result.search.segments:
        yield _section(
            "What each segment is worth",
            element("p", typeset(describe_segments(result, result.search)), class_="note"),
            heat_map_legend(result, result.search),
            heat_map(result, result.search),
            element(
                "p",
                "A column is the position i at which a segment starts, a row the number of layers "
                f"in it. Colours: change of {result.score_name} after a short fine-tune with only "
                "that segment replaced, by the best of its ways.",
                class_="note",
            ),
        )


def _bars(result: Result) -> Markup:
    return _section(
        "Where the time goes",
        element("figure", latency_bars(result)),
        element(
            "p",
            "Each part was measured alone and is drawn times the calibration of "
            f"{result.calibration:.3f}. Numbers are those of the table of the layers.",
            class_="note",
        ),
        _legend(*(role for role in Role if role in set(map(step_role, result.steps)))),
    )


def _diagram(result: Result) -> Markup:
    before, after = count(result.base.layers, "convolution"), str(result.compressed.layers)
    caption = (
        "Left the base, right what it became. The filled width of a box is its latency, in one "
        "scale; numbers are milliseconds, measured alone."
    )
    if any(len(step.names) > 1 and not step.name_ns for step in result.steps):
        caption += " The layers of a step share its latency equally: their own were not recorded."
    return _section(
        typeset(f"The network: {before} -> {after}"),
        element("p", caption, class_="note"),
        _legend(*Role),
        _scrolling(element("figure", network_diagram(result)), "Diagram of the network"),
    )


def _layers(result: Result) -> Markup:
    return _section("Layer by layer", _scrolling(layer_table(result), "Table of the layers"))


def _search(result: Result) -> Markup:
    figures = (
        ("entries in the search space", result.num_candidates),
        ("distinct convolutions measured", result.num_signatures),
        ("entries scored by a short fine-tune", result.num_scored),
        ("left out: no faster than what they replace", result.num_unprofitable),
        ("short fine-tunes that failed", result.num_failed),
    )
    return _section("The search", _pairs((name, f"{number:,}") for name, number in figures))


def _stages(result: Result) -> Markup:
    total = sum(result.seconds.values())
    stages = [*result.seconds.items(), ("all stages", total)]
    return _section("Time", _pairs((name, format_seconds(seconds)) for name, seconds in stages))


def _provenance(result: Result) -> Markup:
    entries = {"environment": result.environment, **result.provenance}
    pairs = ((name, _plain(value)) for name, value in entries.items())
    return _section("Provenance", _pairs(pairs, class_="pairs provenance"))


def _plain(value: Any) -> str:
    """A value as text: settings as ``name = value``, those that are kept as JSON too."""
    if isinstance(value, str) and value.startswith("{"):
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} = {_nested(each)}" for name, each in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _nested(value: Any) -> str:
    text = _plain(value)
    return f"({text})" if " = " in text else text


def _pairs(pairs: Iterable[tuple[str, str]], class_: str = "pairs") -> Markup:
    rows = (
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in pairs
    )
    return element("table", element("tbody", *rows), class_=class_)


def _scrolling(content: Markup, label: str) -> Markup:
    """What may be wider than a phone; it can be focused, so that a keyboard can scroll it."""
    return element("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)


def _section(heading: str, *content: Markup) -> Markup:
    return element("section", element("h2", heading), join(*content))


def _legend(*roles: Role) -> Markup:
    swatch = "0 0 14 14"
    entries = (
        element(
            "li",
            element(
                "svg",
                element("rect", x=1, y=1, width=12, height=12, class_="time"),
                viewBox=swatch,
                width=14,
                height=14,
                aria_hidden="true",
                class_=f"layer {role.value}",
            ),
            f" {role.value}",
        )
        for role in roles
    )
    return element("ul", *entries, class_="legend")
