"""Find gates: values that are multiplied by something computed of themselves.

``x * sigmoid(x)`` is an activation in two operations. ``x * g`` with g the same for all pixels, or
for all channels, is a gate such as squeeze-excite. What computes g and serves nothing else belongs
to the gate, goes with it, and holds no layers.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import fx

from layermerge.dataflow import Kind, Operation
from layermerge.values import annotate, operation, shape_of

_SELF_GATED = {"sigmoid": "silu", "hardsigmoid": "hardswish"}
_ELEMENTWISE = (Kind.ACTIVATION, Kind.NORM, Kind.IDENTITY)


def mark_gates(captured: fx.GraphModule) -> None:
    """Reclassify the products that are gates or activations, and what they are computed with."""
    for node in captured.graph.nodes:
        if _multiplies(node) and operation(node).kind is Kind.BARRIER:
            for value, factor in (node.args, node.args[::-1]):
                if _mark(node, value, factor):
                    break


def _multiplies(node: fx.Node) -> bool:
    return (
        node.op == "call_function"
        and node.target in (operator.mul, torch.mul)
        and len(node.args) == 2
        and all(isinstance(arg, fx.Node) for arg in node.args)
    )


def _mark(node: fx.Node, value: fx.Node, factor: fx.Node) -> bool:
    shape, smaller = shape_of(value), shape_of(factor)
    if shape is None or smaller is None or shape != shape_of(node):
        return False
    parts = _private(node, value, factor)
    if smaller == shape:
        return _mark_activation(node, value, parts)
    if not parts:
        return False
    _annotate(node, value, Operation(Kind.GATE, "gate"), parts)
    return True


def _mark_activation(node: fx.Node, value: fx.Node, parts: list[fx.Node]) -> bool:
    inside = {value, *parts}
    is_pointwise = all(
        operation(part).kind in _ELEMENTWISE and set(part.all_input_nodes) <= inside
        for part in parts
    )
    if not parts or not is_pointwise:
        return False
    name = _SELF_GATED.get(operation(parts[0]).name, "silu") if len(parts) == 1 else "hardswish"
    _annotate(node, value, Operation(Kind.ACTIVATION, name), parts)
    return True


def _annotate(node: fx.Node, value: fx.Node, found: Operation, parts: Collection[fx.Node]) -> None:
    annotate(node, found, [value])
    node.meta["parts"] = list(parts)
    for part in parts:
        was = operation(part)
        annotate(part, replace(was, kind=Kind.PART, reason=f"part of the gate {node.name}"))


def parts_of(node: fx.Node) -> list[fx.Node]:
    """What a gate is computed with, and nothing else."""
    parts: list[fx.Node] = node.meta.get("parts", [])
    return parts


def _private(node: fx.Node, value: fx.Node, factor: fx.Node) -> list[fx.Node]:
    """What serves the factor alone, in no order; empty if that takes no part of `value`."""
    found: dict[fx.Node, None] = {}
    stack = [factor]
    starts_at_value = False
    while stack:
        part = stack.pop()
        starts_at_value |= part is value
        outside = part is value or not part.op.startswith("call_")
        if outside or any(user is not node and user not in found for user in part.users):
            continue
        found[part] = None
        stack.extend(part.all_input_nodes)
    return list(found) if starts_at_value else []
