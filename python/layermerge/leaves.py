"""Which modules a recording keeps whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def is_leaf(module: nn.Module) -> bool:
    """Whether a module's call is one node: library modules, compiled ones, stochastic depth.

    A subclass of a library module that has no forward of its own is one, too. Stochastic depth does
    nothing in evaluation mode; kept as a module, it still acts in training.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return True
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return False
    return is_library(module) or _acts_in_training_alone(module)


def is_library(module: nn.Module) -> bool:
    """Whether a module does what a class of `torch.nn` does."""
    methods = [type(module).forward]
    if isinstance(module, nn.modules.conv._ConvNd):
        methods.append(type(module)._conv_forward)
    return all(method.__module__.startswith(("torch.nn.", "torch.ao.")) for method in methods)


def _acts_in_training_alone(module: nn.Module) -> bool:
    """Whether a module without weights or children asks whether it is in training."""
    if any(True for _ in module.children()) or module._parameters or module._buffers:
        return False
    code: Any = getattr(type(module).forward, "__code__", None)
    return code is not None and "training" in code.co_names
