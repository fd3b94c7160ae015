"""Capture a torch model as a data-flow graph and say what each node computes."""

from __future__ import annotations

import copy
import inspect
import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from layermerge.errors import InputError, UnsupportedModelError

ExampleInputs = Tensor | tuple[Any, ...] | Mapping[str, Any]


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
_ACTIVATION_NAMES = frozenset(_MODULES_OF_KIND)
_IDENTITY_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d)
_IN_PLACE_OPERATORS: dict[Any, Any] = {operator.iadd: operator.add, operator.imul: operator.mul}
_IN_PLACE_METHODS = {f"{name}_": name for name in (*_ACTIVATION_NAMES, "add", "mul", "clamp")}


def activation_module(kind: str) -> nn.Module:
    """A module that computes the activation named `kind`, such as ``"relu6"``."""
    if kind not in _MODULES_OF_KIND:
        known = ", ".join(sorted(_MODULES_OF_KIND))
        raise InputError(f"activation must be one of {known}; got {kind!r}")
    return _MODULES_OF_KIND[kind]()


def capture(model: nn.Module, example_inputs: ExampleInputs) -> fx.GraphModule:
    """Capture a copy of `model` as a graph whose leaves are its own modules.

    Operations that work in place become their out-of-place twins, so that any of them can be
    removed. Each node's ``meta["shape"]`` is the shape it has on the example.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode. Left as it is.
    example_inputs : tensor, tuple or dict
        What `model` is called with, on the model's device.

    Returns
    -------
    torch.fx.GraphModule
        With the same parameter names as `model`.

    Raises
    ------
    InputError
        If the model is no module or in training mode, or does not run on the example.
    UnsupportedModelError
        If the model cannot be captured, or the capture computes something else.
    """
    check_model(model)
    arguments = bind_inputs(model, example_inputs)
    _check_devices(model, arguments)
    model = copy.deepcopy(model)
    expected = _run(model, arguments)
    captured = _trace(model, arguments)
    _make_out_of_place(captured)
    actual = _record_shapes(captured, arguments)
    _check_capture(expected, actual)
    _classify(captured)
    return captured


def operation(node: fx.Node) -> Operation:
    """What a node of a captured graph means for merging."""
    found = node.meta.get("operation")
    return found if isinstance(found, Operation) else Operation(Kind.BARRIER, node.op)


def bind_inputs(model: nn.Module, example_inputs: ExampleInputs) -> dict[str, Any]:
    """Name each example input by the forward argument that receives it."""
    parameters = inspect.signature(model.forward).parameters
    if isinstance(example_inputs, Mapping):
        unknown = [name for name in example_inputs if name not in parameters]
        if unknown:
            raise InputError(
                f"example_inputs has {unknown[0]!r}, which forward of {type(model).__name__} does "
                f"not take; it takes {', '.join(parameters)}"
            )
        return dict(example_inputs)
    values = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if not any(isinstance(value, Tensor) for value in values):
        raise InputError(
            "example_inputs must be a tensor, a tuple or a dict with at least one tensor; got "
            f"{type(example_inputs).__name__}"
        )
    if len(values) > len(parameters):
        raise InputError(
            f"example_inputs has {len(values)} values, but forward of {type(model).__name__} takes "
            f"{len(parameters)}: {', '.join(parameters)}"
        )
    return dict(zip(parameters, values, strict=False))


def _classify(captured: fx.GraphModule) -> None:
    calls = Counter(node.target for node in captured.graph.nodes if node.op == "call_module")
    for node in captured.graph.nodes:
        if node.op in ("call_module", "call_function", "call_method"):
            node.meta["operation"] = _classify_node(captured, node, calls)


def _classify_node(captured: fx.GraphModule, node: fx.Node, calls: Counter[Any]) -> Operation:
    if node.op == "call_module":
        return _classify_module(node, captured.get_submodule(str(node.target)), calls)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
    if name in _ACTIVATION_NAMES and len(node.all_input_nodes) == 1:
        return Operation(Kind.ACTIVATION, name)
    if name == "add":
        return _classify_sum(node)
    return Operation(Kind.BARRIER, name, f"{name} is not affine with one input and one output")


