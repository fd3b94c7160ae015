"""Which node of a graph each live tensor is."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.weak import WeakTensorKeyDictionary

from layermerge.containers import tensors_in

Held = dict[int, tuple[Tensor, fx.Node | None, int]]
"""Tensors by identity, with their node and version at one moment."""

_NO_PLACE = tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__))


class TrackedTensors:
    """What is known of the tensors that a model makes while it runs.

    A tensor is one of five things: a node's value; a parameter or buffer of the model; lost, since
    what made it cannot be recorded; random; or, if nothing is known of it, a constant.
    Tensors are held weakly.
    """

    def __init__(self, model: nn.Module) -> None:
        self._nodes: Any = WeakTensorKeyDictionary()
        self._lost: Any = WeakTensorKeyDictionary()
        self._random: Any = WeakTensorKeyDictionary()
        self._varying: set[fx.Node] = set()
        named = chain(model.named_parameters(), model.named_buffers())
        self._attributes = {id(value): name for name, value in named}

    def node(self, value: Tensor) -> fx.Node | None:
        """The node that computes a tensor, if one does."""
        found = self._nodes.get(value)
        return found if isinstance(found, fx.Node) else None

    def attribute(self, value: Tensor) -> str | None:
        """The qualified name of a parameter or buffer."""
        return self._attributes.get(id(value))

    def is_attribute(self, value: Any) -> bool:
        """Whether a tensor is a parameter or buffer of the model."""
        return id(value) in self._attributes

    def is_known(self, value: Tensor) -> bool:
        """Whether a tensor is anything but a constant."""
        found = (self._nodes, self._lost, self._random)
        return self.is_attribute(value) or any(value in known for known in found)

    def varies(self, value: Tensor) -> bool:
        """Whether a tensor depends on the model's input."""
        return value in self._lost or value in self._random or self.node(value) in self._varying

    def why_lost(self, value: Tensor) -> str | None:
        """Why it is not known how a tensor was made."""
        found = self._lost.get(value)
        return None if found is None else str(found)

    def random_source(self, value: Tensor) -> str | None:
        """What drew the random numbers in a tensor."""
        found = self._random.get(value)
        return None if found is None else str(found)

    def bind(self, value: Tensor, node: fx.Node) -> None:
        """Let a tensor be the value of a node."""
        self._nodes[value] = node
        self._lost.pop(value, None)
        node.meta["shape"] = tuple(value.shape)
        if node.op == "placeholder" or not self._varying.isdisjoint(node.all_input_nodes):
            self._varying.add(node)

    def sharing(self, value: Tensor) -> list[Tensor]:
        """The other tensors with a node that show some of the same memory."""
        others = [other for other in list(self._nodes) if other is not value]
        return [other for other in others if share_memory(other, value)]

    def lose(self, value: Tensor, reason: str) -> None:
        """Note that it is not known how a tensor was made."""
        if not self.is_attribute(value):
            self._nodes.pop(value, None)
            self._lost[value] = reason

    def randomise(self, value: Tensor, source: str) -> None:
        """Note that a tensor holds random numbers."""
        self._random[value] = source

    def forget(self, nodes: Collection[fx.Node], reason: str) -> None:
        """Lose the tensors that these nodes compute."""
        for value, node in list(self._nodes.items()):
            if node in nodes:
                del self._nodes[value]
                if node.op != "get_attr":
                    self.lose(value, reason)

    def snapshot(self, value: Any) -> Held:
        """The tensors in arguments, with what is known of them now."""
        found = tensors_in(value)
        return {id(tensor): (tensor, self.node(tensor), version_of(tensor)) for tensor in found}


def version_of(value: Tensor) -> int:
    """How often a tensor was changed in place; made in inference mode, it does not say."""
    return 0 if value.is_inference() else value._version


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors show parts of the same memory."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def layout(value: Tensor) -> tuple[Any, ...]:
    """Which part of its memory a tensor shows, and how."""
    return value.dtype, value.storage_offset(), tuple(value.shape), value.stride()


def random_state() -> list[Any]:
    """The state of torch's random generators, to be compared."""
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators += torch.cuda.default_generators
    return [generator.get_state().numpy().tobytes() for generator in generators]


def running_autograd_function() -> str | None:
    """The name of the `torch.autograd.Function` whose forward calls torch, if one does."""
    frame: Any = sys._getframe()
    while frame and not frame.f_code.co_filename.endswith("module.py"):
        names = frame.f_code.co_varnames[:1]
        context = frame.f_locals.get(names[0]) if names else None
        if isinstance(context, torch.autograd.function.FunctionCtx):
            return type(context).__name__.removesuffix("Backward")
        frame = frame.f_back
    return None


def place_of_call() -> str:
    """The file and line that called torch."""
    frame: Any = sys._getframe()
    while frame.f_back and frame.f_code.co_filename.startswith(_NO_PLACE):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
