"""Write a merged network to disk and read it back, without pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor, fx, nn

from layermerge.arguments import as_path
from layermerge.errors import ExampleError, InputError
from layermerge.merging import merge_unverified
from layermerge.models import load_model, without_running_code
from layermerge.plan import Plan, load_plan
from layermerge.rewriting import rewrite, rewriting_of
from layermerge.weights_files import CHECKSUM_KEY, read_weights, write_weights

PLAN_FILE = "plan.json"
WEIGHTS_FILE = "model.safetensors"
PLAN_KEY = "plan_sha256"
MODEL_KEY = "model"
"""Where the provenance of a plan names the model that it was made of."""


def save(merged: fx.GraphModule, directory: str | Path, *, model_name: str | None = None) -> None:
    """Write ``plan.json`` and ``model.safetensors``.

    Parameters
    ----------
    merged : torch.fx.GraphModule
        Made by `merge`.
    directory : path
        Made if it does not exist.
    model_name : str, optional
        What `load_model` makes the original model by, such as ``"timm:resnet18"``: written into the
        plan's provenance, so that `load` need not be told.

    Raises
    ------
    InputError
        If the folder or the files cannot be written.
    """
    rewriting = rewriting_of(merged)
    if not rewriting.is_merged:
        raise InputError(
            "this network is rewritten but not merged: save merge(network), or keep its "
            "state_dict() to train it further"
        )
    plan = rewriting.plan
    if model_name is not None:
        plan = replace(plan, provenance={**plan.provenance, MODEL_KEY: _absolute(model_name)})
    folder = as_path("directory", directory)
    _make_folder(folder)
    write_weights(merged.state_dict(), folder / WEIGHTS_FILE, {PLAN_KEY: _checksum(plan)})
    plan.save(folder / PLAN_FILE)


def load(directory: str | Path, model: nn.Module | str | None = None) -> fx.GraphModule:
    """Rebuild a merged network from what `save` wrote.

    Parameters
    ----------
    directory : path
    model : torch.nn.Module or str, optional
        An instance of the original class, in evaluation mode, with any weights, left as it is; or a
        name, as `load_model` takes it. By default the model that the plan names, if a library makes
        it: code of your own is not run only because a file says so.

    Returns
    -------
    torch.fx.GraphModule
        The merged network, in evaluation mode.

    Raises
    ------
    InputError
        If a file is missing or damaged, or belongs to another network or plan, or if `model` is
        needed.
    """
    folder = as_path("directory", directory)
    plan = load_plan(folder / PLAN_FILE)
    path = folder / WEIGHTS_FILE
    weights, metadata = read_weights(path)
    _check_origin(path, folder / PLAN_FILE, plan, metadata)
    if not isinstance(model, nn.Module):
        model = load_model(model or _named_in(plan, folder / PLAN_FILE))
    try:
        merged = merge_unverified(rewrite(model, plan))
    except ExampleError as error:
        raise InputError(
            f"{folder / PLAN_FILE} was made of another model than {type(model).__name__}, which "
            f"does not even run on its inputs: {error.problem}"
        ) from error
    _check_weights(path, weights, merged)
    merged.load_state_dict(weights)
    return merged


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made a folder: {error.strerror}. Name a folder that you may "
            "write to, or one that does not exist yet"
        ) from error


def _absolute(model_name: str) -> str:
    """A model's name that holds in whatever folder one works."""
    if not isinstance(model_name, str):
        raise InputError(f"model_name must be text, such as 'timm:resnet18', got {model_name!r}")
    source, _, entry = model_name.rpartition(":")
    return f"{Path(source).resolve()}:{entry}" if source.endswith(".py") else model_name


def _checksum(plan: Plan) -> str:
    """SHA-256 of what a plan says, however its file is laid out."""
    return hashlib.sha256(json.dumps(asdict(plan), sort_keys=True).encode()).hexdigest()


def _check_origin(path: Path, plan_path: Path, plan: Plan, metadata: dict[str, str]) -> None:
    """Refuse weights of another plan: layers of equal shape can stand in for each other."""
    if not metadata.keys() >= {PLAN_KEY, CHECKSUM_KEY}:
        raise InputError(
            f"{path} does not say which plan it belongs to, perhaps another plan than {plan_path}: "
            "write both with layermerge.save"
        )
    if metadata[PLAN_KEY] != _checksum(plan):
        raise InputError(
            f"{path} was saved with another plan than {plan_path}, or one of them was changed "
            "since: copy both from the same run"
        )


def _named_in(plan: Plan, plan_path: Path) -> str:
    name = plan.provenance.get(MODEL_KEY)
    if not isinstance(name, str):
        raise InputError(
            f"{plan_path} does not say which model it was made of: name it, --model timm:NAME or "
            "--model FILE.py:FUNCTION (in Python, load(directory, model))"
        )
    if not without_running_code(name):
        raise InputError(
            f"{plan_path} was made of {name}, which is code that is not run only because a file "
            f"names it: if you trust it, give --model {name} (in Python, load(directory, model))"
        )
    return name


def _check_weights(path: Path, weights: dict[str, Tensor], merged: nn.Module) -> None:
    expected = merged.state_dict()
    for name in sorted(expected.keys() ^ weights.keys()):
        where = "lacks" if name in expected else "has an unexpected"
        raise InputError(f"{path} {where} tensor {name!r}: it belongs to another plan or model")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{path} has {name!r} of shape {tuple(tensor.shape)}; the plan makes it "
                f"{tuple(expected[name].shape)}: they do not belong together"
            )
