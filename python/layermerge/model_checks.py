"""What a model must be before it can be traced, rewritten or merged."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from layermerge.errors import InputError


def check_model(model: nn.Module) -> None:
    """Refuse what is no plain module, has no usable weights yet, or is in training mode."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    _check_unwrapped(model)
    _check_weights(model)
    check_evaluation_mode(model)


def _check_unwrapped(model: nn.Module) -> None:
    """Refuse a wrapper, behind which there is no module to trace."""
    name = type(model).__name__
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
                f"the parameter {name!r} of the model holds NaN or infinite values: load weights "
                "of a training that did not diverge"
            )


def check_evaluation_mode(model: nn.Module) -> None:
    """Refuse batch norm and dropout in training mode: what they do is not fixed."""
    for name, module in model.named_modules():
        if not module.training:
            continue
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise InputError(
                f"batch norm {name!r} of the model is in training mode, in which it normalises by "
                "the batch and cannot be merged: call model.eval() first"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd):
            raise InputError(
                f"dropout {name!r} of the model is in training mode, in which its output is "
                "random: call model.eval() first"
            )
