"""A linear axis of a plot, and the elements of plots that several share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from layermerge.report.markup import Markup, element


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


def spanning(values: list[float], start: float, stop: float, margin: float = 0.05) -> Axis:
    """An axis on which all values are, with some room on both sides.

    Examples
    --------
    >>> spanning([1.0, 3.0], 0, 100, margin=0.5)
    Axis(low=0.0, high=4.0, start=0, stop=100)
    """
    low, high = min(values), max(values)
    room = margin * (high - low) or 0.05 * abs(low) or 1.0
    return Axis(low - room, high + room, start, stop)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A line of an SVG."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def text(x: float, y: float, content: str, **attributes: object) -> Markup:
    """A text of an SVG."""
    return element("text", content, x=x, y=y, **attributes)
