"""Capture a torch model as a data-flow graph, checked against the model."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from layermerge.activations import ACTIVATION_NAMES
from layermerge.errors import InputError, UnsupportedModelError
from layermerge.model_checks import check_model

ExampleInputs = Tensor | tuple[Any, ...] | Mapping[str, Any]


_IN_PLACE_OPERATORS: dict[Any, Any] = {operator.iadd: operator.add, operator.imul: operator.mul}
_IN_PLACE_METHODS = {f"{name}_": name for name in (*ACTIVATION_NAMES, "add", "mul", "clamp")}


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
    # An example of zeros would hide what a capture gets wrong.
    probe = {name: _noise_like(value) for name, value in arguments.items()}
    expected = _run(model, probe)
    captured = _trace(model, arguments)
    _make_out_of_place(captured)
    actual = _record_shapes(captured, probe)
    _check_capture(expected, actual)
    _check_batched(captured)
    return captured


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
        _check_tensors(example_inputs)
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
    arguments = dict(zip(parameters, values, strict=False))
    _check_tensors(arguments)
    return arguments


def _check_tensors(arguments: Mapping[str, Any]) -> None:
    """Refuse options among the inputs: a captured graph holds one choice of them."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"the example input {name!r} must be a tensor, got {type(value).__name__}: leave "
                "it out if it has a default, or wrap the model in a module that sets it"
            )


def _check_devices(model: nn.Module, arguments: Mapping[str, Any]) -> None:
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise InputError(
            f"the model is spread over the devices {names}: move it to one, model.to()"
        )
    if torch.device("meta") in devices:
        raise InputError(
            "the model is on the device meta, where it has no weights: load it on cpu or cuda"
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


def _noise_like(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    generator = torch.Generator().manual_seed(0)
    return torch.randn(value.shape, generator=generator).to(value)


class _Tracer(fx.Tracer):
    """Keeps subclasses of the modules that merging knows whole, wherever they are defined."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_known = isinstance(m, (nn.Conv2d, nn.BatchNorm2d))
        return is_known or super().is_leaf_module(m, module_qualified_name)


def _trace(model: nn.Module, arguments: Mapping[str, Any]) -> fx.GraphModule:
    """Trace symbolically; arguments that the example leaves out keep their defaults."""
    parameters = inspect.signature(model.forward).parameters
    defaults = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in arguments and parameter.default is not inspect.Parameter.empty
    }
    try:
        graph = _Tracer().trace(model, concrete_args=defaults or None)
    except Exception as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be traced: {_first_line(error)}. Control flow that "
            "depends on tensor values or shapes is the usual cause; move it out of forward, or "
            "trace the part of the model that has none"
        ) from error
    return fx.GraphModule(model, graph, type(model).__name__).eval()


def _make_out_of_place(captured: fx.GraphModule) -> None:
    for module in captured.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    for node in captured.graph.nodes:
        if node.op == "call_function":
            node.target = _IN_PLACE_OPERATORS.get(node.target, node.target)
            _name_inplace_flag(node)
        if node.op == "call_method":
            node.target = _IN_PLACE_METHODS.get(node.target, node.target)
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
    captured.recompile()


def _name_inplace_flag(node: fx.Node) -> None:
    """Turn F.relu(x, True) into F.relu(x, inplace=True)."""
    code = getattr(node.target, "__code__", None)
    names = code.co_varnames if code else ()
    if "inplace" in names and len(node.args) > (place := names.index("inplace")):
        node.kwargs = {**node.kwargs, "inplace": node.args[place]}
        node.args = node.args[:place]


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
    wanted, got = pytree.tree_leaves(expected), pytree.tree_leaves(actual)
    if len(wanted) != len(got) or not all(map(_agree, wanted, got)):
        raise UnsupportedModelError(
            "the traced model computes other values than the model: its forward depends on "
            "something that tracing freezes (random numbers, flags, or tensor values) or loses "
            "(a value that is changed in place and used again). Write that part without it"
        )


def _agree(wanted: Any, got: Any) -> bool:
    if not isinstance(wanted, Tensor):
        return True
    same_kind = isinstance(got, Tensor) and (wanted.shape, wanted.dtype) == (got.shape, got.dtype)
    if not same_kind or not wanted.is_floating_point():
        return same_kind and torch.equal(wanted, got)
    return torch.allclose(wanted, got, rtol=1e-4, atol=1e-5, equal_nan=True)


def _check_batched(captured: fx.GraphModule) -> None:
    """Refuse an image without a batch dimension, which torch takes but shapes are read off."""
    for node in captured.graph.nodes:
        if node.op == "call_module" and isinstance(
            captured.get_submodule(str(node.target)), nn.Conv2d
        ):
            shape = node.meta["shape"]
            if len(shape) != 4:
                raise InputError(
                    f"convolution {node.target} gives the shape {shape}, expected (batch, "
                    "channels, height, width): give example_inputs with a batch dimension, as "
                    "image[None] has"
                )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
