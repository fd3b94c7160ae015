"""Say what each operation of a captured graph means for merging."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import fx, nn

from layermerge.activations import activation_of
from layermerge.arithmetic import Classified, classify_function
from layermerge.convolutions import window_of
from layermerge.dataflow import NONLINEAR, REMOVABLE, Kind, Operation
from layermerge.errors import InputError
from layermerge.gates import mark_gates
from layermerge.model_checks import how_to_remove
from layermerge.sampling import classify_pool, padding_operation
from layermerge.values import annotate, is_channels_last, operation, shape_of

_IDENTITY_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d)
_STOCHASTIC_DEPTH = ("DropPath", "StochasticDepth", "DropBlock2d", "DropBlock2D")
_STATISTIC_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)


def classify(captured: fx.GraphModule, remove: Collection[str] = ("activation",)) -> None:
    """Record the operation of every node, which `operation` returns; shapes must be recorded.

    Parameters
    ----------
    captured : torch.fx.GraphModule
    remove : collection of str
        What may be removed, of `layermerge.dataflow.REMOVABLE`.

    Raises
    ------
    InputError
        If `remove` names anything else.
    """
    kinds = removable_kinds(remove)
    nodes = captured.graph.nodes
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"}
    for node in captured.graph.nodes:
        if node.op in ("call_module", "call_function", "call_method"):
            annotate(node, *_classify_node(captured, node, calls))
            if operation(node).kind is Kind.LAYER and node.target in read:
                reason = f"a weight of {node.target} is used elsewhere, too"
                annotate(node, Operation(Kind.BARRIER, operation(node).name, reason))
    mark_gates(captured)
    for node in captured.graph.nodes:
        found = operation(node)
        if found.kind in NONLINEAR and found.kind not in kinds:
            word = next(word for word, kind in REMOVABLE.items() if kind is found.kind)
            reason = f"{found.name} at {node.name} stays (remove={word!r} lets it go)"
            annotate(node, Operation(Kind.BARRIER, found.name, reason, unlock=word))


def removable_kinds(remove: Collection[str]) -> frozenset[Kind]:
    """What the words of `remove` stand for."""
    is_one = isinstance(remove, str) or not isinstance(remove, Collection)
    words: tuple[Any, ...] = (remove,) if is_one else tuple(remove)
    for word in words:
        if word not in REMOVABLE:
            raise InputError(
                f"remove must name what may be removed, of {', '.join(REMOVABLE)}; got {word!r}"
            )
    return frozenset(REMOVABLE[word] for word in words)


def _classify_node(captured: fx.GraphModule, node: fx.Node, calls: Counter[Any]) -> Classified:
    reason = node.meta.get("opaque_reason")
    if reason:
        found = Operation(Kind.BARRIER, _name_of(captured, node), str(reason))
        return found, node.all_input_nodes
    if node.op == "call_module":
        module = captured.get_submodule(str(node.target))
        return _classify_module(node, module, calls[node.target]), node.all_input_nodes
    return classify_function(captured, node)


def _name_of(captured: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(captured.get_submodule(str(node.target))).__name__
    return str(node.target)


def _classify_module(node: fx.Node, module: nn.Module, calls: int) -> Operation:
    found = _classify_unhooked(node, module, calls)
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    if not hooks or found.kind is Kind.BARRIER:
        return found
    hook = getattr(hooks[0], "__qualname__", type(hooks[0]).__name__)
    how = how_to_remove(hooks[0]) or "take it off first, if it may go"
    reason = f"{node.target} has the forward hook {hook}: {how}"
    return Operation(Kind.BARRIER, found.name, reason)


def _classify_unhooked(node: fx.Node, module: nn.Module, calls: int) -> Operation:
    name = type(module).__name__
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        return _classify_layer(node, module, calls)
    if isinstance(module, nn.BatchNorm2d):
        reason = _why_no_norm(node, module)
        return Operation(Kind.BARRIER if reason else Kind.NORM, "batch_norm", reason)
    if activation := activation_of(module):
        return Operation(Kind.ACTIVATION, activation)
    if isinstance(module, _IDENTITY_MODULES) or name in _STOCHASTIC_DEPTH:
        return Operation(Kind.IDENTITY, name)
    if isinstance(module, _STATISTIC_NORMS) or name in ("LayerNorm2d", "GroupNorm1"):
        return _classify_statistic_norm(node, module, name)
    if isinstance(module, nn.AvgPool2d):
        settings = (module.kernel_size, module.stride, module.padding)
        plain = not module.divisor_override
        return classify_pool(node, *settings, is_plain=plain, ceil_mode=module.ceil_mode)
    if isinstance(module, nn.ZeroPad2d):
        left, right, top, bottom = module.padding
        return padding_operation((left, right, top, bottom))
    if isinstance(module, nn.ConvTranspose2d):
        return Operation(Kind.BARRIER, name, f"transposed convolution at {node.target}")
    if isinstance(module, torch.jit.ScriptModule):
        reason = f"{node.target} is a TorchScript module, which shows none of its convolutions"
        return Operation(Kind.BARRIER, name, reason)
    return Operation(Kind.BARRIER, name, f"{name} cannot be part of a convolution")


def _classify_layer(node: fx.Node, module: nn.Conv2d | nn.Linear, calls: int) -> Operation:
    name = "conv2d" if isinstance(module, nn.Conv2d) else "linear"
    reason = _why_no_layer(node, module, calls)
    if reason:
        kind = name if isinstance(module, nn.Conv2d) else type(module).__name__
        return Operation(Kind.BARRIER, kind, reason)
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    return Operation(Kind.LAYER, name, window=window_of(module), groups=groups)


def _why_no_layer(node: fx.Node, module: nn.Conv2d | nn.Linear, calls: int) -> str:
    kind = "convolution" if isinstance(module, nn.Conv2d) else "linear layer"
    if calls > 1:
        return f"{kind} {node.target} is called {calls} times"
    if isinstance(module, nn.Linear):
        if not is_channels_last(node):
            return f"linear layer {node.target} is not applied to the pixels of an image"
        if type(module).forward is not nn.Linear.forward:
            return f"{type(module).__name__} at {node.target} has a forward of its own"
        return ""
    if module.padding_mode != "zeros":
        return f"padding_mode={module.padding_mode} at {node.target}"
    if not _convolves_plainly(node, module):
        return f"{type(module).__name__} at {node.target} has a forward of its own"
    return ""


def _convolves_plainly(node: fx.Node, conv: nn.Conv2d) -> bool:
    """Whether it convolves as its settings say; weight standardisation derives only the weight."""
    if (
        type(conv).forward is nn.Conv2d.forward
        and type(conv)._conv_forward is nn.Conv2d._conv_forward
    ):
        return True
    if type(conv).__name__ not in ("StdConv2d", "ScaledStdConv2d"):
        return False
    source = node.all_input_nodes[0].meta["shape"]
    return window_of(conv).output_size(source[2:4]) == tuple(node.meta["shape"][2:4])


def _why_no_norm(node: fx.Node, norm: nn.BatchNorm2d) -> str:
    if norm.running_mean is None:
        return f"batch norm {node.target} has no running statistics"
    if type(norm).forward is not nn.BatchNorm2d.forward:
        return f"{type(norm).__name__} at {node.target} has a forward of its own"
    return ""


def _classify_statistic_norm(node: fx.Node, module: nn.Module, name: str) -> Operation:
    if shape_of(node) is None or len(node.all_input_nodes) != 1:
        return Operation(Kind.BARRIER, name, f"{name} is not applied to an image")
    if type(module) is nn.LayerNorm and not (
        is_channels_last(node.all_input_nodes[0]) and len(module.normalized_shape) == 1
    ):
        return Operation(Kind.BARRIER, name, f"{name} at {node.target} is not over the channels")
    return Operation(Kind.STATISTIC_NORM, name)
