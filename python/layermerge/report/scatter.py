"""The plot of score against latency: base, compressed, and the budget between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from layermerge.report.axis import Axis, line, text
from layermerge.report.comparison import headline
from layermerge.report.formats import format_latency, format_score, is_fraction
from layermerge.report.labels import Box, place_label, text_box
from layermerge.report.markup import Markup, element, join, typeset
from layermerge.results import Figures, Result

WIDTH, HEIGHT = 400, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 44, 52
FLOOR = HEIGHT - BOTTOM
LEAST_ACCURACY_RANGE = 0.02  # on either side of the mean, so that noise does not look like a cliff


@dataclass(frozen=True)
class Point:
    """A network in the plot."""

    name: str
    figures: Figures
    label: str
    x: float
    y: float
    reach: float

    @property
    def extent(self) -> Box:
        """The room of the point and its confidence interval."""
        return Box(self.x - self.reach - 2, self.y - 9, self.x + self.reach + 2, self.y + 9)


def score_plot(result: Result) -> Markup:
    """Score over measured latency, with confidence intervals; the latency axis starts at zero."""
    across, up = _latency_axis(result), _score_axis(result)
    return element(
        "svg",
        *_latency_ticks(across),
        *_score_ticks(up, result),
        _budget(result, across),
        *_points(result, across, up),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"Plot of {result.score_name} over latency. {headline(result)}",
        class_="plot",
    )


def _latency_axis(result: Result) -> Axis:
    ends = [
        figures.latency_ns * (1 + figures.latency_spread)
        for figures in (result.base, result.compressed)
    ]
    return Axis(0, 1.12 * max(*ends, result.budget_ns) / 1e6, LEFT, WIDTH - RIGHT)


def _score_axis(result: Result) -> Axis:
    scores = result.base.score, result.compressed.score
    middle, distance = sum(scores) / 2, abs(scores[0] - scores[1])
    least = LEAST_ACCURACY_RANGE if _is_percent(result) else 0.05 * abs(middle) or 1.0
    half = max(0.9 * distance, least)
    return Axis(middle - half, middle + half, FLOOR, TOP)


def _latency_ticks(across: Axis) -> Iterator[Markup]:
    for value in across.ticks():
        x = across(value)
        yield line(x, TOP, x, FLOOR, "grid")
        yield text(x, FLOOR + 18, f"{value:g}", text_anchor="middle")
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield text(middle, HEIGHT - 8, "measured latency, ms", text_anchor="middle")


def _score_ticks(up: Axis, result: Result) -> Iterator[Markup]:
    factor, unit = (100, " %") if _is_percent(result) else (1, "")
    for value in up.ticks():
        if not unit or 0 <= value <= 1:
            yield line(LEFT, up(value), WIDTH - RIGHT, up(value), "grid")
            label = f"{float(f'{factor * value:.6g}'):g}{unit}"
            yield text(LEFT - 8, up(value) + 4, typeset(label), text_anchor="end")
    yield text(4, 14, result.score_name)


def _budget(result: Result, across: Axis) -> Markup:
    """The line of the budget, and its label above the plot, where no point is."""
    x = across(result.budget_ns / 1e6)
    label = f"budget {format_latency(result.budget_ns)}"
    half = (text_box(0, 0, label).right) + 2
    return join(
        line(x, TOP, x, FLOOR, "budget"),
        text(
            min(max(x, half), WIDTH - half),
            TOP - 8,
            label,
            text_anchor="middle",
            class_="budget-label",
        ),
    )


def _points(result: Result, across: Axis, up: Axis) -> Iterator[Markup]:
    percent = _is_percent(result)
    points = []
    for name, figures in (("base", result.base), ("compressed", result.compressed)):
        label = f"{name}: {typeset(format_score(figures.score, percent=percent))}"
        x = across(figures.latency_ns / 1e6)
        reach = across(figures.latency_ns * (1 + figures.latency_spread) / 1e6) - x
        points.append(Point(name, figures, label, x, up(figures.score), reach))
    budget = across(result.budget_ns / 1e6)
    obstacles = [Box(budget - 3, TOP, budget + 3, FLOOR), *(point.extent for point in points)]
    frame = Box(LEFT, TOP, WIDTH - 2, FLOOR)
    base_is_higher = result.base.score >= result.compressed.score
    for point in points:
        above = base_is_higher == (point.name == "base")
        place = place_label(point.label, point.x, point.y, obstacles, frame, above=above)
        obstacles.append(text_box(*place, point.label))
        yield _point(point, place)


def _point(point: Point, label_place: tuple[float, float]) -> Markup:
    x, y, reach = point.x, point.y, point.reach
    return element(
        "g",
        element("title", f"{point.label}, {format_latency(point.figures.latency_ns)}"),
        line(x - reach, y, x + reach, y, "whisker"),
        line(x - reach, y - 8, x - reach, y + 8, "whisker"),
        line(x + reach, y - 8, x + reach, y + 8, "whisker"),
        element("circle", cx=x, cy=y, r=4),
        text(*label_place, point.label, text_anchor="middle", class_="point-label"),
        class_=f"point {point.name}",
    )


def _is_percent(result: Result) -> bool:
    return is_fraction(result.score_name, result.base.score, result.compressed.score)
