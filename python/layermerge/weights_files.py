"""Weights as safetensors, with a checksum, so that a damaged or exchanged file is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from layermerge.errors import InputError
from layermerge.whole_files import write_whole

CHECKSUM_KEY = "weights_sha256"


def write_weights(weights: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file whose metadata holds the checksum of the tensors.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    # A copy of each: the file format knows no tensors that share memory.
    copies = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()
    }
    document = {"format": "pt", CHECKSUM_KEY: checksum(copies), **metadata}
    try:
        write_whole(path, safetensors.torch.save(copies, document))  # with the usual permissions
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path} cannot be written: {error}. Check that you may write there and that the disk "
            "has space"
        ) from error


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file.

    Raises
    ------
    InputError
        If the file cannot be read, holds values that are not finite, or holds a checksum of other
        tensors.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            names = file.keys()
            weights = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
    except (OSError, ValueError, OverflowError, RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}") from error
    check_finite_weights(weights, path)
    if metadata.get(CHECKSUM_KEY, wanted := checksum(weights)) != wanted:
        raise InputError(
            f"{path} is damaged: its tensors do not have the SHA-256 that it was written with. "
            "Copy it again from where it was made, or save it again"
        )
    return weights, metadata


def check_finite_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are NaN or infinite."""
    for name, tensor in weights.items():
        if isinstance(tensor, Tensor) and not _is_finite(tensor):
            raise InputError(
                f"{path} has values in {name!r} that are not finite: its training diverged, or the "
                "file is damaged"
            )


def load_weights(module: nn.Module, content: bytes, source: str) -> None:
    """Load a safetensors file in memory into a module.

    Raises
    ------
    InputError
        If the content is damaged, or belongs to another module; says `source`.
    """
    try:
        weights = safetensors.torch.load(content)
        module.load_state_dict(weights)
    except (
        ValueError,
        OverflowError,
        RuntimeError,
        KeyError,
        safetensors.SafetensorError,
    ) as error:
        raise InputError(
            f"{source} holds weights that cannot be loaded: {' '.join(str(error).split())[:300]}"
        ) from error


def checksum(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    if tensor.is_floating_point() and tensor.element_size() == 1:  # torch.isfinite lacks float8
        tensor = tensor.to(torch.float32)
    return bool(torch.isfinite(tensor).all())
