"""Which modules a recording keeps whole."""

from __future__ import annotations

from typing import Any

from torch import nn


def is_leaf(module: nn.Module) -> bool:
    """Whether a module's call is one node: library modules, and what acts in training alone.

    A subclass of a library module that has no forward of its own is one, too. Stochastic depth does
    nothing in evaluation mode; kept as a module, it still acts in training.
    """
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return False
    return _is_library(module) or _acts_in_training_alone(module)


def _is_library(module: nn.Module) -> bool:
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
