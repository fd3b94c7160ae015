"""Names of models to models: ``timm:NAME``, ``torchvision:NAME``, ``module:function``, a file."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from layermerge.errors import InputError, MissingDependencyError
from layermerge.source_files import brief, load_file

FORMS = "timm:NAME, torchvision:NAME, package.module:function or path/to/file.py:function"


def load_model(
    name: str, *, weights: str | Path | None = None, pretrained: bool = False
) -> nn.Module:
    """Make a model by its name, in evaluation mode.

    Parameters
    ----------
    name : str
        ``timm:NAME`` or ``torchvision:NAME`` from a library; ``package.module:function`` or
        ``path/to/file.py:function`` for your own, where the function (or class) takes no argument
        and returns a `torch.nn.Module`.
    weights : path, optional
        A safetensors file, or a state dict saved by torch (loaded without running code from it).
    pretrained : bool
        Download the library's weights. Without it and `weights`, weights are random.

    Raises
    ------
    InputError
        If there is no such model, or the weights do not fit.
    """
    source, _, entry = name.rpartition(":")
    if not source or not entry:
        raise InputError(f"model {name!r} is not of the form {FORMS}")
    if source == "timm":
        model = _from_timm(entry, pretrained)
    elif source == "torchvision":
        model = _from_torchvision(entry, pretrained)
    elif pretrained:
        raise InputError(f"--pretrained is for timm: and torchvision: models, not for {name!r}")
    else:
        model = call_by_name(name)
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} returned a {type(model).__name__}, expected a torch.nn.Module")
    if weights is not None:
        _load_weights(model, Path(weights))
    return model.eval()


def call_by_name(name: str) -> Any:
    """Call ``package.module:function`` or ``path/to/file.py:function`` without arguments."""
    source, _, entry = name.rpartition(":")
    module = load_file(Path(source)) if source.endswith(".py") else _load_module(source)
    function = getattr(module, entry, None)
    if not callable(function):
        public = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise InputError(f"{source} has no function {entry!r}{_suggestion(entry, public)}")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise InputError(
            f"{name} cannot be called without arguments ({error}): wrap it in a function that can"
        ) from error
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise InputError(f"{name} failed: {brief(error)}") from error


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"module {name!r} cannot be imported: {brief(error)}. A model is named {FORMS}"
        ) from error


def _from_timm(name: str, pretrained: bool) -> Any:
    timm = _library("timm")
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise InputError(f"timm has no model {name!r}{_suggestion(name, known)}")
    return _create(lambda: timm.create_model(name, pretrained=pretrained), name)


def _from_torchvision(name: str, pretrained: bool) -> Any:
    models = _library("torchvision").models
    known = models.list_models()
    if name not in known:
        raise InputError(f"torchvision has no model {name!r}{_suggestion(name, known)}")
    weights = "DEFAULT" if pretrained else None
    return _create(lambda: models.get_model(name, weights=weights), name)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(name, "models") from error
    except Exception as error:
        raise InputError(
            f"{name} is installed but cannot be imported: {brief(error)}. It may be built for "
            f"another torch than {torch.__version__}: install the two together"
        ) from error


def _create(create: Callable[[], Any], name: str) -> Any:
    try:
        return create()
    except Exception as error:
        raise InputError(f"{name} cannot be made: {brief(error)}") from error


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {', '.join(close)}?" if close else ""


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except Exception as error:
        raise InputError(
            f"{path} cannot be loaded into {type(model).__name__}: {brief(error)}. Expected a "
            "safetensors file or a state dict of this very model"
        ) from error
