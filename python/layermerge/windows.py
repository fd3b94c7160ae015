"""The geometry of convolutions: which input pixels an output pixel sees. Free of torch.

Along each axis, y[q] depends on x[s q + d u - P] for the taps 0 <= u < k, on the infinite
zero-padded plane. P is the left (top) padding; the right (bottom) padding says where the output
stops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

Size = tuple[int, int]
"""Height and width, in pixels or taps."""

Padding = tuple[int, int, int, int]
"""Pixels added at the (left, right, top, bottom), in the order of `torch.nn.functional.pad`."""

NO_PADDING: Padding = (0, 0, 0, 0)


@dataclass(frozen=True)
class Window:
    """Kernel size k (in taps), stride s, padding P and dilation d of a convolution or pooling."""

    kernel_size: Size = (1, 1)
    stride: Size = (1, 1)
    padding: Padding = NO_PADDING
    dilation: Size = (1, 1)

    @property
    def growth(self) -> Size:
        """Pixels d (k - 1) that the window spans in addition to one."""
        return (
            self.dilation[0] * (self.kernel_size[0] - 1),
            self.dilation[1] * (self.kernel_size[1] - 1),
        )

    @property
    def is_pointwise(self) -> bool:
        """Whether it sees one pixel, moves by one and pads nothing."""
        return self.growth == (0, 0) and self.stride == (1, 1) and self.padding == NO_PADDING

    def output_size(self, size: Size) -> Size:
        """Height and width of the output for an input of `size`."""
        left, right, top, bottom = self.padding
        padded = (size[0] + top + bottom, size[1] + left + right)
        height, width = (
            (pixels - grown - 1) // stride + 1
            for pixels, grown, stride in zip(padded, self.growth, self.stride, strict=True)
        )
        return (height, width)

    def padded(self, padding: Padding) -> Window:
        """Followed by zero padding; negative amounts crop.

        On the infinite plane this shifts the output, by `stride` input pixels for each pixel.
        """
        return replace(self, padding=plus(self.padding, through(padding, self.stride)))


POINT = Window()
"""One pixel, where it is."""


def through(border: Padding, stride: Size) -> Padding:
    """How many input pixels a border of output pixels is worth."""
    left, right, top, bottom = border
    height, width = stride
    return (left * width, right * width, top * height, bottom * height)


def plus(first: Padding, second: Padding) -> Padding:
    """The sum, side by side."""
    left, right, top, bottom = (a + b for a, b in zip(first, second, strict=True))
    return (left, right, top, bottom)


@lru_cache(maxsize=1 << 16)  # enumeration asks for the same few again and again
def compose(first: Window, second: Window) -> Window:
    """The window of x -> second(first(x)).

    Strides multiply, P = P₁ + s₁ P₂, and the tap offsets d₁ u + s₁ d₂ v lie on a grid of their gcd.
    """
    down, across = (Grid.of(first, second, axis) for axis in (0, 1))
    return Window(
        (down.length, across.length),
        (first.stride[0] * second.stride[0], first.stride[1] * second.stride[1]),
        first.padded(second.padding).padding,
        (down.step, across.step),
    )


@lru_cache(maxsize=1 << 16)
def union(first: Window, second: Window) -> Window:
    """The window of x -> first(x) + second(x), for equal strides: aligned by the left paddings."""
    if first.stride != second.stride:
        raise ValueError(f"strides differ: {first.stride} and {second.stride}")
    down, across = (Union.of(first, second, axis) for axis in (0, 1))
    return Window(
        (down.length, across.length),
        first.stride,
        (across.before, across.after, down.before, down.after),
        (down.step, across.step),
    )


@dataclass(frozen=True)
class Grid:
    """Where the taps of a composition lie along one axis, in steps of `step` pixels."""

    step: int
    length: int
    inner: slice
    outer_step: int

    @classmethod
    def of(cls, first: Window, second: Window, axis: int) -> Grid:
        """Lay out the taps of second(first(x))."""
        taps_1, taps_2 = first.kernel_size[axis], second.kernel_size[axis]
        spacing_1 = first.dilation[axis]
        spacing_2 = first.stride[axis] * second.dilation[axis]
        step = _step((spacing_1, taps_1), (spacing_2, taps_2))
        extent_1 = spacing_1 * (taps_1 - 1)
        extent = extent_1 + spacing_2 * (taps_2 - 1)
        inner = slice(0, extent_1 // step + 1, max(spacing_1 // step, 1))
        return cls(step, extent // step + 1, inner, spacing_2 // step if taps_2 > 1 else 0)

    def taps(self, outer: int) -> slice:
        """Where the taps of the first map lie under tap `outer` of the second."""
        shift = outer * self.outer_step
        return slice(shift, shift + self.inner.stop, self.inner.step)


@dataclass(frozen=True)
class Union:
    """How two kernels lie in the union of their extents along one axis."""

    step: int
    length: int
    before: int
    after: int
    taps: tuple[slice, slice]

    @classmethod
    def of(cls, first: Window, second: Window, axis: int) -> Union:
        """Align two kernels by their left (top) paddings."""
        befores = [_sides(term, axis)[0] for term in (first, second)]
        afters = [_sides(term, axis)[1] for term in (first, second)]
        taps = [term.kernel_size[axis] for term in (first, second)]
        spacings = [term.dilation[axis] for term in (first, second)]
        step = _step(*zip(spacings, taps, strict=True), (abs(befores[0] - befores[1]), 2))
        extents = [d * (k - 1) for d, k in zip(spacings, taps, strict=True)]
        before = max(befores)
        # The last tap lies at extent - before; the output stops as that of the shorter term does.
        reach = max(e - b for e, b in zip(extents, befores, strict=True))
        after = reach + min(a - (e - b) for a, e, b in zip(afters, extents, befores, strict=True))
        places = [
            slice(
                (before - b) // step,
                (before - b + e) // step + 1,
                max(d // step, 1),
            )
            for b, e, d in zip(befores, extents, spacings, strict=True)
        ]
        return cls(step, (before + reach) // step + 1, before, after, (places[0], places[1]))


def _step(*spacings: tuple[int, int]) -> int:
    """The gcd of the spacings of more than one tap, 1 if there is none."""
    return math.gcd(*(spacing for spacing, taps in spacings if taps > 1)) or 1


def _sides(term: Window, axis: int) -> tuple[int, int]:
    left, right, top, bottom = term.padding
    return (top, bottom) if axis == 0 else (left, right)
