"""Values inside a network: what single nodes of its graph compute on calibration data."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from layermerge.errors import InputError, shown
from layermerge.network import InputSpec, Network
from layermerge.values import lasting
from layermerge.weights import add_to_digest

Batches = Iterable[Any]
"""Batches of calibration data: inputs, or tuples that begin with them (labels may follow)."""


class Recorder(fx.Interpreter):
    """Runs a network and keeps the values of some nodes."""

    def __init__(self, network: fx.GraphModule, wanted: Collection[str]) -> None:
        super().__init__(network)
        missing = set(wanted) - {node.name for node in network.graph.nodes}
        if missing:
            raise InputError(f"the network has no nodes {sorted(missing)}")
        self.wanted = frozenset(wanted)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; keep its value if it is wanted."""
        value = super().run_node(n)
        if n.name in self.wanted:
            self.values[n.name] = value
        return value


def record(network: fx.GraphModule, inputs: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """The values of some nodes, by name, for one batch of inputs."""
    recorder = Recorder(network, wanted)
    recorder.run(inputs)
    return recorder.values


def check_batches(name: str, batches: Batches, model: nn.Module, network: Network) -> str:
    """Refuse calibration data that cannot calibrate, by running the model on each batch once.

    Returns
    -------
    str
        Their `fingerprint_batches`.

    Raises
    ------
    InputError
        Says which batch is not as expected.
    """
    spec = _only_input(name, network)
    _check_rereadable(name, batches)
    device, digest, count = device_of(model), hashlib.sha256(), 0
    for count, batch in enumerate(batches, 1):
        _check_batch(f"batch {count - 1} of {name}", batch, model, spec, device)
        _add_batch(digest, count - 1, batch)
    if not count:
        raise InputError(f"{name} holds no batch: give some batches of training data")
    return _short(digest)


def _check_rereadable(name: str, batches: Batches) -> None:
    if isinstance(batches, Iterator):
        raise InputError(
            f"{name} is a {type(batches).__name__}, which is used up after one pass: give a list "
            "of batches, or what can be iterated again and again"
        )
    if isinstance(batches, (str, bytes, Mapping)) or not isinstance(batches, Iterable):
        raise InputError(f"{name} must be a list of batches, got {shown(repr(batches))}")


def _only_input(name: str, network: Network) -> InputSpec:
    if len(network.inputs) != 1:
        names = ", ".join(spec.name for spec in network.inputs)
        raise InputError(
            f"{name} is for networks with one input, and this one takes {names}: leave it out"
        )
    return network.inputs[0]


@torch.no_grad()
def _check_batch(
    what: str, batch: Any, model: nn.Module, spec: InputSpec, device: torch.device
) -> None:
    inputs = _inputs(what, batch)
    expected = f"expected {spec.dtype} of shape (any number, {', '.join(map(str, spec.shape[1:]))})"
    got = f"{what} holds inputs of shape {tuple(inputs.shape)} and {inputs.dtype}"
    fits = inputs.ndim == len(spec.shape) and inputs.shape[1:2] == spec.shape[1:2]
    if not fits or not len(inputs):
        raise InputError(f"{got}; {expected}")
    if not torch.isfinite(inputs).all():
        raise InputError(f"{what} holds NaN or infinity: clean the data, or leave that batch out")
    try:
        outputs = model(**{spec.name: inputs.to(device)})
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{got}, on which the model fails: {shown(str(error))}; {expected}"
        ) from error
    if isinstance(outputs, Tensor) and not torch.isfinite(outputs).all():
        raise InputError(f"the model gives NaN or infinity for {what}: it cannot calibrate")


def _inputs(what: str, batch: Any) -> Tensor:
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(inputs, Tensor):
        raise InputError(
            f"{what} begins with {type(inputs).__name__}; expected a tensor of inputs, or a tuple "
            "that begins with one"
        )
    return inputs


def fingerprint_batches(batches: Batches) -> str:
    """Hash of what batches hold, labels included."""
    _check_rereadable("calibration", batches)
    digest = hashlib.sha256()
    for place, batch in enumerate(batches):
        _add_batch(digest, place, batch)
    return _short(digest)


def _add_batch(digest: hashlib._Hash, place: int, batch: Any) -> None:
    for leaf in pytree.tree_leaves(batch):
        if isinstance(leaf, Tensor):
            add_to_digest(digest, str(place), leaf)
        else:
            digest.update(f"{place} {lasting(repr(leaf))}\n".encode())


def _short(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:16]


def inputs_of(batches: Batches, device: torch.device) -> Iterator[Tensor]:
    """The inputs of each batch, on a device.

    Raises
    ------
    InputError
        If there is no batch, or one does not begin with a tensor.
    """
    found = False
    for batch in batches:
        found = True
        yield _inputs("a calibration batch", batch).to(device)
    if not found:
        raise InputError("there is no batch of calibration data (is an iterator used up?)")


def device_of(module: nn.Module) -> torch.device:
    """Where the parameters of a network are."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
