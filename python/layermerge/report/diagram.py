"""The network before and after: one box per layer, as wide as its latency."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from layermerge.report.comparison import headline
from layermerge.report.formats import bare_ms, format_latency
from layermerge.report.markup import Markup, element, shorten, typeset
from layermerge.report.parts import Part, Role, outcome, parts_of, positions, step_role
from layermerge.results import Result, Step

COLUMN, BETWEEN = 330, 80
WIDTH = 2 * COLUMN + BETWEEN
GROUP_GAP = 8
NAME_LENGTH, DESCRIPTION_LENGTH = 37, 52
MANY_LAYERS = 60
"""From here on, a box has one line, and what stays as it is is folded where much of it adjoins."""
LEAST_FOLDED = 4


@dataclass(frozen=True)
class Box:
    """A layer to be drawn, or several that stay as they are: those have no bar."""

    name: str
    description: str
    latency_ns: float
    role: Role
    title: str
    style: str = "name"
    has_bar: bool = True


@dataclass(frozen=True)
class Group:
    """Boxes on the left, and the one that they become."""

    before: tuple[Box, ...]
    after: Box


@dataclass(frozen=True)
class Layout:
    """Heights of boxes, and the scale of their widths."""

    box: int
    pitch: int
    scale: float

    @property
    def has_descriptions(self) -> bool:
        """Whether there is room for a second line."""
        return self.box > 30

    def height(self, group: Group) -> int:
        """Height of a group."""
        return self.pitch * len(group.before) - (self.pitch - self.box)


def network_diagram(result: Result) -> Markup:
    """Every layer of the base on the left, what it became on the right, in one scale."""
    is_long = sum(len(step.names) for step in result.steps) > MANY_LAYERS
    groups = list(_folded(result.steps) if is_long else map(_group_of, result.steps))
    scale = COLUMN / max(1.0, *_latencies(groups))
    layout = Layout(20, 22, scale) if is_long else Layout(34, 38, scale)
    drawn, top = [], 0
    for group in groups:
        drawn.append(_group(group, top, layout))
        top += layout.height(group) + GROUP_GAP
    return element(
        "svg",
        *drawn,
        viewBox=f"0 0 {WIDTH} {top - GROUP_GAP}",
        role="img",
        aria_label=f"Diagram of the network before and after. {headline(result)}. "
        "The table of the layers below has the same data.",
        class_="diagram",
    )


def _folded(steps: Iterable[Step]) -> Iterator[Group]:
    for role, run in groupby(steps, step_role):
        same = tuple(run)
        if role in (Role.UNCHANGED, Role.FIXED) and len(same) >= LEAST_FOLDED:
            yield _fold(same, role)
        else:
            yield from map(_group_of, same)


def _fold(steps: tuple[Step, ...], role: Role) -> Group:
    latency_ns = sum(step.before_ns for step in steps)
    first, last = (shorten(step.names[0], NAME_LENGTH // 2 - 3) for step in (steps[0], steps[-1]))
    words = f"{len(steps)} {role.value}"
    title = f"{words}: {', '.join(step.names[0] for step in steps)}; {format_latency(latency_ns)}"
    box = Box(words, f"{first} to {last}", latency_ns, role, title, "words", has_bar=False)
    return Group((box,), box)


def _group_of(step: Step) -> Group:
    return Group(tuple(_before(part, step) for part in parts_of(step)), _after(step))


def _latencies(groups: Iterable[Group]) -> Iterator[float]:
    for group in groups:
        yield from (box.latency_ns for box in (*group.before, group.after) if box.has_bar)


def _group(group: Group, top: float, layout: Layout) -> Markup:
    height = layout.height(group)
    middle = top + (height - layout.box) / 2
    return element(
        "g",
        _link(top, height, middle, group.after.role, layout),
        *(_box(box, 0, top + layout.pitch * row, layout) for row, box in enumerate(group.before)),
        _box(group.after, COLUMN + BETWEEN, middle, layout),
    )


def _before(part: Part, step: Step) -> Box:
    what = f": {part.description}" if part.description else ""
    title = (
        f"{part.name}{what}; {format_latency(part.latency_ns)}; {part.role.value}; "
        f"positions {positions(step)}"
    )
    words = ("removed" if part.role is Role.REMOVED else "", part.description)
    description = ", ".join(filter(None, words))
    return Box(shorten(part.name, NAME_LENGTH), description, part.latency_ns, part.role, title)


def _after(step: Step) -> Box:
    role = step_role(step)
    title = f"{outcome(step)}: {step.description}; {format_latency(step.after_ns)}"
    if role in (Role.MERGED, Role.REMOVED):
        return Box(outcome(step), step.description, step.after_ns, role, title, "words")
    name = shorten(step.names[0], NAME_LENGTH)
    return Box(name, step.description, step.after_ns, role, title)


def _box(box: Box, left: float, top: float, layout: Layout) -> Markup:
    width = max(1.5, box.latency_ns * layout.scale) if box.has_bar else 0
    lines = [_text(_name(box, layout), left + 7, top + 14, box.style)]
    if layout.has_descriptions:
        description = shorten(typeset(box.description), DESCRIPTION_LENGTH)
        lines.append(_text(description, left + 7, top + 28, "description"))
    return element(
        "g",
        element("title", typeset(box.title)),
        element("rect", x=left, y=top, width=COLUMN, height=layout.box, class_="track"),
        *(
            [element("rect", x=left, y=top, width=width, height=layout.box, class_="time")]
            if box.has_bar
            else []
        ),
        *lines,
        _text(bare_ms(box.latency_ns), left + COLUMN - 6, top + 14, "number"),
        class_=f"layer {box.role.value}",
    )


def _name(box: Box, layout: Layout) -> str:
    """What a box says in its first line, which is the only one of a long network."""
    if layout.has_descriptions or box.style == "name":
        return box.name
    if box.role is Role.MERGED:
        return shorten(typeset(box.description), DESCRIPTION_LENGTH - 6)
    return box.name if box.has_bar else f"{box.name}: {box.description}"


def _link(top: float, height: float, middle: float, role: Role, layout: Layout) -> Markup:
    left, right = COLUMN + 4, COLUMN + BETWEEN - 4
    half = (left + right) / 2
    path = (
        f"M{left} {top:g}C{half:g} {top:g} {half:g} {middle:g} {right} {middle:g}"
        f"V{middle + layout.box:g}"
        f"C{half:g} {middle + layout.box:g} {half:g} {top + height:g} {left} {top + height:g}Z"
    )
    return element("path", d=path, class_=f"link {role.value}")


def _text(content: str, x: float, y: float, class_: str) -> Markup:
    return element("text", content, x=x, y=y, class_=class_)
