"""Where the labels of a plot go, so that nothing runs through them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CHARACTER, ASCENT, DESCENT = 8.6, 11.0, 4.0
"""Of the bold text of plots, in a wide font: mean width, above and below the baseline."""


@dataclass(frozen=True)
class Box:
    """A rectangle, sides parallel to the axes; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Area in common, and something for boxes without area that cross."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return (width + 1) * (height + 1) if width >= 0 and height >= 0 else 0.0

    def outside(self, frame: Box) -> float:
        """How far it reaches over the sides of a frame."""
        return (
            max(0.0, frame.left - self.left)
            + max(0.0, self.right - frame.right)
            + max(0.0, frame.top - self.top)
            + max(0.0, self.bottom - frame.bottom)
        )


def text_box(x: float, baseline: float, content: str) -> Box:
    """The room that a text needs which is centred on `x`."""
    half = CHARACTER * len(content) / 2
    return Box(x - half, baseline - ASCENT, x + half, baseline + DESCENT)


def place_label(
    content: str, x: float, y: float, obstacles: Sequence[Box], frame: Box, *, above: bool
) -> tuple[float, float]:
    """Find where to centre the label of a point: at it, beside the obstacles, inside the frame.

    Returns
    -------
    x, baseline : float
    """
    half = CHARACTER * len(content) / 2
    rows = (y - 14, y + 24, y - 32, y + 42) if above else (y + 24, y - 14, y + 42, y - 32)
    edges = [edge for box in obstacles for edge in (box.left - half - 2, box.right + half + 2)]
    columns = sorted([x, frame.left + half, frame.right - half, *edges], key=lambda c: abs(c - x))

    def cost(place: tuple[float, float]) -> float:
        box = text_box(*place, content)
        return 1e3 * box.outside(frame) + sum(box.overlap(each) for each in obstacles)

    places: Iterable[tuple[float, float]] = ((column, row) for column in columns for row in rows)
    return min(places, key=cost)
