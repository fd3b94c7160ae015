"""Where the time goes: predicted parts of both networks as stacked bars, measured totals beside."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise

from layermerge.report.formats import bare_ms, format_latency, format_measured
from layermerge.report.markup import Markup, element, join, typeset
from layermerge.report.parts import outcome, positions, step_role
from layermerge.results import Figures, Result, Step

MEASURED, STACK = 18, 34
ROWS = (42, 92, 196, 264)  # tops of: base measured, base parts, compressed parts and measured
HEIGHT = ROWS[-1] + MEASURED + 10
FULL = 98.0  # length of the longest bar in percent of the width, which any screen may set
LEAST_LABELLED = 3.2  # percent that a part needs to have room for its number
PAIR_WIDTH, PAIR_HEIGHT, PAIR_BAR = 150, 22, 9


def latency_bars(result: Result) -> Markup:
    """Four bars in one scale: base measured, base parts, compressed parts, compressed measured."""
    scale = FULL / _longest_ns(result)
    before, after = _edges(result, "before_ns", scale), _edges(result, "after_ns", scale)
    return element(
        "svg",
        _links(result.steps, before, after),
        _measured(result.base, ROWS[0], scale),
        _stack(result.steps, before, ROWS[1]),
        _stack(result.steps, after, ROWS[2]),
        _measured(result.compressed, ROWS[3], scale),
        _budget(result, scale),
        *_labels(result),
        height=HEIGHT,
        role="img",
        aria_label=_description(result),
        class_="bars",
    )


def paired_bars(step: Step, longest_ns: int) -> Markup:
    """Before above after, for a row of the table that has the numbers."""
    scale = PAIR_WIDTH / max(1, longest_ns)
    return element(
        "svg",
        element("rect", width=step.before_ns * scale, height=PAIR_BAR, class_="before"),
        element(
            "rect",
            y=PAIR_BAR + 2,
            width=step.after_ns * scale,
            height=PAIR_BAR,
            class_=f"after {step_role(step).value}",
        ),
        viewBox=f"0 0 {PAIR_WIDTH} {PAIR_HEIGHT}",
        width=PAIR_WIDTH,
        height=PAIR_HEIGHT,
        aria_hidden="true",
        class_="pair",
    )


def _longest_ns(result: Result) -> float:
    both = (result.base, result.compressed)
    return max(
        *(figures.latency_ns * (1 + figures.latency_spread) for figures in both),
        *(figures.predicted_ns for figures in both),
        *(_edges(result, name, 1.0)[-1] for name in ("before_ns", "after_ns")),
        result.budget_ns,
    )


def _edges(result: Result, name: str, scale: float) -> list[float]:
    """Where the steps begin and end in a stack, calibrated."""
    latencies = (getattr(step, name) * result.calibration * scale for step in result.steps)
    return list(accumulate(latencies, initial=0.0))


def _labels(result: Result) -> Iterator[Markup]:
    for name, figures, measured, parts in (
        ("base", result.base, ROWS[0], ROWS[1]),
        ("compressed", result.compressed, ROWS[3], ROWS[2]),
    ):
        latency = format_measured(figures.latency_ns, figures.latency_spread)
        prediction = format_latency(figures.predicted_ns)
        yield _text(f"{name}, measured: {latency}", 0.0, measured - 7)
        yield _text(f"{name}, its parts: predicted {prediction}", 0.0, parts - 7)


def _stack(steps: tuple[Step, ...], edges: list[float], top: int) -> Markup:
    return join(
        *(
            _part(number, step, left, right - left, top)
            for number, (step, (left, right)) in enumerate(
                zip(steps, pairwise(edges), strict=True), start=1
            )
        )
    )


def _part(number: int, step: Step, left: float, width: float, top: int) -> Markup:
    label = (
        _text(str(number), left + width / 2, top + 22, class_="part-number")
        if width >= LEAST_LABELLED
        else Markup()
    )
    return element(
        "g",
        element("title", typeset(_part_title(number, step))),
        _bar(left, width, top, STACK),
        label,
        class_=f"part {step_role(step).value}",
    )


def _part_title(number: int, step: Step) -> str:
    times = f"{bare_ms(step.before_ns)} -> {format_latency(step.after_ns)} before calibration"
    names = ", ".join(step.names)
    return f"{number}. {names} ({positions(step)}): {outcome(step)}; {times}"


def _links(steps: tuple[Step, ...], before: list[float], after: list[float]) -> Markup:
    """Bands from each part of the base to what it became, stretched to the width of the bars."""
    top = ROWS[1] + STACK
    bands = (
        element(
            "path",
            d=f"M{left:.3f} 0H{right:.3f}L{new_right:.3f} 1H{new_left:.3f}Z",
            class_=f"link {step_role(step).value}",
        )
        for step, (left, right), (new_left, new_right) in zip(
            steps, pairwise(before), pairwise(after), strict=True
        )
    )
    return element(
        "svg",
        *bands,
        viewBox="0 0 100 1",
        preserveAspectRatio="none",
        y=top,
        width="100%",
        height=ROWS[2] - top,
    )


def _measured(figures: Figures, top: int, scale: float) -> Markup:
    length, middle = figures.latency_ns * scale, top + MEASURED / 2
    low, high = (length * (1 + sign * figures.latency_spread) for sign in (-1, 1))
    return join(
        _bar(0.0, length, top, MEASURED, class_="measured"),
        _line(low, middle, high, middle, "whisker"),
        _line(low, middle - 5, low, middle + 5, "whisker"),
        _line(high, middle - 5, high, middle + 5, "whisker"),
    )


def _budget(result: Result, scale: float) -> Markup:
    place = result.budget_ns * scale
    anchor = "start" if place < 25 else "middle" if place < 75 else "end"
    label = f"budget {format_latency(result.budget_ns)}"
    return join(
        _line(place, 18, place, HEIGHT, "budget"),
        _text(label, place, 13, text_anchor=anchor, class_="budget-label"),
    )


def _text(content: str, left: float, baseline: float, **attributes: object) -> Markup:
    return element("text", content, x=f"{left:.3f}%", y=baseline, **attributes)


def _bar(left: float, width: float, top: int, height: int, **attributes: object) -> Markup:
    return element(
        "rect", x=f"{left:.3f}%", y=top, width=f"{width:.3f}%", height=height, **attributes
    )


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=f"{x1:.3f}%", y1=y1, x2=f"{x2:.3f}%", y2=y2, class_=class_)


def _description(result: Result) -> str:
    base, compressed = result.base, result.compressed
    return (
        f"Latency bars. Base: predicted {format_latency(base.predicted_ns)}, measured "
        f"{format_latency(base.latency_ns)}. Compressed: predicted "
        f"{format_latency(compressed.predicted_ns)}, measured "
        f"{format_latency(compressed.latency_ns)}. Budget {format_latency(result.budget_ns)}. "
        "The table of the layers below has each part."
    )
