"""Random networks of everything that segments may hold, and random plans for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import assume, reject
from hypothesis import strategies as st
from torch import Tensor, nn

from layermerge.candidates import Candidate, CandidateSpace
from layermerge.plan import Plan, plan_of
from networks import images, randomized
from random_modules import (
    AddSide,
    Chain,
    Gate,
    Net,
    Norm,
    Parallel,
    Pool,
    Scale,
    SideNet,
    Unit,
)

ACTIVATIONS = st.sampled_from([None, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.LeakyReLU]).map(
    lambda kind: kind and kind()
)
CHANNELS = st.sampled_from([2, 4, 6])


class Drawn:
    """A network and its inputs; `is_centred` if every window has its middle where it looks."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...], is_centred: bool) -> None:
        self.model, self.inputs, self.is_centred = model, inputs, is_centred

    def __repr__(self) -> str:
        shapes = [tuple(value.shape) for value in self.inputs]
        return f"Drawn({self.model}, {shapes}, is_centred={self.is_centred})"


@dataclass(frozen=True)
class Builder:
    """Draws items for one network.

    All keep the size of an image, or divide it by their stride and round up, so that branches fit
    together.
    """

    draw: st.DrawFn
    is_centred: bool
    side_channels: int

    def kernel(self, smallest: int = 1) -> tuple[int, int]:
        if self.is_centred:
            kernels = st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 5), (1, 3), (7, 1)])
        else:
            kernels = st.one_of(
                st.sampled_from([(1, 1), (3, 3), (3, 3)]),
                st.tuples(st.integers(1, 7), st.sampled_from([1, 2, 3, 4])),
            )
        return self.draw(kernels.filter(lambda kernel: max(kernel) >= smallest))

    def unit(
        self, inputs: int, outputs: int, stride: int | tuple[int, int] = 1, smallest: int = 1
    ) -> Unit:
        draw = self.draw
        kernel = self.kernel(smallest)
        dilation = draw(st.sampled_from([1, 1, 1, 2])) if max(kernel) <= 3 else 1
        groups = [g for g in (1, 2, inputs) if inputs % g == outputs % g == 0]
        down, across = (dilation * (taps - 1) for taps in kernel)
        if self.is_centred:
            top, left = down // 2, across // 2
        else:
            top, left = draw(st.integers(0, down)), draw(st.integers(0, across))
        is_even = (2 * top, 2 * left) == (down, across)
        in_front = not is_even or draw(st.integers(0, 3)) == 0
        padding: tuple[int, int] | str = (0, 0) if in_front else (top, left)
        pad = nn.ZeroPad2d((left, across - left, top, down - top)) if in_front else None
        if not self.is_centred and stride == 1 and draw(st.integers(0, 3)) == 0:
            padding, pad = "same", None
        conv = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride,
            padding,
            dilation,
            draw(st.sampled_from(groups)),
            bias=draw(st.booleans()),
        )
        norm = nn.BatchNorm2d(outputs) if draw(st.booleans()) else None
        return Unit(conv, norm, draw(ACTIVATIONS), pad)

    def pool(self, stride: int = 1) -> Pool:
        taps = 3 if self.is_centred else self.draw(st.sampled_from([2, 3]))
        if taps == 3:
            return Pool(None, nn.AvgPool2d(3, stride, 1))
        return Pool(
            self.draw(st.sampled_from([(0, 1, 0, 1), (1, 0, 0, 1)])), nn.AvgPool2d(2, stride)
        )

    def small(self, channels: int) -> nn.Module:
        """An item without a layer, that keeps size and channels."""
        makers = [
            lambda: Scale(channels, self.draw(st.booleans())),
            lambda: Gate(channels),
            self.pool,
        ]
        if channels % 2 == 0:
            makers.append(lambda: Norm(channels))
        if self.side_channels in (1, channels):
            makers += [AddSide] * 2
        return self.draw(st.sampled_from(makers))()

    def branch(self, inputs: int, outputs: int, stride: int, depth: int) -> Chain:
        """A unit that changes channels and size, among items that keep them."""
        items: list[nn.Module] = []
        changes = stride > 1 or inputs != outputs
        if changes and stride > 1 and self.draw(st.integers(0, 3)) == 0:
            items.append(self.pool(stride))
            stride = 1
        if changes or self.draw(st.integers(0, 2)):
            items.append(self.unit(inputs, outputs, stride))
        for _ in range(self.draw(st.integers(0, 2 if items else 1))):
            kind = self.draw(st.sampled_from(["unit", "unit", "small", "parallel"]))
            if kind == "parallel" and depth:
                items.append(self.parallel(outputs, outputs, 1, depth - 1))
            elif kind == "small" and items:  # a scale belongs to the layer in front of it
                items.append(self.small(outputs))
            else:
                items.append(self.unit(outputs, outputs))
        return Chain(items)

    def parallel(self, inputs: int, outputs: int, stride: int, depth: int) -> Parallel:
        """A residual block, a re-parameterised one, an Inception, or a split of the channels."""
        draw = self.draw
        kinds = ["residual", "residual", "growing", "concat"]
        if stride == 1 and inputs == outputs and inputs % 2 == 0:
            kinds.append("split")
        kind = draw(st.sampled_from(kinds))
        if kind == "residual":
            first = Chain(
                [self.unit(inputs, outputs, stride), *self.branch(outputs, outputs, 1, depth)]
            )
            changes = stride > 1 or inputs != outputs
            second = Chain([self.pointwise(inputs, outputs, stride)] if changes else [])
            branches = draw(st.permutations([first, second]))
            return Parallel(branches, "sum", activation=draw(ACTIVATIONS))
        if kind == "growing":
            branches = [Chain([self.unit(inputs, outputs, stride, 3)]) for _ in range(2)]
            return Parallel(branches, "sum", activation=draw(ACTIVATIONS))
        half = outputs // 2
        starts = half if kind == "split" else inputs
        branches = [self.branch(starts, size, stride, 0) for size in (half, outputs - half)]
        if not any(isinstance(item, Unit) for branch in branches for item in branch):
            branches[0].append(self.unit(half, half))
        split = draw(st.sampled_from(["chunk", "split", "slice"])) if kind == "split" else None
        return Parallel(branches, "concat", split, draw(ACTIVATIONS))

    def pointwise(self, inputs: int, outputs: int, stride: int) -> Unit:
        conv = nn.Conv2d(inputs, outputs, 1, stride, bias=self.draw(st.booleans()))
        return Unit(conv, nn.BatchNorm2d(outputs) if self.draw(st.booleans()) else None, None)

    def item(self, channels: int) -> tuple[nn.Module, int]:
        """An item of the main chain, and the number of channels after it."""
        kind = self.draw(st.sampled_from(["unit", "unit", "parallel", "parallel", "small"]))
        if kind == "small":
            return self.small(channels), channels
        outputs = self.draw(st.sampled_from([channels, channels, 2, 4, 6]))
        stride = self.draw(st.sampled_from([1, 1, 2]))
        if kind == "parallel":
            return self.parallel(channels, outputs, stride, 1), outputs
        return self.unit(channels, outputs, self.draw(st.sampled_from([stride, (2, 1)]))), outputs


