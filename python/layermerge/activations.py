"""Activations by name: how modules and functions spell them, and a module for each."""

from __future__ import annotations

from torch import nn

from layermerge.errors import InputError

_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "hardtanh": nn.Hardtanh,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
}
ACTIVATION_NAMES = frozenset(_MODULES)

_NAMES = {module: name for name, module in _MODULES.items()}
_OTHER_CLASSES = {
    "Swish": "silu",
    "SiLUActivation": "silu",
    "Mish": "mish",
    "MishMe": "mish",
    "SwishMe": "silu",
    "HardSwish": "hardswish",
    "HardSwishMe": "hardswish",
    "HardSigmoid": "hardsigmoid",
    "HardMish": "mish",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "PReLU": "prelu",
    "GELU": "gelu",
    "GELUTanh": "gelu",
    "QuickGELU": "gelu",
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu",
}
"""Classes of other libraries, by the activation that costs as much."""


def activation_of(module: nn.Module) -> str:
    """Name of the activation that a module computes, or nothing."""
    return _NAMES.get(type(module)) or _OTHER_CLASSES.get(type(module).__name__, "")


def activation_module(name: str) -> nn.Module:
    """A module that computes the activation named so, such as ``"relu6"``."""
    if name not in _MODULES:
        known = ", ".join(sorted(_MODULES))
        raise InputError(f"activation must be one of {known}; got {name!r}")
    return _MODULES[name]()
