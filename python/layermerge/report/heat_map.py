"""The heat map: what is known of replacing the segment (i, j], for every i and j."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from layermerge.report.formats import (
    bare_ms,
    count,
    format_latency,
    format_score_change,
    is_fraction,
)
from layermerge.report.markup import Markup, element, join, typeset
from layermerge.results import Result
from layermerge.search_results import SearchResult, SegmentFinding

COLUMNS = 20
"""Segments that start side by side; those of longer networks continue below."""
LOSSES, GAINS = 6, 2
PATTERNS = (
    ("unevaluated", "not evaluated: the search could do without"),
    ("partly", "some of its ways not evaluated"),
    ("unprofitable", "no faster than what it replaces"),
    ("failed", "fine-tune failed"),
    ("chosen", "in the plan"),
)


@dataclass(frozen=True)
class Scale:
    """Classes of changes of the score; narrow about 0, where most of what is of use is.

    Attributes
    ----------
    worst, best : float
        The largest loss, and the largest gain, both at least 0.
    """

    worst: float
    best: float

    @classmethod
    def of(cls, segments: Sequence[SegmentFinding]) -> Scale:
        """The scale on which all segments have a place."""
        deltas = [each.delta for each in segments if each.delta is not None]
        return cls(max(0.0, *(-d for d in deltas), 0.0), max(0.0, *deltas, 0.0))

    def class_of(self, delta: float) -> str:
        """The class of a change.

        Examples
        --------
        >>> scale = Scale(worst=0.36, best=0.1)
        >>> [scale.class_of(delta) for delta in (-0.36, -0.02, 0.0, 0.04, 0.1)]
        ['loss5', 'loss1', 'loss0', 'gain0', 'gain1']
        """
        if delta > 0:
            return f"gain{min(GAINS - 1, math.floor(GAINS * delta / self.best))}"
        # Edges at worst (n / LOSSES)^2.
        share = -delta / self.worst if self.worst else 0.0
        return f"loss{min(LOSSES - 1, math.floor(LOSSES * math.sqrt(share)))}"

    def classes(self) -> Iterator[tuple[str, float, float]]:
        """Name and ends of each class, from the largest loss to the largest gain."""
        for n in reversed(range(LOSSES if self.worst else 1)):
            low, high = (self.worst * (edge / LOSSES) ** 2 for edge in (n + 1, n))
            yield f"loss{n}", -low, -high
        for n in range(GAINS if self.best else 0):
            yield f"gain{n}", self.best * n / GAINS, self.best * (n + 1) / GAINS


def heat_map(result: Result, search: SearchResult) -> Markup:
    """Tables of the segments by where they start and how long they are.

    The cells are radio buttons, so that a keyboard gets to them; what is known of the one in use is
    written below.
    """
    scale = Scale.of(search.segments)
    by_place = {(each.start, each.end): each for each in search.segments}
    last = max(each.start for each in search.segments)
    firsts = sorted({each.start - each.start % COLUMNS for each in search.segments})
    strips = (
        _strip(range(first, min(first + COLUMNS, last + 1)), by_place, scale, result)
        for first in firsts
    )
    hint = "Point at a segment, or use the arrow keys, to see what is known of it."
    return element(
        "div",
        element("div", *strips, class_="strips"),
        element("p", hint, class_="hint"),
        role="radiogroup",
        aria_label="Segments of the network",
        class_="map",
    )


def heat_map_legend(result: Result, search: SearchResult) -> Markup:
    """What the colours and the patterns stand for."""
    scale = Scale.of(search.segments)
    present = {name for each in search.segments for name in _classes(each, scale)}
    items = (
        element("li", element("i", class_=f"cell {name}"), f" {label}")
        for name, label in PATTERNS
        if name in present
    )
    colours = [_colours(result, scale)] if any(e.delta is not None for e in search.segments) else []
    return element("ul", *colours, *items, class_="legend")


def _colours(result: Result, scale: Scale) -> Markup:
    """The colours in a row, the ends of the scale on both sides."""
    classes = list(scale.classes())
    ends = (_change(result, delta) for delta in (classes[0][1], classes[-1][2]))
    low, high = map(typeset, ends)
    swatches = (
        element(
            "i",
            class_=f"cell {name}",
            title=typeset(f"{_change(result, left)} to {_change(result, right)}"),
        )
        for name, left, right in classes
    )
    return element("li", f"{low} ", join(*swatches), f" {high}")


def describe_segments(result: Result, search: SearchResult) -> str:
    """The map in words."""
    segments = search.segments
    entries = sum(each.num_entries for each in segments)
    scored = [each for each in segments if each.delta is not None]
    unevaluated = sum(each.num_unevaluated for each in segments)
    text = (
        f"{count(len(segments), 'segment')} can be replaced, in {count(entries, 'way')}: "
        f"{sum(each.num_scored for each in segments):,} scored, {unevaluated:,} not evaluated, "
        f"{sum(each.num_unprofitable for each in segments):,} no faster than what they replace, "
        f"{sum(each.num_failed for each in segments):,} failed."
    )
    if scored:
        best, worst = (function(scored, key=_delta) for function in (max, min))
        text += (
            f" Best for {result.score_name} is to replace positions {best.start}..{best.end} "
            f"({_change(result, _delta(best))}), worst {worst.start}..{worst.end} "
            f"({_change(result, _delta(worst))})."
        )
    return text


def _delta(segment: SegmentFinding) -> float:
    return -math.inf if segment.delta is None else segment.delta


def _strip(
    starts: range,
    by_place: dict[tuple[int, int], SegmentFinding],
    scale: Scale,
    result: Result,
) -> Markup:
    lengths = sorted({end - start for start, end in by_place if start in starts})
    caption = f"Segments that start at positions {starts[0]} to {starts[-1]}"
    head = (_column_heading(start, is_dense=starts[-1] >= 100) for start in starts)
    rows = (
        element(
            "tr",
            element("th", str(length), scope="row"),
            *(_cell(by_place.get((start, start + length)), scale, result) for start in starts),
        )
        for length in lengths
    )
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", element("td"), *head)),
        element("tbody", *rows),
        class_="heat",
    )


def _column_heading(start: int, *, is_dense: bool) -> Markup:
    """Where numbers of three digits would touch, one sees every other of them."""
    class_ = "unseen" if is_dense and start % 2 else "seen"
    return element("th", str(start), scope="col", class_=class_)


def _cell(segment: SegmentFinding | None, scale: Scale, result: Result) -> Markup:
    if segment is None:
        return element("td")
    return element(
        "td",
        element(
            "label",
            element(
                "input",
                type="radio",
                name="segment",
                class_=" ".join(("cell", *_classes(segment, scale))),
            ),
            element("span", typeset(_detail(segment, result)), class_="tip"),
        ),
    )


def _classes(segment: SegmentFinding, scale: Scale) -> Iterator[str]:
    if segment.delta is not None:
        yield scale.class_of(segment.delta)
        if segment.num_unevaluated:
            yield "partly"
    elif segment.num_unevaluated:
        yield "unevaluated"
    elif segment.num_failed:
        yield "failed"
    else:
        yield "unprofitable"
    if segment.is_chosen:
        yield "chosen"


def _detail(segment: SegmentFinding, result: Result) -> str:
    return " ".join(filter(None, (_what(segment, result), _numbers(segment), _plan(segment))))


def _what(segment: SegmentFinding, result: Result) -> str:
    place = f"Positions {segment.start}..{segment.end}"
    layers = count(segment.end - segment.start, "layer")
    if segment.delta is None:
        return f"{place}, {layers}:"
    if not segment.kept:
        outcome = "removed"
    else:
        height, width = segment.kernel_size
        names = ", ".join(map(str, segment.kept))
        outcome = f"-> {height}x{width}, of {names}"
    return (
        f"{place}, {layers} {outcome}: {result.score_name} {_change(result, segment.delta)}, "
        f"importance {segment.importance:.5g}, {bare_ms(segment.replaced_ns)} -> "
        f"{format_latency(segment.latency_ns)}."
    )


def _numbers(segment: SegmentFinding) -> str:
    kinds = (
        (segment.num_scored, "scored"),
        (segment.num_unevaluated, "not evaluated"),
        (segment.num_unprofitable, "no faster than what it replaces"),
        (segment.num_failed, "fine-tune failed"),
    )
    if segment.num_entries == 1:
        return "" if segment.num_scored else next(f"{kind}." for number, kind in kinds if number)
    listed = ", ".join(f"{number} {kind}" for number, kind in kinds if number)
    return f"Of {count(segment.num_entries, 'way')}: {listed}."


def _plan(segment: SegmentFinding) -> str:
    return "In the plan." if segment.is_chosen else ""


def _change(result: Result, delta: float) -> str:
    scores = result.base.score, result.compressed.score
    return format_score_change(0.0, delta, percent=is_fraction(result.score_name, *scores))
