"""Write a merged network to disk and read it back, without pickle."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import fx, nn

from layermerge.errors import InputError
from layermerge.merging import merge_unverified
from layermerge.plan import load_plan
from layermerge.rewriting import rewrite, rewriting_of

PLAN_FILE = "plan.json"
WEIGHTS_FILE = "model.safetensors"
PLAN_KEY = "plan_fingerprint"


def save(merged: fx.GraphModule, directory: str | Path) -> None:
    """Write ``plan.json`` and ``model.safetensors``.

    Parameters
    ----------
    merged : torch.fx.GraphModule
        Made by `merge`.
    directory : path
        Made if it does not exist.

    Raises
    ------
    InputError
        If the folder or the files cannot be written.
    """
    plan = rewriting_of(merged).plan
    folder = Path(directory)
    _make_folder(folder)
    # A copy of each: the file format knows no tensors that share memory.
    weights = {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in merged.state_dict().items()
    }
    metadata = {"format": "pt", PLAN_KEY: plan.fingerprint}
    write_weights(weights, folder / WEIGHTS_FILE, metadata)
    plan.save(folder / PLAN_FILE)


def load(directory: str | Path, model: nn.Module) -> fx.GraphModule:
    """Rebuild a merged network from what `save` wrote.

    Parameters
    ----------
    directory : path
    model : torch.nn.Module
        An instance of the original class, in evaluation mode, with any weights. Left as it is.

    Returns
    -------
    torch.fx.GraphModule
        The merged network, in evaluation mode.

    Raises
    ------
    InputError
        If a file is missing or damaged, or belongs to another network or plan.
    """
    folder = Path(directory)
    plan = load_plan(folder / PLAN_FILE)
    merged = merge_unverified(rewrite(model, plan))
    path = folder / WEIGHTS_FILE
    weights, metadata = _read(path)
    # Layers of equal shape can stand in for each other: shapes alone do not tell plans apart.
    if metadata.get(PLAN_KEY, plan.fingerprint) != plan.fingerprint:
        raise InputError(f"{path} was saved with another plan than {folder / PLAN_FILE}")
    _check_weights(path, weights, merged)
    merged.load_state_dict(weights)
    return merged


def write_weights(weights: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file."""
    try:
        safetensors.torch.save_file(weights, path, metadata)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path} cannot be written: {error}. Check that you may write there and that the disk "
            "has space"
        ) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made a folder: {error.strerror}. Name a folder that you may "
            "write to, or one that does not exist yet"
        ) from error


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}") from error


def _check_weights(path: Path, weights: dict[str, torch.Tensor], merged: nn.Module) -> None:
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
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{path} has values in {name!r} that are not finite")
