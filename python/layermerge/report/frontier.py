"""The frontier: importance against predicted latency; one can go through its plans, no script."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from layermerge.report.axis import Axis, line, spanning, text
from layermerge.report.formats import count, format_latency, format_score_change, is_fraction
from layermerge.report.labels import text_box
from layermerge.report.markup import Markup, element, join, typeset
from layermerge.results import Result
from layermerge.search_results import FrontierPoint, SearchResult

WIDTH, HEIGHT = 640, 390
LEFT, RIGHT, TOP, BOTTOM = 76, 16, 56, 60
FLOOR = HEIGHT - BOTTOM
MOST_SEGMENTS = 16
KEY = re.compile(r"(\d+)-(\d+):(\d+x\d+):([\d,]*)(\+.*)?")


def frontier_plot(result: Result, search: SearchResult) -> Markup:
    """A step curve with the budget; below it what the plan of a point is.

    A point is chosen by pointing at it, or by the arrow keys: the points are radio buttons, each as
    wide as half the way to its neighbours, and the one in use has its text shown.
    """
    points = search.frontier
    across = spanning(
        [*(point.latency_ns / 1e6 for point in points), result.budget_ns / 1e6],
        LEFT,
        WIDTH - RIGHT,
    )
    up = spanning([point.importance for point in points], FLOOR, TOP, margin=0.08)
    picture = element(
        "svg",
        *_ticks(across, up, search),
        element("path", d=_steps(points, across, up), class_="curve"),
        *(_dot(point, across, up) for point in points),
        _budget(result, across),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=describe_frontier(result, search),
        class_="plot wide",
    )
    return element(
        "div",
        picture,
        *_picks(result, search, across, up),
        role="radiogroup",
        aria_label="Plans of the frontier, by rising latency",
        class_="frontier",
    )


def describe_frontier(result: Result, search: SearchResult) -> str:
    """The frontier in a sentence."""
    first, last, chosen = search.frontier[0], search.frontier[-1], search.chosen
    return (
        f"Frontier of {count(len(search.frontier), 'plan')}: from "
        f"{format_latency(first.latency_ns)} with importance {first.importance:.4g} to "
        f"{format_latency(last.latency_ns)} with {last.importance:.4g}. "
        f"The plan: {format_latency(chosen.latency_ns)}, {chosen.importance:.4g}. "
        f"Budget: {format_latency(result.budget_ns)}."
    )


def describe_key(key: str) -> str:
    """What a candidate is, from its key.

    Examples
    --------
    >>> describe_key("2-5:3x3:4,5"), describe_key("5-7:0x0:")
    ('2..5 -> 3x3', '5..7 removed')
    """
    match = KEY.fullmatch(key)
    if match is None:
        return key
    start, end, size, kept, _ = match.groups()
    return f"{start}..{end} -> {size}" if kept else f"{start}..{end} removed"


def _ticks(across: Axis, up: Axis, search: SearchResult) -> Iterator[Markup]:
    for value in across.ticks():
        yield line(across(value), TOP, across(value), FLOOR, "grid")
        yield text(across(value), FLOOR + 22, f"{value:g}", text_anchor="middle")
    for value in up.ticks():
        yield line(LEFT, up(value), WIDTH - RIGHT, up(value), "grid")
        yield text(LEFT - 8, up(value) + 5, typeset(f"{value:g}"), text_anchor="end")
    yield text(
        (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "predicted latency, ms", text_anchor="middle"
    )
    yield text(4, 20, f"importance ({search.objective})")


def _steps(points: Sequence[FrontierPoint], across: Axis, up: Axis) -> str:
    """Up to the latency of a point, a budget buys the point before."""
    first, *rest = points
    start = f"M{across(first.latency_ns / 1e6):.2f} {up(first.importance):.2f}"
    steps = (f"H{across(p.latency_ns / 1e6):.2f}V{up(p.importance):.2f}" for p in rest)
    return start + "".join(steps) + f"H{WIDTH - RIGHT}"


def _dot(point: FrontierPoint, across: Axis, up: Axis) -> Markup:
    return element(
        "circle",
        cx=across(point.latency_ns / 1e6),
        cy=up(point.importance),
        r=6 if point.is_chosen else 3,
        class_="dot chosen" if point.is_chosen else "dot",
    )


def _budget(result: Result, across: Axis) -> Markup:
    x = across(result.budget_ns / 1e6)
    label = f"budget {format_latency(result.budget_ns)}"
    half = text_box(0, 0, label).right + 2
    place = min(max(x, half), WIDTH - half)
    return join(
        line(x, TOP, x, FLOOR, "budget"),
        text(place, TOP - 8, label, text_anchor="middle", class_="budget-label"),
    )


def _picks(result: Result, search: SearchResult, across: Axis, up: Axis) -> Iterator[Markup]:
    places = [across(point.latency_ns / 1e6) for point in search.frontier]
    middles = [(left + right) / 2 for left, right in pairwise(places)]
    edges = [float(LEFT), *middles, float(WIDTH - RIGHT)]
    for point, x, (left, right) in zip(search.frontier, places, pairwise(edges), strict=True):
        yield element(
            "label",
            element(
                "input",
                type="radio",
                name="frontier",
                **({"checked": "checked"} if point.is_chosen else {}),
                style=f"margin-left:{_share(left)};width:{_share(right - left)}",
            ),
            # Margins in percent are of the width, the upper one too.
            element(
                "i", class_="ring", style=f"margin:{_share(up(point.importance))} 0 0 {_share(x)}"
            ),
            element("span", typeset(_detail(result, point)), class_="detail"),
            class_="pick",
        )


def _share(length: float) -> str:
    return f"{100 * length / WIDTH:.3f}%"


def _detail(result: Result, point: FrontierPoint) -> str:
    percent = is_fraction(result.score_name, result.base.score, result.compressed.score)
    change = format_score_change(_base_score(result), point.score, percent=percent)
    name = "The plan: " if point.is_chosen else ""
    return (
        f"{name}{format_latency(point.latency_ns)} predicted, importance {point.importance:.5g}, "
        f"changes of {result.score_name} sum to {change}; {count(point.layers, 'convolution')}. "
        f"{_replacements(point.segments)}"
    )


def _base_score(result: Result) -> float:
    assert result.search is not None
    return result.search.base_score


def _replacements(keys: Iterable[str]) -> str:
    described = [describe_key(key) for key in keys]
    if not described:
        return "The network as it is."
    rest = len(described) - MOST_SEGMENTS
    more = [f"and {rest} more"] if rest > 0 else []
    return f"Positions {', '.join([*described[:MOST_SEGMENTS], *more])}."
