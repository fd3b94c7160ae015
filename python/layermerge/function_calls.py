"""Write calls of torch functions to a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from layermerge.canonical import CASTS, Call, canonical, name_of
from layermerge.containers import UnrecordableError, map_tensors, tensors_in
from layermerge.graph_writer import GraphWriter
from layermerge.leaves import is_library
from layermerge.library_modules import WEIGHTED, arguments_of, convolution_with, library_module
from layermerge.tracked import (
    place_of_call,
    random_state,
    running_autograd_function,
    share_memory,
    version_of,
)

_READS = {"item", "tolist", "numpy", "is_nonzero", "equal", "allclose", "__array__"}
_READS |= {"__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__"}
_DROPOUTS = {"dropout": nn.Dropout, "dropout1d": nn.Dropout1d, "dropout2d": nn.Dropout2d}
_DROPOUTS |= {"dropout3d": nn.Dropout3d}


@dataclass(frozen=True)
class _Done:
    """A call that was made: its arguments, also as nodes, its result, and what it changed."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    nodes: tuple[tuple[Any, ...], dict[str, Any]]
    result: Any
    changed: list[Tensor]

    @property
    def name(self) -> str:
        return name_of(self.func)

    @property
    def input(self) -> fx.Node:
        node = self.nodes[0][0]
        assert isinstance(node, fx.Node)
        return node


def call_and_write(
    writer: GraphWriter, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call a torch function; write what it does with tensors that are not constant."""
    values = tensors_in((args, kwargs))
    is_traced = any(map(writer.tensors.is_known, values))
    # Before the call, which may change a constant that it is given.
    nodes = _nodes(writer, args, kwargs) if is_traced else ((), {})
    versions = [version_of(value) for value in values]
    random = random_state()
    result = func(*args, **kwargs)
    changed = [v for v, version in zip(values, versions, strict=True) if version_of(v) != version]
    if random_state() != random:
        for value in (*tensors_in(result), *changed):
            writer.tensors.randomise(value, f"{name_of(func)} at {place_of_call()}")
    elif is_traced:
        _check_read(writer, func, values)
        if isinstance(nodes, UnrecordableError):
            if changed or tensors_in(result):
                writer.spoil(str(nodes), result, changed)
        elif changed or tensors_in(result):
            _check_autograd(writer, result)
            return _write(writer, _Done(func, args, kwargs, nodes, result, changed))
    return result


def _nodes(writer: GraphWriter, args: Any, kwargs: Any) -> Any:
    """The arguments with nodes in place of tensors, or why there are none."""
    try:
        return map_tensors((args, kwargs), writer.node_of)
    except UnrecordableError as error:
        return error


def _check_read(writer: GraphWriter, func: Callable[..., Any], values: list[Tensor]) -> None:
    """Note that Python sees a value of a tensor, and can do with it what no graph knows."""
    name = name_of(func)
    if name in _READS and any(map(writer.tensors.varies, values)):
        writer.check_random(values)
        writer.spoil(f"{name.strip('_')}() reads a tensor at {place_of_call()}")


def _check_autograd(writer: GraphWriter, result: Any) -> None:
    """Leave a module whole that defines its own derivative, which no graph of operations has."""
    name = running_autograd_function()
    if name:
        writer.spoil(f"the torch.autograd.Function {name} defines its derivative", result)


def _write(writer: GraphWriter, call: _Done) -> Any:
    if call.changed:
        return _write_change(writer, call)
    if call.name in _DROPOUTS:
        return _write_dropout(writer, call)
    if any(call.result is value for value in tensors_in(call.args)):
        return call.result
    if call.name in CASTS and isinstance(call.result, Tensor):
        return _write_cast(writer, call)
    node = _weighted(writer, call) if call.name in WEIGHTED else None
    return writer.bind(call.result, node or writer.node(canonical(call.func, *call.nodes)))


def _write_change(writer: GraphWriter, call: _Done) -> Any:
    """Write the out-of-place twin of a change, and let the changed tensor be its value."""
    value, place = call.kwargs.get("out", call.args[0]), place_of_call()
    if not _is_all_that_changed(value, call.changed) or writer.tensors.is_attribute(value):
        what = writer.tensors.attribute(value) or "more than one tensor"
        return writer.spoil(f"{what} is changed in place at {place}", call.result, call.changed)
    node = writer.node(canonical(call.func, *call.nodes))
    writer.rebind(value, node, f"at {place}")
    return call.result


def _is_all_that_changed(value: Any, changed: list[Tensor]) -> bool:
    """Whether a tensor changed and, besides it, only others that show its memory."""
    return any(value is other for other in changed) and all(
        share_memory(value, other) for other in changed
    )


def _write_cast(writer: GraphWriter, call: _Done) -> Any:
    source, result = call.args[0], call.result
    if result.device != source.device:
        reason = f"a tensor moves to {result.device} at {place_of_call()}"
        return writer.spoil(reason, result)
    if result.dtype == source.dtype:
        return writer.bind(result, call.input)
    return writer.bind(result, writer.node(Call("call_method", "to", (call.input, result.dtype))))


def _write_dropout(writer: GraphWriter, call: _Done) -> Any:
    """Write dropout as a module, so that it drops in training mode."""
    path = writer.add_module("dropout", _DROPOUTS[call.name](call.kwargs["p"]).eval())
    with torch._C.DisableTorchFunction():
        result = call.args[0].view_as(call.args[0])
    return writer.bind(result, writer.node(Call("call_module", path, (call.input,))))


def _weighted(writer: GraphWriter, call: _Done) -> fx.Node | None:
    """Write a call on the parameters of a module as a call of that module, made plain."""
    given = arguments_of(call.name, call.args, call.kwargs)
    path, owner = _owner(writer, given["weight"])
    plain = library_module(owner, call.name, given)
    if plain is None and call.name.startswith("conv"):
        plain = _with_computed_weights(writer, given)
    if plain and path and _stands_for(writer, plain, path, owner):
        return writer.node(Call("call_module", path, (call.input,)))
    return None


def _owner(writer: GraphWriter, weight: Any) -> tuple[str, nn.Module]:
    """The library module that a weight is of, if there is one, else the running module."""
    path = str(writer.tensors.attribute(weight)).rpartition(".")[0]
    owner = writer.model.get_submodule(path)
    frame = writer.frames[-1]
    return (path, owner) if path and is_library(owner) else (frame.path, frame.module)


def _with_computed_weights(writer: GraphWriter, given: dict[str, Any]) -> nn.Module | None:
    """The convolution whose weights the running module computes out of its own, if it does so."""
    frame, weights = writer.frames[-1], [given["weight"], given.get("bias")]
    is_own = frame.module._parameters.get("weight") is not None
    if not is_own or writer.tensors.is_attribute(given["weight"]):
        return None
    if any(writer.tensors.varies(value) for value in weights if value is not None):
        writer.spoil(f"the weight of {frame.path} depends on the input")
        return None
    return convolution_with(frame.module, given)


def _stands_for(writer: GraphWriter, plain: nn.Module, path: str, owner: nn.Module) -> bool:
    """Whether a plain module may be called at a path: one only, whoever makes the call."""
    if is_library(owner):
        return type(plain) is type(owner) and repr(plain) == repr(owner)
    known = writer.recording.modules.setdefault(path, plain)
    return repr(known) == repr(plain) and _equal(known._parameters, plain._parameters)


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(
        value is other[name] or torch.equal(value, other[name]) for name, value in one.items()
    )
