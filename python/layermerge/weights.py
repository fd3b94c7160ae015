"""The weights of a network as a whole: what tells them apart, and loading them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from layermerge.errors import InputError


def add_to_digest(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Add a tensor with its name, dtype and shape to a hash; what is on no device has no values."""
    if tensor.is_nested:
        for part in tensor.unbind():
            add_to_digest(digest, name, part)
        return
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    if tensor.is_meta:
        return
    values = tensor.detach()
    if values.layout is not torch.strided:
        values = values.to_dense()
    values = values.cpu().resolve_conj().resolve_neg().contiguous()
    digest.update(values.view(-1).view(torch.uint8).numpy().data)


def load_state(model: nn.Module, weights: Mapping[str, Tensor], source: object) -> None:
    """Load weights, or say which are missing, unexpected or of another shape.

    Raises
    ------
    InputError
        If the weights are of another network.
    """
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    reshaped = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    parts = {"lacks": missing, "has unexpected": unexpected, "has": sorted(reshaped)}
    wrong = [f"{verb} {_some(names)}" for verb, names in parts.items() if names]
    if wrong:
        raise InputError(f"{source} is of another network: it {'; '.join(wrong)}")
    model.load_state_dict(dict(weights))


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
