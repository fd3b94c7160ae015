"""The plan as a table: each step with what became of it and its latency before and after."""

from __future__ import annotations

from collections.abc import Iterator

from layermerge.report.breakdown import paired_bars
from layermerge.report.formats import bare_ms
from layermerge.report.markup import Markup, element, join, typeset
from layermerge.report.parts import Part, Role, outcome, parts_of, positions, step_role
from layermerge.results import Result, Step

HEADINGS = ("step", "positions", "layers", "computes now", "before ms", "after ms", "")


def layer_table(result: Result) -> Markup:
    """Every step in order, then how the sum becomes the prediction."""
    longest_ns = max(max(step.before_ns, step.after_ns) for step in result.steps)
    head = element("tr", *(element("th", heading, scope="col") for heading in HEADINGS))
    rows = (_row(number, step, longest_ns) for number, step in enumerate(result.steps, start=1))
    return element(
        "table",
        element("thead", head),
        element("tbody", *rows),
        element("tfoot", *_totals(result)),
        class_="layers",
    )


def _row(number: int, step: Step, longest_ns: int) -> Markup:
    role = step_role(step)
    remark = element("small", outcome(step)) if role in (Role.MERGED, Role.REMOVED) else Markup()
    return element(
        "tr",
        element("th", str(number), scope="row"),
        element("td", positions(step)),
        element("td", *map(_layer, parts_of(step))),
        element("td", typeset(step.description), remark),
        element("td", bare_ms(step.before_ns), class_="number"),
        element("td", bare_ms(step.after_ns), class_="number"),
        element("td", paired_bars(step, longest_ns)),
        class_=role.value,
    )


def _layer(part: Part) -> Markup:
    name = element("code", part.name, title=part.description)
    if part.role is Role.REMOVED:
        return element("div", join(element("del", name), element("small", "removed")))
    return element("div", name)


def _totals(result: Result) -> Iterator[Markup]:
    base, compressed = result.base, result.compressed
    before = sum(step.before_ns for step in result.steps)
    after = sum(step.after_ns for step in result.steps)
    yield _total("sum of the parts", before, after)
    label = f"predicted: the sum times {result.calibration:.3f}"
    yield _total(label, base.predicted_ns, compressed.predicted_ns)
    yield _total("measured end to end", base.latency_ns, compressed.latency_ns)


def _total(label: str, before_ns: int, after_ns: int) -> Markup:
    return element(
        "tr",
        element("th", label, scope="row", colspan=4),
        element("td", bare_ms(before_ns), class_="number"),
        element("td", bare_ms(after_ns), class_="number"),
        element("td"),
    )
