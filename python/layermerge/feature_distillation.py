"""How far the features of a network are from those of its teacher."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermerge.errors import InputError

T = TypeVar("T")


class FeatureDistance:
    """Compares what modules of equal names compute in two networks.

    Of a module that is called several times the last call counts.

    Parameters
    ----------
    student, teacher : torch.nn.Module
    images : tensor
        By which the modules are looked at, once, in evaluation mode.
    names : sequence of str
        Modules of both networks; by default the one that computes the last feature map of more
        than one pixel, of equal shape in both.

    Raises
    ------
    InputError
        If a module is in one network only, or its outputs differ in shape.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, images: Tensor, names: Sequence[str] = ()
    ) -> None:
        self._student, self._teacher = student, teacher
        own, wanted = (_shapes(network, images[:1]) for network in (student, teacher))
        shared = [name for name, shape in wanted.items() if own.get(name) == shape]
        maps = [name for name in shared if _is_map(wanted[name])]
        if not names and not maps:
            raise InputError(
                "feature_distillation finds no feature map that has one name and one shape in the "
                "network and its teacher: name modules in `features`, or set it to 0"
            )
        self.names = tuple(names) or (maps[-1],)
        for name in self.names:
            if name not in shared:
                raise InputError(_explained(name, own, wanted, maps))

    @contextmanager
    def watching(self) -> Iterator[Features]:
        """Remember what the modules compute while both networks run."""
        # Copies: what follows a module may change its output in place.
        with (
            _watched(self._student, self.names, Tensor.clone) as own,
            _watched(self._teacher, self.names, Tensor.clone) as wanted,
        ):
            yield Features(own, wanted)


class Features:
    """What modules of equal names computed in two networks."""

    def __init__(self, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> None:
        self._student, self._teacher = student, teacher

    def distance(self) -> Tensor:
        """The mean over the modules of ‖student − teacher‖² / ‖teacher‖²."""
        parts = [
            F.mse_loss(self._student[name].float(), wanted.float())
            / wanted.float().square().mean().clamp_min(torch.finfo(torch.float32).tiny)
            for name, wanted in self._teacher.items()
        ]
        return torch.stack(parts).mean()


@contextmanager
def _watched(
    network: nn.Module, names: Collection[str], keep: Callable[[Tensor], T]
) -> Iterator[dict[str, T]]:
    """What is kept of the outputs of modules, by name, in the order of their last calls."""
    kept: dict[str, T] = {}

    def see(name: str, output: object) -> None:
        kept.pop(name, None)
        if isinstance(output, Tensor):
            kept[name] = keep(output)

    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: see(name, output))
        for name, module in network.named_modules()
        if name in names
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _shapes(network: nn.Module, images: Tensor) -> dict[str, torch.Size]:
    modes = {module: module.training for module in network.modules()}
    names = {name for name, _ in network.named_modules() if name}
    try:
        with _watched(network.eval(), names, lambda output: output.shape) as shapes:
            network(images)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return shapes


def _is_map(shape: torch.Size) -> bool:
    return len(shape) == 4 and max(shape[2:]) > 1


def _explained(
    name: str, own: dict[str, torch.Size], wanted: dict[str, torch.Size], maps: Sequence[str]
) -> str:
    if name in own and name in wanted:
        what = f"computes {tuple(own[name])} here and {tuple(wanted[name])} in the teacher"
    else:
        what = f"computes no tensor in the {'teacher' if name in own else 'network'}"
    return (
        f"features names {name!r}, which {what}; feature maps of both are "
        f"{', '.join(maps[-5:]) or 'none'}"
    )