def _classify_module(node: fx.Node, module: nn.Module, calls: Counter[Any]) -> Operation:
    name = type(module).__name__
    if isinstance(module, nn.Conv2d):
        reason = _why_no_layer(node, module, calls[node.target])
        return Operation(Kind.BARRIER if reason else Kind.LAYER, "conv2d", reason)
    if isinstance(module, nn.BatchNorm2d):
        if module.running_mean is None:
            return Operation(Kind.BARRIER, name, "batch norm without running statistics")
        return Operation(Kind.NORM, "batch_norm")
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


def _classify_sum(node: fx.Node) -> Operation:
    terms = node.args
    is_plain = len(terms) == 2 and not node.kwargs and all(isinstance(t, fx.Node) for t in terms)
    shapes = [term.meta.get("shape") for term in terms if isinstance(term, fx.Node)]
    if is_plain and shapes[0] == shapes[1]:
        return Operation(Kind.SUM, "add")
    return Operation(Kind.BARRIER, "add", "addition of values of different shapes, or scaled")


def check_model(model: nn.Module) -> None:
    """Refuse what is no module, or a module in training mode."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    check_evaluation_mode(model)


def check_evaluation_mode(model: nn.Module) -> None:
    """Refuse a model with batch norm in training mode: its output depends on the batch."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise InputError(
                f"batch norm {name!r} of the model is in training mode, in which it normalises by "
                "the batch and cannot be merged: call model.eval() first"
            )


def _check_devices(model: nn.Module, arguments: Mapping[str, Any]) -> None:
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise InputError(
            f"the model is spread over the devices {names}: move it to one, model.to()"
        )
    for name, value in arguments.items():
        if isinstance(value, Tensor) and devices and value.device not in devices:
            (device,) = devices
            raise InputError(
                f"the model is on {device}, the example input {name!r} on {value.device}: move one "
                f"to the other's device, for example {name}.to({str(device)!r})"
            )


def _run(model: nn.Module, arguments: Mapping[str, Any]) -> Any:
    try:
        with torch.no_grad():
            return model(**arguments)
    except Exception as error:
        shapes = ", ".join(
            f"{name} {tuple(value.shape)} {value.dtype}"
            for name, value in arguments.items()
            if isinstance(value, Tensor)
        )
        raise InputError(
            f"{type(model).__name__} does not run on the example inputs ({shapes}): "
            f"{_first_line(error)}. Give example_inputs of the shape and dtype it is used with"
        ) from error


def _trace(model: nn.Module, arguments: Mapping[str, Any]) -> fx.GraphModule:
    """Trace symbolically; arguments that the example leaves out keep their defaults."""
    parameters = inspect.signature(model.forward).parameters
    defaults = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in arguments and parameter.default is not inspect.Parameter.empty
    }
    try:
        graph = fx.Tracer().trace(model, concrete_args=defaults or None)
    except Exception as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be traced: {_first_line(error)}. Control flow that "
            "depends on tensor values or shapes is the usual cause; move it out of forward, or "
            "trace the part of the model that has none"
        ) from error
    return fx.GraphModule(model, graph, type(model).__name__)


def _make_out_of_place(captured: fx.GraphModule) -> None:
    for module in captured.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    for node in captured.graph.nodes:
        if node.op == "call_function":
            node.target = _IN_PLACE_OPERATORS.get(node.target, node.target)
        if node.op == "call_method":
            node.target = _IN_PLACE_METHODS.get(node.target, node.target)
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
    captured.recompile()


class _ShapeRecorder(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result


def _record_shapes(captured: fx.GraphModule, arguments: Mapping[str, Any]) -> Any:
    with torch.no_grad():
        return _ShapeRecorder(captured).run(*graph_arguments(captured, arguments))


def graph_arguments(captured: fx.GraphModule, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    """Order named inputs as the placeholders of a captured graph expect them."""
    return tuple(
        arguments[node.target] if node.target in arguments else next(iter(node.args), None)
        for node in captured.graph.nodes
        if node.op == "placeholder"
    )


def _check_capture(expected: Any, actual: Any) -> None:
    """Refuse a capture that computes something else, as baked-in control flow can make it."""
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(actual), strict=True)
    for wanted, got in pairs:
        if isinstance(wanted, Tensor) and not torch.allclose(wanted, got, rtol=1e-4, atol=1e-5):
            raise UnsupportedModelError(
                "the traced model computes other values than the model: its forward depends on "
                "something that tracing freezes (random numbers, flags, or tensor values)"
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
