"""Give a module that calls a library function on its own parameters the library's class.

A batch norm with an activation inside, or a convolution that pads by itself, then reads as the
plain layer it contains, with the same parameter objects under the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Arguments = dict[str, Any]

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_CONV_DEFAULTS: Arguments = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "conv1d": _CONV,
    "conv2d": _CONV,
    "conv3d": _CONV,
    "batch_norm": (
        *("input", "running_mean", "running_var", "weight", "bias"),
        *("training", "momentum", "eps"),
    ),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "linear": ("input", "weight", "bias"),
    "prelu": ("input", "weight"),
}
_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
WEIGHTED = frozenset(_PARAMETERS)
"""Names of the functions that a library module calls on its parameters."""


def arguments_of(name: str, args: tuple[Any, ...], kwargs: Arguments) -> Arguments:
    """Name the arguments of a call of the function `name` of `WEIGHTED`."""
    return dict(zip(_PARAMETERS[name], args, strict=False)) | kwargs


def library_module(owner: nn.Module, name: str, arguments: Arguments) -> nn.Module | None:
    """The plain module that makes this call, sharing the parameters of `owner`.

    Parameters
    ----------
    owner : torch.nn.Module
        Whose forward makes the call.
    name : str
        One of `WEIGHTED`.
    arguments : dict
        As `arguments_of` names them.

    Returns
    -------
    torch.nn.Module or None
        None if the call uses something else than `weight`, `bias` and the buffers of `owner`.
    """
    own: dict[str, Tensor | None] = {"weight": None, "bias": None, **owner._parameters}
    if name == "batch_norm":
        own |= {"running_mean": None, "running_var": None} | owner._buffers
    for key in ("weight", "bias", "running_mean", "running_var"):
        if key in _PARAMETERS[name] and arguments.get(key) is not own[key]:
            return None
    if own["weight"] is None and own.get("running_mean") is None:
        return None
    plain = _MAKERS[name](owner, arguments)
    if plain is not None:
        _adopt(plain, owner)
    return plain


def convolution_with(owner: nn.Module, arguments: Arguments) -> nn.Module:
    """The plain convolution that makes this call, with the weights of this call as parameters.

    For an owner that computes them out of its parameters, as weight standardisation does.

    Parameters
    ----------
    owner : torch.nn.Module
        Whose forward makes the call.
    arguments : dict
        As `arguments_of` names them. The weight is not None.
    """
    plain = _convolution(owner, arguments)
    assert plain is not None
    for name in plain._parameters:
        value = arguments.get(name)
        if value is not None and value is not owner._parameters.get(name):
            value = nn.Parameter(value.detach().clone())
        plain._parameters[name] = value
    return plain.train(owner.training)


def _adopt(plain: nn.Module, owner: nn.Module) -> None:
    """Let `plain` hold what `owner` holds: parameters, buffers, children and mode."""
    plain._parameters = dict.fromkeys(plain._parameters) | owner._parameters
    plain._buffers = dict.fromkeys(plain._buffers) | owner._buffers
    plain._non_persistent_buffers_set = set(owner._non_persistent_buffers_set)
    plain._modules = owner._modules
    plain.training = owner.training


def _convolution(owner: nn.Module, given: Arguments) -> nn.Module | None:
    given = _CONV_DEFAULTS | given
    weight: Tensor | None = given["weight"]
    if weight is None:
        return None
    return _CONVOLUTIONS[weight.dim()](
        weight.size(1) * given["groups"],
        weight.size(0),
        tuple(weight.shape[2:]),
        given["stride"],
        given["padding"],
        given["dilation"],
        given["groups"],
        bias=given["bias"] is not None,
        device="meta",
    )


def _batch_norm(owner: nn.Module, given: Arguments) -> nn.Module | None:
    mean = given["running_mean"]
    if mean is None or given.get("training"):
        return None
    affine = given.get("weight") is not None
    if affine != (given.get("bias") is not None):
        return None
    momentum = getattr(owner, "momentum", given.get("momentum", 0.1))
    cls = _BATCH_NORMS[given["input"].dim()]
    return cls(len(mean), given.get("eps", 1e-5), momentum, affine=affine, device="meta")


def _group_norm(owner: nn.Module, given: Arguments) -> nn.Module | None:
    affine = given.get("weight") is not None
    if affine != (given.get("bias") is not None):
        return None
    eps, channels = given.get("eps", 1e-5), given["input"].size(1)
    return nn.GroupNorm(given["num_groups"], channels, eps, affine=affine, device="meta")


def _layer_norm(owner: nn.Module, given: Arguments) -> nn.Module | None:
    shape, eps = tuple(given["normalized_shape"]), given.get("eps", 1e-5)
    affine, bias = given.get("weight") is not None, given.get("bias") is not None
    return nn.LayerNorm(shape, eps, elementwise_affine=affine, bias=bias, device="meta")


def _linear(owner: nn.Module, given: Arguments) -> nn.Module | None:
    weight: Tensor | None = given["weight"]
    if weight is None or weight.dim() != 2:
        return None
    bias = given.get("bias") is not None
    return nn.Linear(weight.size(1), weight.size(0), bias=bias, device="meta")


def _prelu(owner: nn.Module, given: Arguments) -> nn.Module | None:
    weight: Tensor | None = given["weight"]
    return None if weight is None else nn.PReLU(weight.numel(), device="meta")


_MAKERS: dict[str, Callable[[nn.Module, Arguments], nn.Module | None]] = {
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "prelu": _prelu,
}