@st.composite
def networks(draw: st.DrawFn, max_layers: int = 9, centred: bool | None = None) -> Drawn:
    """A network of a few layers and its inputs, in float64."""
    inputs = channels = draw(st.sampled_from([2, 4]))
    side_channels = draw(st.sampled_from([0, 0, 1, 2, 4]))
    build = Builder(draw, draw(st.booleans()) if centred is None else centred, side_channels)
    items: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        item, channels = build.item(channels)
        items.append(item)
    units = [m for item in items for m in item.modules() if isinstance(m, Unit)]
    assume(1 <= len(units) <= max_layers)
    if hasattr(items[-1], "activation"):
        items[-1].activation = None  # a final ReLU could leave nothing to compare
    has_side = any(isinstance(m, AddSide) for item in items for m in item.modules())
    seed = draw(st.integers(0, 10))
    model = randomized((SideNet if has_side else Net)(items), seed).double()
    shape = (2, inputs, draw(st.integers(18, 21)), draw(st.integers(18, 21)))
    values = [images(*shape, dtype=torch.float64)]
    if has_side:
        values.append(images(2, side_channels, 1, 1, seed=2, dtype=torch.float64))
    try:
        model(*values)
    except RuntimeError:  # a kernel does not fit into what is left of the image
        reject()
    return Drawn(model, tuple(values), build.is_centred)


@st.composite
def plans(draw: st.DrawFn, space: CandidateSpace) -> tuple[Plan, list[Candidate]]:
    """A plan out of candidates, and these."""
    chosen: list[Candidate] = []
    position = 0
    while position < space.network.num_layers:
        ends = sorted({c.end for c in space.candidates if c.start == position})
        end = draw(st.sampled_from(ends))
        options = [c for c in space.candidates if (c.start, c.end) == (position, end)]
        chosen.append(draw(st.sampled_from(options)))
        position = end
    return plan_of(space.network, chosen), chosen
