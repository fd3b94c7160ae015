"""What a model must be before it can be traced, rewritten or merged."""

from __future__ import annotations

import keyword

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from layermerge.errors import InputError, UnsupportedModelError


def check_model(model: nn.Module) -> None:
    """Refuse what is no plain module, has no usable weights yet, or is in training mode."""
    check_unwrapped(model)
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    _check_names(model)
    _check_weights(model)
    check_evaluation_mode(model)


def check_unwrapped(model: object) -> None:
    """Refuse a wrapper, behind which there is no module to trace."""
    name = type(model).__name__
    if isinstance(model, torch.export.ExportedProgram) or _is_lowered(model):
        raise InputError(
            f"model is a program of torch.export ({name}), whose convolutions are functions and no "
            "modules, so that none can be replaced: give the torch.nn.Module that was exported, "
            "and export the merged network instead"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"model is a TorchScript module ({name}), which has no Python code to trace: give the "
            "torch.nn.Module that it was made of"
        )
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise InputError(f"model is wrapped in {name}: give the module inside, model.module")
    if hasattr(model, "_orig_mod"):
        raise InputError(
            "model was compiled by torch.compile: give the model before compiling, and compile "
            "the merged network instead"
        )


def _is_lowered(model: object) -> bool:
    """Whether a graph calls ATen's convolution, as that of ``ExportedProgram.module()`` does."""
    aten = torch.ops.aten
    return isinstance(model, fx.GraphModule) and any(
        node.target in (aten.conv2d.default, aten.convolution.default) for node in model.graph.nodes
    )


def why_not_copied(model: nn.Module) -> str:
    """Which hook keeps a computed weight in a module, and how to take it off; empty if none does.

    `copy.deepcopy` takes no tensor that gradients flow through.
    """
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if remover := how_to_remove(hook):
                return f"{name!r} computes its weight in the hook {type(hook).__name__}: {remover}"
    return ""


def how_to_remove(hook: object) -> str:
    """How to take off a hook of torch's that computes a weight; empty if it is another."""
    if isinstance(hook, BasePruningMethod):
        return f"torch.nn.utils.prune.remove(module, {hook._tensor_name!r}) leaves what it computes"
    remover = _REMOVERS.get(type(hook))
    return f"torch.nn.utils.{remover}(module) leaves what it computes" if remover else ""


_REMOVERS = {WeightNorm: "remove_weight_norm", SpectralNorm: "remove_spectral_norm"}


def _check_names(model: nn.Module) -> None:
    for path, _ in model.named_modules():
        if word := next((part for part in path.split(".") if keyword.iskeyword(part)), None):
            raise UnsupportedModelError(
                f"the module {path!r} is named {word!r}, a word of Python's, as no attribute in "
                "generated code can be: rename it"
            )


@torch.no_grad()  # the weights of inference mode can be read only
def _check_weights(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise InputError(
                f"{name!r} of the model is not initialised: run the model once on an example, so "
                "that its lazy modules take their shapes"
            )
    for name, weight in model.named_parameters():
        if not weight.is_meta and not torch.isfinite(weight).all():
            raise InputError(
                f"the parameter {name!r} of the model holds NaN or infinite values: {_ADVICE}"
            )
    for name, module in model.named_modules():
        if (bad := not_finite_statistics(module)) is not None:
            raise InputError(
                f"the batch norm {name!r} of the model holds NaN or infinite values in its {bad}: "
                f"{_ADVICE}"
            )


_ADVICE = "load weights of a training that did not diverge"


@torch.no_grad()
def not_finite_statistics(module: nn.Module) -> str | None:
    """Which statistics of a batch norm hold NaN or infinite values."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return None
    for name in ("running_mean", "running_var"):
        values = getattr(module, name)
        if values is not None and not values.is_meta and not torch.isfinite(values).all():
            return name
    return None


def check_evaluation_mode(model: nn.Module, whose: str = "the model") -> None:
    """Refuse batch norm and dropout in training mode: what they do is not fixed."""
    for name, module in model.named_modules():
        if not module.training:
            continue
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise InputError(
                f"batch norm {name!r} of {whose} is in training mode, in which it normalises by "
                "the batch: call model.eval() first"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd):
            raise InputError(
                f"dropout {name!r} of {whose} is in training mode, in which its output is "
                "random: call model.eval() first"
            )
