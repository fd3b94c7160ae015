"""Names of models to models: ``timm:NAME``, ``torchvision:NAME``, ``module:function``, a file."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from layermerge.errors import InputError, MissingDependencyError
from layermerge.graph import ExampleInputs

FORMS = (
    "timm:NAME, torchvision:NAME, diffusers:NAME, package.module:function or "
    "path/to/file.py:function"
)


def load_model(
    name: str, *, weights: str | Path | None = None, pretrained: bool = False
) -> nn.Module:
    """Make a model by its name, in evaluation mode.

    Parameters
    ----------
    name : str
        ``timm:NAME``, ``torchvision:NAME`` or ``diffusers:NAME`` from a library;
        ``package.module:function`` or ``path/to/file.py:function`` for your own, where the
        function (or class) takes no argument and returns a `torch.nn.Module`, alone or in a pair
        with example inputs (tensor, tuple or dict).
    weights : path, optional
        A safetensors file, or a state dict saved by torch (loaded without running code from it).
    pretrained : bool
        Download the library's weights. Without it and `weights`, weights are random.

    Raises
    ------
    InputError
        If there is no such model, or the weights do not fit.
    """
    return load_model_and_inputs(name, weights=weights, pretrained=pretrained)[0]


def load_model_and_inputs(
    name: str, *, weights: str | Path | None = None, pretrained: bool = False
) -> tuple[nn.Module, ExampleInputs | None]:
    """Make a model as `load_model` does; also return the example inputs that come with it."""
    source, _, entry = name.rpartition(":")
    if not source or not entry:
        raise InputError(f"model {name!r} is not of the form {FORMS}")
    inputs = None
    if source == "timm":
        model = _from_timm(entry, pretrained)
    elif source == "torchvision":
        model = _from_torchvision(entry, pretrained)
    elif source == "diffusers":
        model, inputs = _from_diffusers(entry, pretrained)
    elif pretrained:
        raise InputError(
            f"--pretrained is for timm:, torchvision: and diffusers: models, not for {name!r}"
        )
    else:
        model = call_by_name(name)
        if isinstance(model, tuple) and len(model) == 2:
            model, inputs = model
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} returned a {type(model).__name__}, expected a torch.nn.Module")
    if weights is not None:
        _load_weights(model, Path(weights))
    return model.eval(), inputs


def call_by_name(name: str) -> Any:
    """Call ``package.module:function`` or ``path/to/file.py:function`` without arguments."""
    source, _, entry = name.rpartition(":")
    module = _load_file(Path(source)) if source.endswith(".py") else _load_module(source)
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
        raise InputError(f"{name} failed: {_brief(error)}") from error


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"module {name!r} cannot be imported: {_brief(error)}. A model is named {FORMS}"
        ) from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"layermerge_file_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)  # a file may import its neighbours, as a script may
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(f"{path} cannot be run: {_brief(error)}") from error
    finally:
        sys.path.remove(folder)
    return module


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


def _from_diffusers(name: str, pretrained: bool) -> tuple[Any, ExampleInputs]:
    if name not in _UNETS:
        raise InputError(
            f"diffusers:{name} is not known{_suggestion(name, list(_UNETS))}; there is "
            f"{', '.join(_UNETS)}. Name others by a function of your own, FILE.py:FUNCTION"
        )
    unet = _library("diffusers", extra="diffusers").UNet2DModel
    config = _UNETS[name]
    inputs = {
        "sample": torch.randn(1, 3, config["sample_size"], config["sample_size"]),
        "timestep": torch.tensor([10]),
    }
    if pretrained:
        return _create(partial(unet.from_pretrained, f"google/{name}"), name), inputs
    return _create(partial(unet, **config), name), inputs


_UNETS: dict[str, dict[str, Any]] = {
    "ddpm-cifar10-32": {
        "sample_size": 32,
        "layers_per_block": 2,
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "downsample_padding": 0,
        "attention_head_dim": None,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    }
}
"""Configurations of `diffusers.UNet2DModel` by name, as published with the weights."""


def _library(name: str, *, extra: str = "models") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(name, extra) from error
    except Exception as error:
        raise InputError(
            f"{name} is installed but cannot be imported: {_brief(error)}. It may be built for "
            f"another torch than {torch.__version__}: install the two together"
        ) from error


def _create(create: Callable[[], Any], name: str) -> Any:
    try:
        return create()
    except Exception as error:
        raise InputError(f"{name} cannot be made: {_brief(error)}") from error


def _brief(error: BaseException) -> str:
    """An error of somebody else's code in one paragraph."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}{'...' if len(text) > 400 else ''}"


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
            f"{path} cannot be loaded into {type(model).__name__}: {_brief(error)}. Expected a "
            "safetensors file or a state dict of this very model"
        ) from error
