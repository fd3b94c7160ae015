"""What a plan makes of a random network, computed naively on a plane wider than all padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermerge.activations import activation_module
from layermerge.plan import Plan, PlannedSegment
from random_modules import AddSide, Chain, Parallel, Pool, Scale, Unit

MARGIN = 96  # wider than what the convolutions of a random network reach


@dataclass
class Canvas:
    """A value on a wide plane of zeros: `origin` is where its first pixel lies."""

    plane: Tensor
    origin: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def of(cls, value: Tensor) -> Canvas:
        plane = F.pad(value, (MARGIN,) * 4)
        return cls(plane, (MARGIN, MARGIN), (value.shape[2], value.shape[3]))

    def value(self) -> Tensor:
        (top, left), (height, width) = self.origin, self.size
        assert top >= 0 <= left
        return self.plane[:, :, top : top + height, left : left + width]

    def padded(self, padding: tuple[int, ...]) -> Canvas:
        left, right, top, bottom = padding
        origin = (self.origin[0] - top, self.origin[1] - left)
        return Canvas(
            self.plane, origin, (self.size[0] + top + bottom, self.size[1] + left + right)
        )

    def convolved(self, conv: nn.Conv2d) -> Canvas:
        rows, columns = (begin % s for begin, s in zip(self.origin, conv.stride, strict=True))
        plane = self.plane[:, :, rows:, columns:]
        out = F.conv2d(plane, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
        origin = (self.origin[0] // conv.stride[0], self.origin[1] // conv.stride[1])
        height, width = (
            (size - dilation * (taps - 1) - 1) // stride + 1
            for size, dilation, taps, stride in zip(
                self.size, conv.dilation, conv.kernel_size, conv.stride, strict=True
            )
        )
        return Canvas(out, origin, (height, width))


def joined(terms: list[Canvas], join: str) -> Canvas:
    """Add or concatenate, first pixels on first pixels."""
    assert len({term.size for term in terms}) == 1
    top, left = (min(term.origin[axis] for term in terms) for axis in (0, 1))
    planes = [term.plane[:, :, term.origin[0] - top :, term.origin[1] - left :] for term in terms]
    height, width = (min(plane.shape[axis] for plane in planes) for axis in (2, 3))
    planes = [plane[:, :, :height, :width] for plane in planes]
    plane = sum(planes[1:], planes[0]) if join == "sum" else torch.cat(planes, 1)
    return Canvas(plane, (top, left), terms[0].size)


def evaluate(
    net: Chain, plan: Plan, norms: Mapping[str, nn.Module], x: Tensor, side: Tensor | None = None
) -> Tensor:
    """What `plan` makes of a network.

    Each segment runs on a plane so wide that its own padding does not matter, and what lies
    outside the image is cut off at the segment's end only. `norms` are the modules behind the
    graph nodes that a plan names.
    """
    return _Evaluation(net, plan, norms, side).run(net, x)


class _Evaluation:
    def __init__(
        self, net: Chain, plan: Plan, norms: Mapping[str, nn.Module], side: Tensor | None
    ) -> None:
        self.units = [module for module in net.modules() if isinstance(module, Unit)]
        self.plan, self.norms, self.side = plan, norms, side

    def run(self, chain: Chain, value: Tensor) -> Tensor:
        items = list(chain)
        while items:
            segment = self.segment_of(items)
            if segment is None:
                value = self.plain(items.pop(0), value)
            else:
                value = self.merged(segment, items, value)
        return value

    def segment_of(self, items: list[nn.Module]) -> PlannedSegment | None:
        """The segment that begins with the next item and lies within this chain."""
        first = self.layers(items[0])
        last = [layer for item in items for layer in self.layers(item)][-1:]
        for segment in self.plan.segments:
            if first and segment.start < first[0] and first[-1] <= segment.end <= last[0]:
                final = next(item for item in items if segment.end in self.layers(item))
                return segment if self.may_end_with(final) else None
        return None

    def may_end_with(self, item: nn.Module) -> bool:
        """Whether nothing is removed after the last layers inside an item."""
        return not isinstance(item, Parallel) or all(map(self.ends_affinely, item.branches))

    def ends_affinely(self, chain: Chain) -> bool:
        items = list(chain)
        while items and isinstance(items[-1], (Scale, AddSide)):
            items.pop()
        if not items:
            return True
        is_layer = bool(self.layers(items[-1]))
        return is_layer and items[-1].activation is None and self.may_end_with(items[-1])

    def plain(self, item: nn.Module, value: Tensor) -> Tensor:
        """An item of which no segment holds all."""
        if not isinstance(item, Parallel):
            return item(value, self.side)
        parts = item.parts(value)
        terms = [self.run(*each) for each in zip(item.branches, parts, strict=True)]
        value = terms[0] + terms[1] if item.join == "sum" else torch.cat(terms, 1)
        return value if item.activation is None else item.activation(value)

    def merged(self, segment: PlannedSegment, items: list[nn.Module], value: Tensor) -> Tensor:
        """Run a segment, and take its items off the list."""
        if segment.is_original:
            return items.pop(0)(value, self.side)
        held = []
        while segment.end not in [layer for item in held for layer in self.layers(item)]:
            held.append(items.pop(0))
        activation = getattr(held[-1], "activation", None)
        while activation is None and items and isinstance(items[0], (Scale, AddSide)):
            held.append(items.pop(0))
        value = self.linear(held, Canvas.of(value)).value()
        if segment.norm:
            value = self.norms[segment.norm](value)
        if segment.activation:
            value = activation_module(segment.activation)(value)
        return value if activation is None else activation(value)

    def linear(self, items: list[nn.Module], canvas: Canvas) -> Canvas:
        """Run items without what is not affine and without the layers that go."""
        gone = None
        for item in items:
            if isinstance(item, Unit):
                is_kept = self.keeps(item)
                canvas = self.convolved(item, canvas) if is_kept else canvas
                gone = None if is_kept or item.norm or item.activation else item
                continue
            if isinstance(item, Parallel):
                canvas = self.parallel(item, canvas)
            elif isinstance(item, Pool):
                canvas = self.pooled(item, canvas)
            elif isinstance(item, Scale):
                # A scale right behind a layer is its norm, and the first of its two operations.
                factor = 1.5 if item.factor is None else item.factor
                plane = canvas.plane * (1 if gone else factor) + item.shift
                canvas = replace(canvas, plane=plane)
            elif isinstance(item, AddSide):
                assert self.side is not None
                canvas = replace(canvas, plane=canvas.plane + self.side)
            gone = None
        return canvas

    def convolved(self, unit: Unit, canvas: Canvas) -> Canvas:
        if unit.pad is not None:
            canvas = canvas.padded(unit.pad.padding)
        conv = unit.conv
        if conv.padding == "same":
            growth = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
            (top, bottom), (left, right) = ((g // 2, g - g // 2) for g in growth)
            canvas = canvas.padded((left, right, top, bottom))
        else:
            canvas = canvas.padded((conv.padding[1],) * 2 + (conv.padding[0],) * 2)
        canvas = canvas.convolved(conv)
        return canvas if unit.norm is None else replace(canvas, plane=unit.norm(canvas.plane))

    def pooled(self, item: Pool, canvas: Canvas) -> Canvas:
        if item.pad is not None:
            canvas = canvas.padded(item.pad)
        pool, channels = item.pool, canvas.plane.shape[1]
        canvas = canvas.padded((pool.padding,) * 4)
        conv = nn.Conv2d(
            channels, channels, pool.kernel_size, pool.stride, groups=channels, bias=False
        ).double()
        nn.init.constant_(conv.weight, 1 / pool.kernel_size**2)
        return canvas.convolved(conv)

    def parallel(self, item: Parallel, canvas: Canvas) -> Canvas:
        parts = [replace(canvas, plane=plane) for plane in item.parts(canvas.plane)]
        pairs = list(zip(item.branches, parts, strict=True))
        if item.join == "sum":
            alive = [pair for pair in pairs if not self.layers(pair[0]) or self.keeps(pair[0])]
            pairs = alive or pairs[1:]
        return joined([self.linear(list(chain), part) for chain, part in pairs], item.join)

    def layers(self, item: nn.Module) -> list[int]:
        return [self.units.index(unit) + 1 for unit in item.modules() if isinstance(unit, Unit)]

    def keeps(self, item: nn.Module) -> bool:
        return not set(self.layers(item)).isdisjoint(self.plan.convolutions)
