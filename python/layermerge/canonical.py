"""One spelling for each operation that a recorded graph holds.

torch writes the same operation in many ways. A recorded graph has one:

==============================================  ===========================================
what the model wrote                            what the graph holds
==============================================  ===========================================
``x + y``, ``torch.add``, ``x.add_``, ``+=``    ``operator.add``; so sub, mul, truediv, neg,
                                                matmul, ... With ``alpha`` or ``rounding_mode``
                                                ``torch.add``, ``torch.div``
``x.relu()``, ``torch.relu``, ``F.relu_``       ``F.relu``; so every activation of
                                                `ACTIVATION_NAMES` but sigmoid and tanh
``x.sigmoid_()``, ``F.sigmoid``, ``x.tanh()``   ``torch.sigmoid``, ``torch.tanh``
``torch.concat``, ``torch.concatenate``         ``torch.cat(tensors, dim)``
``x.chunk``, ``x.split``, ``torch.unbind``      ``torch.chunk(x, chunks, dim)``,
                                                ``torch.split(x, sizes, dim)``, ``torch.unbind``,
                                                with an ``operator.getitem`` for each part
``x.mean([2, 3])``, ``x.sum(axis=1)``           ``torch.mean(x, dims, keepdim)``, ``torch.sum``
``x.view``, ``x.reshape``, ``x.view_as``        ``torch.reshape(x, shape)``
``x.permute(0, 2, 3, 1)``                       ``torch.permute(x, dims)``
``x.flatten(1)``, ``x.transpose(1, 2)``         ``torch.flatten(x, start, end)``, ...
``F.softmax``, ``x.softmax(1)``                 ``torch.softmax(x, dim)``
``F.pad(x, (1, 1), value=0)``                   ``F.pad(x, pad, mode, value)``
``F.avg_pool2d(x, 2)``                          ``F.avg_pool2d`` with all seven arguments
``x.float()``, ``x.type_as(y)``, ``x.to(...)``  ``x.to(dtype)``; nothing if that changes no value
``x.contiguous()``                              nothing
``x[:, 0] = y``, ``x.copy_(y)``, ``x.zero_()``  `assigned` ``(x, index, value)``
any other method with a twin in ``torch``       the twin; else the method
==============================================  ===========================================

Operations that work in place, or write to ``out``, become the twin that does not.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermerge.activations import ACTIVATION_NAMES


@dataclass(frozen=True)
class Call:
    """A node of a graph to be: ``"call_function"`` or ``"call_method"``, and of what."""

    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "subtract": operator.sub,
    "mul": operator.mul,
    "multiply": operator.mul,
    "div": operator.truediv,
    "divide": operator.truediv,
    "true_divide": operator.truediv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "pow": operator.pow,
    "matmul": operator.matmul,
    "neg": operator.neg,
    "negative": operator.neg,
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_not": operator.invert,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "getitem": operator.getitem,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "invert": operator.invert,
}
_REFLECTED = {"rsub": operator.sub, "rdiv": operator.truediv, "rpow": operator.pow}
_REFLECTED |= {"rtruediv": operator.truediv, "rmatmul": operator.matmul}
_REFLECTED |= {"rfloordiv": operator.floordiv, "rmod": operator.mod}
_ALIASES = {
    "concat": "cat",
    "concatenate": "cat",
    "view": "reshape",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "clip": "clamp",
}
_REQUIRED = object()
_PARAMETERS: dict[str, dict[str, Any]] = {
    "cat": {"tensors": _REQUIRED, "dim": 0},
    "stack": {"tensors": _REQUIRED, "dim": 0},
    "chunk": {"input": _REQUIRED, "chunks": _REQUIRED, "dim": 0},
    "split": {"tensor": _REQUIRED, "split_size_or_sections": _REQUIRED, "dim": 0},
    "unbind": {"input": _REQUIRED, "dim": 0},
    "flatten": {"input": _REQUIRED, "start_dim": 0, "end_dim": -1},
    "permute": {"input": _REQUIRED, "dims": _REQUIRED},
    "reshape": {"input": _REQUIRED, "shape": _REQUIRED},
    "transpose": {"input": _REQUIRED, "dim0": _REQUIRED, "dim1": _REQUIRED},
    "unsqueeze": {"input": _REQUIRED, "dim": _REQUIRED},
    "softmax": {"input": _REQUIRED, "dim": _REQUIRED},
    "mean": {"input": _REQUIRED, "dim": _REQUIRED, "keepdim": False},
    "sum": {"input": _REQUIRED, "dim": _REQUIRED, "keepdim": False},
    "pad": {"input": _REQUIRED, "pad": _REQUIRED, "mode": "constant", "value": None},
    "adaptive_avg_pool2d": {"input": _REQUIRED, "output_size": _REQUIRED},
    "avg_pool2d": {
        "input": _REQUIRED,
        "kernel_size": _REQUIRED,
        "stride": None,
        "padding": 0,
        "ceil_mode": False,
        "count_include_pad": True,
        "divisor_override": None,
    },
}
"""The arguments, in order, of operations that are always written with all of them."""

_KEYWORDS = {"axis": "dim", "keepdims": "keepdim", "split_size": "split_size_or_sections"}
_VARIADIC = frozenset({"permute", "reshape", "tile", "flip", "expand", "repeat", "new_zeros"})
_METHODS_OF_THEIR_OWN = frozenset({"where", "numpy", "set_", "expand", "repeat"})
_ASSIGNMENTS = {"copy_": None, "fill_": None, "zero_": 0}
CASTS = frozenset({"to", "type", "type_as", "float", "half", "double", "bfloat16", "cpu", "cuda"})
CASTS |= {"int", "long", "short", "bool", "char", "byte", "contiguous"}
"""What changes the type of a tensor's elements, or only where and how they are stored."""


