"""Say what each operation of a captured graph means for merging."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import fx, nn

from layermerge.errors import InputError


class Kind(Enum):
    """What a node means for merging."""

    LAYER = "layer"
    NORM = "norm"
    ACTIVATION = "activation"
    SUM = "sum"
    IDENTITY = "identity"
    BARRIER = "barrier"


@dataclass(frozen=True)
class Operation:
    """The kind of a node, its name in words and, for a barrier, why it is one."""

    kind: Kind
    name: str
    reason: str = ""


_ACTIVATION_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.GELU: "gelu",
    nn.LeakyReLU: "leaky_relu",
    nn.PReLU: "prelu",
    nn.ELU: "elu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.Mish: "mish",
}
_MODULES_OF_KIND = {kind: module for module, kind in _ACTIVATION_MODULES.items()}
ACTIVATION_NAMES = frozenset(_MODULES_OF_KIND)
_IDENTITY_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d)


def activation_module(kind: str) -> nn.Module:
    """A module that computes the activation named `kind`, such as ``"relu6"``."""
    if kind not in _MODULES_OF_KIND:
        known = ", ".join(sorted(_MODULES_OF_KIND))
        raise InputError(f"activation must be one of {known}; got {kind!r}")
    return _MODULES_OF_KIND[kind]()


def operation(node: fx.Node) -> Operation:
    """What a node of a captured graph means for merging."""
    found = node.meta.get("operation")
    return found if isinstance(found, Operation) else Operation(Kind.BARRIER, node.op)


def classify(captured: fx.GraphModule) -> None:
    """Record the operation of every node, which `operation` returns; shapes must be recorded."""
    calls = Counter(node.target for node in captured.graph.nodes if node.op == "call_module")
    for node in captured.graph.nodes:
        if node.op in ("call_module", "call_function", "call_method"):
            node.meta["operation"] = _classify_node(captured, node, calls)


def _classify_node(captured: fx.GraphModule, node: fx.Node, calls: Counter[Any]) -> Operation:
    if node.op == "call_module":
        return _classify_module(node, captured.get_submodule(str(node.target)), calls)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
    if name in ACTIVATION_NAMES and len(node.all_input_nodes) == 1:
        return Operation(Kind.ACTIVATION, name)
    if name == "add":
        return _classify_sum(node)
    return Operation(Kind.BARRIER, name, f"{name} is not affine with one input and one output")


def _classify_module(node: fx.Node, module: nn.Module, calls: Counter[Any]) -> Operation:
    found = _classify_unhooked(node, module, calls)
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    if not hooks or found.kind is Kind.BARRIER:
        return found
    hook = getattr(hooks[0], "__qualname__", type(hooks[0]).__name__)
    reason = f"{node.target} has the forward hook {hook}: take it off first, if it may go"
    return Operation(Kind.BARRIER, found.name, reason)


def _classify_unhooked(node: fx.Node, module: nn.Module, calls: Counter[Any]) -> Operation:
    name = type(module).__name__
    if isinstance(module, nn.Conv2d):
        reason = _why_no_layer(node, module, calls[node.target])
        return Operation(Kind.BARRIER if reason else Kind.LAYER, "conv2d", reason)
    if isinstance(module, nn.BatchNorm2d):
        reason = _why_no_norm(node, module)
        return Operation(Kind.BARRIER if reason else Kind.NORM, "batch_norm", reason)
    if type(module) in _ACTIVATION_MODULES:
        return Operation(Kind.ACTIVATION, _ACTIVATION_MODULES[type(module)])
    if isinstance(module, _IDENTITY_MODULES):
        return Operation(Kind.IDENTITY, name)
    return Operation(Kind.BARRIER, name, f"{name} cannot be part of a convolution")


def _why_no_layer(node: fx.Node, conv: nn.Conv2d, calls: int) -> str:
    if calls > 1:
        return f"convolution {node.target} is called {calls} times"
    if conv.padding_mode != "zeros":
        return f"padding_mode={conv.padding_mode} at {node.target}"
    overridden = (
        type(conv).forward is not nn.Conv2d.forward
        or type(conv)._conv_forward is not nn.Conv2d._conv_forward
    )
    if overridden:
        return f"{type(conv).__name__} at {node.target} has a forward of its own"
    return ""


def _why_no_norm(node: fx.Node, norm: nn.BatchNorm2d) -> str:
    if norm.running_mean is None:
        return f"batch norm {node.target} has no running statistics"
    if type(norm).forward is not nn.BatchNorm2d.forward:
        return f"{type(norm).__name__} at {node.target} has a forward of its own"
    return ""


def _classify_sum(node: fx.Node) -> Operation:
    terms = node.args
    is_plain = len(terms) == 2 and not node.kwargs and all(isinstance(t, fx.Node) for t in terms)
    shapes = [term.meta.get("shape") for term in terms if isinstance(term, fx.Node)]
    if is_plain and shapes[0] is not None and shapes[0] == shapes[1]:
        return Operation(Kind.SUM, "add")
    return Operation(Kind.BARRIER, "add", "addition of values of different shapes, or scaled")
