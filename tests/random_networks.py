"""Random chains and residual blocks, random plans, and what a plan means, computed naively."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import reject
from hypothesis import strategies as st
from torch import Tensor, nn

from layermerge.candidates import Candidate
from layermerge.enumeration import enumerate_candidates
from layermerge.network import Network
from layermerge.plan import Plan, PlannedSegment
from networks import randomized

MARGIN = 96  # a multiple of every stride product, wider than what convolutions reach


class Unit(nn.Module):
    """A convolution, perhaps with a norm and an activation."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module | None, activation: nn.Module | None):
        super().__init__()
        self.conv, self.norm, self.activation = conv, norm, activation

    def linear(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return x if self.activation is None else self.activation(x)


class Fork(nn.Module):
    """branch(x) + shortcut(x), perhaps with an activation."""

    def __init__(self, branch: list, shortcut: Unit | None, activation: nn.Module | None):
        super().__init__()
        self.branch, self.shortcut, self.activation = nn.Sequential(*branch), shortcut, activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.branch(x) + (x if self.shortcut is None else self.shortcut(x))
        return x if self.activation is None else self.activation(x)


ACTIVATIONS = st.sampled_from([None, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.LeakyReLU]).map(
    lambda kind: kind and kind()
)


@st.composite
def units(draw, inputs: int, *, preserving: bool, activation: bool = True) -> Unit:
    """A convolution; a preserving one changes neither channels nor size."""
    outputs = inputs if preserving else draw(st.sampled_from([2, 4, 6]))
    common = [groups for groups in (1, 2, inputs) if inputs % groups == outputs % groups == 0]
    kernel = (draw(st.integers(1, 7)), draw(st.sampled_from([1, 3, 4])))
    kernel = draw(st.sampled_from([kernel, kernel[:1] * 2, (1, 1), (3, 3), (3, 3)]))
    dilation = draw(st.sampled_from([1, 1, 1, 2])) if max(kernel) <= 3 else 1
    growth = [dilation * (taps - 1) for taps in kernel]
    centred = tuple(pixels // 2 for pixels in growth)
    stride = 1
    if any(pixels % 2 for pixels in growth) and preserving:
        padding = "same"
    elif preserving:
        padding = draw(st.sampled_from([centred, "same"]))
    else:
        padding = draw(st.sampled_from([0, centred, centred, kernel, "same"]))
        stride = 1 if padding == "same" else draw(st.sampled_from([1, 1, 2, (2, 1)]))
    conv = nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride,
        padding,
        dilation,
        draw(st.sampled_from(common)),
        bias=draw(st.booleans()),
    )
    norm = nn.BatchNorm2d(outputs) if draw(st.booleans()) else None
    return Unit(conv, norm, draw(ACTIVATIONS) if activation else None)


@st.composite
def forks(draw, channels: int, depth: int = 1) -> Fork:
    """A residual block with an identity or 1x1 shortcut, perhaps strided, perhaps nested."""
    branch: list[nn.Module] = []
    outputs, stride = channels, 1
    if draw(st.booleans()):
        outputs, stride = draw(st.sampled_from([2, 4, 6])), draw(st.sampled_from([1, 2]))
        bias = draw(st.booleans())
        conv = nn.Conv2d(channels, outputs, 3, stride, padding=1, bias=bias)
        branch.append(Unit(conv, nn.BatchNorm2d(outputs), draw(ACTIVATIONS)))
    if depth and draw(st.booleans()):
        branch.append(draw(forks(outputs, depth - 1)))
        outputs = channels_after(branch, channels)
        stride *= 2 if has_stride(branch[-1]) else 1
    for _ in range(draw(st.integers(0, 2))):
        branch.append(draw(units(outputs, preserving=True)))
    branch.append(draw(units(outputs, preserving=True, activation=False)))
    changes = outputs != channels or stride > 1
    shortcut = None
    if changes or draw(st.integers(0, 3)) == 0:
        conv = nn.Conv2d(channels, outputs, 1, stride, bias=draw(st.booleans()))
        shortcut = Unit(conv, nn.BatchNorm2d(outputs) if draw(st.booleans()) else None, None)
    return Fork(branch, shortcut, draw(ACTIVATIONS))


def has_stride(fork: Fork) -> bool:
    return fork.shortcut is not None and fork.shortcut.conv.stride != (1, 1)


def channels_after(items: list, channels: int) -> int:
    for module in items:
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                channels = part.out_channels
    return channels


@st.composite
def networks(draw) -> tuple[nn.Sequential, tuple[int, ...]]:
    """A network with at most 8 layers or so, and the shape of its input."""
    inputs = channels = draw(st.sampled_from([2, 4]))
    items: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            items.append(draw(forks(channels)))
        else:
            items.append(draw(units(channels, preserving=draw(st.booleans()))))
        channels = channels_after(items[-1:], channels)
    items[-1].activation = None  # a final ReLU could leave nothing to compare
    size = (draw(st.integers(20, 24)), draw(st.integers(20, 24)))
    model = randomized(nn.Sequential(*items), draw(st.integers(0, 10)))
    shape = (2, inputs, *size)
    try:
        model(torch.zeros(shape))
    except RuntimeError:  # a kernel does not fit into what is left of the image
        reject()
    return model, shape


@st.composite
def plans(draw, network: Network) -> tuple[Plan, dict[tuple[int, int], Candidate]]:
    """A plan, and for the segments that follow a candidate, which one."""
    offered = enumerate_candidates(network).candidates
    chosen, segments, position = {}, [], 0
    while position < network.num_layers:
        ends = [segment.end for segment in network.segments if segment.start == position]
        end = draw(st.sampled_from(ends))
        options = [c for c in offered if (c.start, c.end) == (position, end)]
        if draw(st.booleans()):
            candidate = draw(st.sampled_from(options))
            chosen[position, end] = candidate
            kept = candidate.kept
        else:
            layers = network.layers[position:end]
            kept = tuple(
                layer.index for layer in layers if layer.is_irreducible or draw(st.booleans())
            ) or (draw(st.sampled_from(layers)).index,)
        segments.append(PlannedSegment(position, end, (1, 1), kept))
        position = end
    plan = Plan(network.fingerprint, network.num_layers, network.inputs, tuple(segments))
    return plan, chosen


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
        return self.plane[:, :, top : top + height, left : left + width]

    def __add__(self, other: Canvas) -> Canvas:
        assert (self.origin, self.size) == (other.origin, other.size)
        return Canvas(self.plane + other.plane, self.origin, self.size)


def evaluate(items: nn.Sequential, plan: Plan, x: Tensor) -> Tensor:
    """What `plan` makes of a network.

    Each segment runs on a plane so wide that its own padding does not matter, and what lies
    outside the image is cut off at the segment's end only.
    """
    return _Evaluation(items, plan).run(items, x)


class _Evaluation:
    def __init__(self, items: nn.Sequential, plan: Plan) -> None:
        convs = [module for module in items.modules() if isinstance(module, nn.Conv2d)]
        self.index = {conv: place for place, conv in enumerate(convs, start=1)}
        self.plan = plan
        self.kept = {conv for conv in convs if self.index[conv] in plan.convolutions}

    def run(self, items: nn.Sequential, x: Tensor) -> Tensor:
        value: Tensor | Canvas = x
        for item in items:
            layers = self.layers(item)
            segment = self.covering(min(layers), max(layers))
            if segment is None:
                branch = self.run(item.branch, value)
                other = value if item.shortcut is None else self.run([item.shortcut], value)
                value = branch + other
            else:
                value = self.linear(item, value if isinstance(value, Canvas) else Canvas.of(value))
                if segment.end != max(layers):
                    continue
                value = value.value()
            value = value if item.activation is None else item.activation(value)
        return value

    def linear(self, item: nn.Module, canvas: Canvas) -> Canvas:
        if isinstance(item, Unit):
            return self.convolved(item, canvas) if item.conv in self.kept else canvas
        terms = []
        if self.keeps_any(item.branch):
            branch = canvas
            for part in item.branch:
                branch = self.linear(part, branch)
            terms.append(branch)
        if item.shortcut is None:
            terms.append(canvas)
        elif item.shortcut.conv in self.kept:
            terms.append(self.convolved(item.shortcut, canvas))
        return sum(terms[1:], terms[0]) if terms else canvas

    def convolved(self, unit: Unit, canvas: Canvas) -> Canvas:
        with_padding = unit.conv(torch.zeros(1, unit.conv.in_channels, *canvas.size).double())
        stride = unit.conv.stride
        origin = (canvas.origin[0] // stride[0], canvas.origin[1] // stride[1])
        return Canvas(unit.linear(canvas.plane), origin, tuple(with_padding.shape[2:]))

    def layers(self, item: nn.Module) -> list[int]:
        return [self.index[conv] for conv in item.modules() if conv in self.index]

    def keeps_any(self, item: nn.Module) -> bool:
        return any(conv in self.kept for conv in item.modules())

    def covering(self, first: int, last: int) -> PlannedSegment | None:
        for segment in self.plan.segments:
            if segment.start < first and last <= segment.end:
                return segment
        return None
