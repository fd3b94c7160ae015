"""The plot of score against latency: base, compressed, and the budget between them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from layermerge.report.comparison import headline
from layermerge.report.formats import format_latency, format_score, is_fraction
from layermerge.report.markup import Markup, element, join, typeset
from layermerge.results import Figures, Result

WIDTH, HEIGHT = 400, 330
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 30, 52
LEAST_ACCURACY_RANGE = 0.02  # on either side of the mean, so that noise does not look like a cliff


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to coordinates."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, number: int = 5) -> list[float]:
        """Round values inside, about `number` of them.

        Examples
        --------
        >>> Axis(0, 4.2, 0, 100).ticks()
        [0.0, 1.0, 2.0, 3.0, 4.0]
        """
        rough = (self.high - self.low) / number
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [float(f"{place * step:.9g}") for place in range(first, last + 1)]


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
    return Axis(middle - half, middle + half, HEIGHT - BOTTOM, TOP)


def _latency_ticks(across: Axis) -> Iterator[Markup]:
    floor = HEIGHT - BOTTOM
    for value in across.ticks():
        x = across(value)
        yield _line(x, TOP, x, floor, "grid")
        yield _text(x, floor + 18, f"{value:g}", text_anchor="middle")
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield _text(middle, HEIGHT - 8, "measured latency, ms", text_anchor="middle")


def _score_ticks(up: Axis, result: Result) -> Iterator[Markup]:
    factor, unit = (100, " %") if _is_percent(result) else (1, "")
    for value in up.ticks():
        if not unit or 0 <= value <= 1:
            yield _line(LEFT, up(value), WIDTH - RIGHT, up(value), "grid")
            label = f"{float(f'{factor * value:.6g}'):g}{unit}"
            yield _text(LEFT - 8, up(value) + 4, typeset(label), text_anchor="end")
    yield _text(4, 14, result.score_name)


def _budget(result: Result, across: Axis) -> Markup:
    x = across(result.budget_ns / 1e6)
    is_left = x < WIDTH / 2
    return join(
        _line(x, TOP, x, HEIGHT - BOTTOM, "budget"),
        _text(
            x + (6 if is_left else -6),
            TOP + 12,
            f"budget {format_latency(result.budget_ns)}",
            text_anchor="start" if is_left else "end",
            class_="budget-label",
        ),
    )


def _points(result: Result, across: Axis, up: Axis) -> Iterator[Markup]:
    base_is_higher = result.base.score >= result.compressed.score
    for name, figures, is_higher in (
        ("base", result.base, base_is_higher),
        ("compressed", result.compressed, not base_is_higher),
    ):
        percent = _is_percent(result)
        label = f"{name}: {typeset(format_score(figures.score, percent=percent))}"
        yield _point(label, name, figures, is_higher, across, up)


def _point(
    label: str, name: str, figures: Figures, is_higher: bool, across: Axis, up: Axis
) -> Markup:
    latency_ms = figures.latency_ns / 1e6
    x, y = across(latency_ms), up(figures.score)
    reach = across(latency_ms * (1 + figures.latency_spread)) - x
    return element(
        "g",
        element("title", f"{label}, {format_latency(figures.latency_ns)}"),
        _line(x - reach, y, x + reach, y, "whisker"),
        _line(x - reach, y - 8, x - reach, y + 8, "whisker"),
        _line(x + reach, y - 8, x + reach, y + 8, "whisker"),
        element("circle", cx=x, cy=y, r=4),
        _text(
            min(max(x, LEFT + 70), WIDTH - RIGHT - 70),
            y + (-14 if is_higher else 24),
            label,
            text_anchor="middle",
            class_="point-label",
        ),
        class_=f"point {name}",
    )


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _text(x: float, y: float, content: str, **attributes: object) -> Markup:
    return element("text", content, x=x, y=y, **attributes)


def _is_percent(result: Result) -> bool:
    return is_fraction(result.score_name, result.base.score, result.compressed.score)