def assigned(value: Tensor, index: Any, item: Any) -> Tensor:
    """A copy of `value` in which ``[index]`` is `item`."""
    result = value.clone()
    result[index] = item
    return result


def name_of(func: Callable[..., Any]) -> str:
    """The name under which torch announces a function, such as ``"add_"`` or ``"shape"``."""
    name = str(getattr(func, "__name__", func))
    if name in ("__get__", "__set__"):
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return name


def canonical(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Spell a call of a torch function or method, whose tensors are nodes by now."""
    raw = name_of(func)
    if raw in _ASSIGNMENTS or raw == "__setitem__":
        return _assignment(raw, args)
    if getattr(func, "__name__", "") == "__get__":
        return _attribute(raw, args)
    kwargs = _used_keywords(func, kwargs)
    name = raw.strip("_") if raw.startswith("__") else raw.removesuffix("_")
    name = _ALIASES.get(name, name)
    if name in _REFLECTED:
        return Call("call_function", _REFLECTED[name], (args[1], args[0]))
    if name in _OPERATORS and kwargs.keys() <= {"input", "other"}:
        return Call("call_function", _OPERATORS[name], (*args, *kwargs.values()))
    return _function(func, name, args, kwargs)


def _function(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Call:
    if name == "reshape" and isinstance((*args, *kwargs.values())[1], torch.dtype):
        return Call("call_method", "view", args, kwargs)
    if name in ("view_as", "reshape_as"):
        name, args = "reshape", (args[0], tuple(args[1].meta["shape"]))
    if name in _VARIADIC and all(isinstance(size, int) for size in args[1:]) and args[1:]:
        args = (args[0], tuple(args[1:]))
    args, kwargs = _in_order(name, args, kwargs)
    target = _target(func, name)
    return Call("call_method" if isinstance(target, str) else "call_function", target, args, kwargs)


def _target(func: Callable[..., Any], name: str) -> Any:
    """What does the same as `func`, out of place, as a function if there is one."""
    if name in ACTIVATION_NAMES and name not in ("sigmoid", "tanh"):
        return getattr(F, name)
    is_method = inspect.ismethoddescriptor(func) or getattr(func, "__module__", "") in (
        "torch._tensor",
        "torch._C.TensorBase",
    )
    twin = getattr(torch, name, None)
    if is_method:
        is_function = callable(twin) and not inspect.isclass(twin) and not inspect.ismodule(twin)
        return twin if is_function and name not in _METHODS_OF_THEIR_OWN else name
    if name != name_of(func) or name in ("softmax", "split"):
        return twin or getattr(F, name)
    return func


def _used_keywords(func: Callable[..., Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is the default, and what says where the result goes."""
    ignored = {"inplace", "out", "_stacklevel"}
    try:
        defaults = {n: p.default for n, p in inspect.signature(func).parameters.items()}
    except (TypeError, ValueError):
        defaults = {}
    return {
        _KEYWORDS.get(name, name): value
        for name, value in kwargs.items()
        if name not in ignored
        and not (name in defaults and value is defaults[name])
        and not (name == "dtype" and value is None)
    }


def _in_order(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Write all arguments by place, in the order of `_PARAMETERS`, if the operation is there."""
    parameters = _PARAMETERS.get(name, {})
    given = dict(zip(parameters, args, strict=False)) | kwargs
    if len(args) > len(parameters) or not given.keys() <= parameters.keys():
        return args, kwargs
    whole = {**parameters, **given}
    if any(value is _REQUIRED for value in whole.values()):
        return args, kwargs
    return tuple(
        tuple(value) if isinstance(value, list) and key != "tensors" else value
        for key, value in whole.items()
    ), {}


def _assignment(name: str, args: tuple[Any, ...]) -> Call:
    if name == "__setitem__":
        return Call("call_function", assigned, args)
    item = args[1] if len(args) > 1 else _ASSIGNMENTS[name]
    return Call("call_function", assigned, (args[0], ..., item))


def _attribute(name: str, args: tuple[Any, ...]) -> Call:
    if name == "data":
        return Call("call_method", "detach", args[:1])
    return Call("call_function", getattr, (args[0], name))
