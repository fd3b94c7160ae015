"""Names of models to models: ``timm:NAME``, ``torchvision:NAME``, ``module:function``, a file."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pickle
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from layermerge.arguments import as_path
from layermerge.errors import InputError, MissingDependencyError
from layermerge.graph import ExampleInputs
from layermerge.model_checks import check_unwrapped
from layermerge.source_files import brief, load_file
from layermerge.weights import load_state
from layermerge.weights_files import check_finite_weights, read_weights

FORMS = (
    "timm:NAME, torchvision:NAME, diffusers:NAME, package.module:function or "
    "path/to/file.py:function"
)
LIBRARIES = ("timm", "torchvision", "diffusers")
DEMO_MODEL = "layermerge.demo:DigitsNet"


def without_running_code(name: str) -> bool:
    """Whether a name is of a model from a library, or of the demonstration's: no code of a user."""
    return name.partition(":")[0] in LIBRARIES or name == DEMO_MODEL


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
    if not isinstance(name, str):
        advice = ": call it, to give a model" if isinstance(name, type) else ""
        raise InputError(f"model must be a torch.nn.Module, or a name, got {name!r}{advice}")
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
    check_unwrapped(model)
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} returned a {type(model).__name__}, expected a torch.nn.Module")
    if weights is not None:
        _load_weights(model, as_path("weights", weights))
    return model.eval(), inputs


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
    timm = load_library("timm")
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise InputError(f"timm has no model {name!r}{_suggestion(name, known)}")
    return _create(lambda: timm.create_model(name, pretrained=pretrained), name)


def _from_torchvision(name: str, pretrained: bool) -> Any:
    models = load_library("torchvision").models
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
    unet = load_library("diffusers", extra="diffusers").UNet2DModel
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


def load_library(name: str, *, extra: str = "models") -> Any:
    """Import a library that is an extra.

    Raises
    ------
    MissingDependencyError
        If it is not installed; names the extra.
    InputError
        If it is, and does not work.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(name, extra) from error
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
    load_state(model, _read_state(path), path)


def _read_state(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_weights(path)[0]
    expected = "Expected a safetensors file, or a state dict saved by torch"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds other things than tensors, or is damaged. Objects such as whole models "
            "are not read, since reading them can run any code. "
            f"{expected}: torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:  # also that of whatever the file pretends to be
        raise InputError(f"{path} cannot be read: {brief(error)}. {expected}") from error
    if _is_state(state):
        check_finite_weights(state, path)
        return state
    found = f"a {type(state).__name__}"
    if isinstance(state, Mapping):
        found += f" of {', '.join(map(str, list(state)[:5])) or 'nothing'}"
        inside = [str(key) for key, value in state.items() if _is_state(value)]
        if inside:
            expected += f", such as what it holds as {' or '.join(map(repr, inside))}"
    raise InputError(f"{path} holds {found}. {expected}")


def _is_state(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )
