"""The network before and after: one box per layer, as wide as its latency."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from layermerge.report.comparison import headline
from layermerge.report.formats import bare_ms, format_latency
from layermerge.report.markup import Markup, element, shorten, typeset
from layermerge.report.parts import Part, Role, outcome, parts_of, positions, step_role
from layermerge.results import Result, Step

COLUMN, BETWEEN = 330, 80
WIDTH = 2 * COLUMN + BETWEEN
BOX, PITCH, GROUP_GAP = 34, 38, 8
NAME_LENGTH, DESCRIPTION_LENGTH = 37, 52


@dataclass(frozen=True)
class Box:
    """A layer to be drawn."""

    name: str
    description: str
    latency_ns: float
    role: Role
    title: str
    style: str = "name"


def network_diagram(result: Result) -> Markup:
    """Every layer of the base on the left, what it became on the right, in one scale."""
    scale = COLUMN / max(1.0, *_latencies(result.steps))
    groups, top = [], 0
    for step in result.steps:
        groups.append(_group(step, top, scale))
        top += _height(step) + GROUP_GAP
    return element(
        "svg",
        *groups,
        viewBox=f"0 0 {WIDTH} {top - GROUP_GAP}",
        role="img",
        aria_label=f"Diagram of the network before and after. {headline(result)}. "
        "The table of the layers below has the same data.",
        class_="diagram",
    )


def _latencies(steps: tuple[Step, ...]) -> Iterator[float]:
    for step in steps:
        yield step.after_ns
        yield from (part.latency_ns for part in parts_of(step))


def _height(step: Step) -> int:
    return PITCH * len(step.names) - (PITCH - BOX)


def _group(step: Step, top: float, scale: float) -> Markup:
    height = _height(step)
    middle = top + (height - BOX) / 2
    before = (
        _box(_before(part, step), 0, top + PITCH * row, scale)
        for row, part in enumerate(parts_of(step))
    )
    return element(
        "g",
        _link(top, height, middle, step_role(step)),
        *before,
        _box(_after(step), COLUMN + BETWEEN, middle, scale),
    )


def _before(part: Part, step: Step) -> Box:
    what = f": {part.description}" if part.description else ""
    title = (
        f"{part.name}{what}; {format_latency(part.latency_ns)}; {part.role.value}; "
        f"positions {positions(step)}"
    )
    return Box(shorten(part.name, NAME_LENGTH), part.description, part.latency_ns, part.role, title)


def _after(step: Step) -> Box:
    role = step_role(step)
    title = f"{outcome(step)}: {step.description}; {format_latency(step.after_ns)}"
    if role is Role.MERGED:
        return Box(outcome(step), step.description, step.after_ns, role, title, "words")
    name = shorten(step.names[0], NAME_LENGTH)
    return Box(name, step.description, step.after_ns, role, title)


def _box(box: Box, left: float, top: float, scale: float) -> Markup:
    width = max(1.5, box.latency_ns * scale)
    return element(
        "g",
        element("title", typeset(box.title)),
        element("rect", x=left, y=top, width=COLUMN, height=BOX, class_="track"),
        element("rect", x=left, y=top, width=width, height=BOX, class_="time"),
        _text(box.name, left + 7, top + 14, box.style),
        _text(shorten(typeset(_words(box)), DESCRIPTION_LENGTH), left + 7, top + 28, "description"),
        _text(bare_ms(box.latency_ns), left + COLUMN - 6, top + 14, "number"),
        class_=f"layer {box.role.value}",
    )


def _words(box: Box) -> str:
    words = ("removed" if box.role is Role.REMOVED else "", box.description)
    return ", ".join(filter(None, words))


def _link(top: float, height: float, middle: float, role: Role) -> Markup:
    left, right = COLUMN + 4, COLUMN + BETWEEN - 4
    half = (left + right) / 2
    path = (
        f"M{left} {top:g}C{half:g} {top:g} {half:g} {middle:g} {right} {middle:g}"
        f"V{middle + BOX:g}"
        f"C{half:g} {middle + BOX:g} {half:g} {top + height:g} {left} {top + height:g}Z"
    )
    return element("path", d=path, class_=f"link {role.value}")


def _text(content: str, x: float, y: float, class_: str) -> Markup:
    return element("text", content, x=x, y=y, class_=class_)
