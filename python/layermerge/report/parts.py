"""What became of each layer: the parts of a step and their roles."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from layermerge.report.formats import count
from layermerge.results import Step


class Role(Enum):
    """What happens to a layer or a step; the value names it and its style."""

    FIXED = "fixed"
    UNCHANGED = "unchanged"
    MERGED = "merged"
    REMOVED = "removed"


@dataclass(frozen=True)
class Part:
    """One layer of the base network, or a fixed part.

    Attributes
    ----------
    description : str
        What it computed; empty if that is not recorded.
    latency_ns : float
        An equal share of its step's latency if its own is not recorded.
    """

    name: str
    role: Role
    description: str
    latency_ns: float


def step_role(step: Step) -> Role:
    """What happens to a step; `Role.REMOVED` if no convolution takes its place."""
    if step.is_barrier:
        return Role.FIXED
    if not step.kept:
        return Role.REMOVED
    return Role.UNCHANGED if step.names == step.kept and len(step.names) == 1 else Role.MERGED


def parts_of(step: Step) -> tuple[Part, ...]:
    """The layers of a step, in order."""
    role, number = step_role(step), len(step.names)
    if role in (Role.FIXED, Role.UNCHANGED):
        return (Part(step.names[0], role, step.description, step.before_ns),)
    descriptions = step.name_descriptions or ("",) * number
    latencies = step.name_ns or (step.before_ns / number,) * number
    return tuple(
        Part(name, role if name in step.kept else Role.REMOVED, description, latency_ns)
        for name, description, latency_ns in zip(step.names, descriptions, latencies, strict=True)
    )


def positions(step: Step) -> str:
    """Where a step lies on the axis."""
    return "fixed" if step.is_barrier else f"{step.start}..{step.end}"


def outcome(step: Step) -> str:
    """What became of a step, in words.

    Examples
    --------
    >>> outcome(Step(0, 3, ("a", "b", "c"), ("a", "c"), "5x5, 8 -> 8", 300, 100))
    '3 layers in one convolution, 1 removed'
    >>> outcome(Step(0, 2, ("a", "b"), (), "no convolution, 8 -> 8", 300, 0))
    '2 layers removed'
    """
    if step_role(step) is Role.REMOVED:
        return f"{count(len(step.names), 'layer')} removed"
    if step_role(step) is not Role.MERGED:
        return step_role(step).value
    removed = sum(part.role is Role.REMOVED for part in parts_of(step))
    rest = f", {removed} removed" if removed else ""
    return f"{count(len(step.names), 'layer')} in one convolution{rest}"
