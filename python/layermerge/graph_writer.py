"""Write a graph while a model runs: nodes, and what is known of the tensors that they compute."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from layermerge.canonical import Call, assigned
from layermerge.containers import UnrecordableError, parts, tensors_in, written
from layermerge.errors import UnsupportedModelError
from layermerge.tracked import Held, TrackedTensors, layout, version_of


@dataclass
class Recording:
    """A graph, and what it refers to that the model does not have under that name.

    Attributes
    ----------
    constants : dict
        Tensors that forward makes out of nothing, by the name that the graph gives them.
    modules : dict
        Plain library modules, by the path of the module that each stands for.
    """

    graph: fx.Graph = field(default_factory=fx.Graph)
    constants: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)


@dataclass
class Frame:
    """A module whose forward is running, the last node before it, and what spoils it."""

    path: str
    module: nn.Module
    before: fx.Node | None
    reason: str = ""


class GraphWriter:
    """Writes the graph of one run of a model.

    Attributes
    ----------
    frames : list of Frame
        The modules whose forward is running, from the outermost to the innermost.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.recording = Recording()
        self.tensors = TrackedTensors(model)
        self.frames: list[Frame] = []

    @property
    def path(self) -> str:
        """The path of the module whose forward is running."""
        return self.frames[-1].path if self.frames else ""

    def last(self) -> fx.Node | None:
        """The node that was written last."""
        return next(iter(reversed(self.recording.graph.nodes)), None)

    def node(self, call: Call) -> fx.Node:
        """Write a node."""
        node = self.recording.graph.create_node(call.op, call.target, call.args, call.kwargs)
        node.meta["owner"] = self.path
        return node

    def node_of(self, value: Tensor) -> fx.Node:
        """The node that computes a tensor; parameters and constants get one when first used.

        Raises
        ------
        UnrecordableError
            If it is not known how the tensor was made.
        UnsupportedModelError
            If the tensor holds random numbers.
        """
        found = self.tensors.node(value)
        if found is not None:
            return found
        self.check_random([value])
        reason = self.tensors.why_lost(value)
        if reason is not None:
            raise UnrecordableError(reason)
        name = self.tensors.attribute(value) or self._add_constant(value)
        node = self.node(Call("get_attr", name, ()))
        self.tensors.bind(value, node)
        return node

    def bind(self, value: Any, node: fx.Node, held: Held | None = None) -> Any:
        """Let the tensors in `value`, which `node` computes, be known by nodes; return `value`.

        What was `held` before stays what it was, unless it changed since.
        """
        held = held or {}
        if isinstance(value, Tensor):
            if not torch.is_grad_enabled():
                node = self._detached(value, node)
            if id(value) not in held:
                self.tensors.bind(value, node)
            elif held[id(value)][2] != version_of(value):
                self.rebind(value, node, f"by {node.target}")
            return value
        for key, part, getter in parts(value):
            if tensors_in(part):
                self.bind(part, self.node(Call("call_function", getter, (node, key))), held)
        return value

    def rebind(self, value: Tensor, node: fx.Node, how: str) -> None:
        """Let a tensor that was changed in place be the value of a node from now on.

        Tensors that show the same memory the same way, or of which it is an item, change with it;
        other views of its memory are lost.
        """
        before = self.tensors.node(value)
        for other in self.tensors.sharing(value):
            whole = self.tensors.node(other)
            if layout(other) == layout(value):
                self.tensors.bind(other, node)
            elif before and before.target is operator.getitem and before.args[0] is whole:
                changed = Call("call_function", assigned, (whole, before.args[1], node))
                self.tensors.bind(other, self.node(changed))
            else:
                self.tensors.lose(other, f"a view of it is changed in place {how}")
        self.tensors.bind(value, node)

    def _detached(self, value: Tensor, node: fx.Node) -> fx.Node:
        """A value that a model computes under ``torch.no_grad`` is a constant for gradients."""
        node.meta["shape"] = tuple(value.shape)
        return self.node(Call("call_method", "detach", (node,)))

    def spoil(self, reason: str, result: Any = None, changed: Iterable[Tensor] = ()) -> Any:
        """Note that the running module cannot be recorded, nor what is made of `result`."""
        frame = self.frames[-1]
        frame.reason = frame.reason or reason
        for value in (*tensors_in(result), *changed):
            self.tensors.lose(value, reason)
        return result

    def claim(self, result: Any) -> None:
        """Let the tensors that the running module returns have nodes, as made by this module."""
        try:
            for value in tensors_in(result):
                self.node_of(value)
        except UnrecordableError as error:
            self.spoil(str(error))

    def forget_since(self, frame: Frame) -> None:
        """Take back what was written since a frame was entered."""
        nodes = list(self.recording.graph.nodes)
        first = nodes.index(frame.before) + 1 if frame.before else 0
        self.tensors.forget(set(nodes[first:]), frame.reason)
        for node in reversed(nodes[first:]):
            self.recording.graph.erase_node(node)

    def finish(self, result: Any) -> None:
        """Close the graph with what the model returned."""
        try:
            self.recording.graph.output(written(result, self.node_of, self.node))
        except UnrecordableError as error:
            raise UnrecordableError(f"its result is not known: {error}") from None

    def add_module(self, stem: str, module: nn.Module) -> str:
        """Register a module that the model lacks beside the running one; return its path."""
        path = self._new_name(stem, self.recording.modules)
        self.recording.modules[path] = module
        return path

    def _add_constant(self, value: Tensor) -> str:
        name = self._new_name("constant", self.recording.constants)
        self.recording.constants[name] = value.detach().clone()
        return name

    def _new_name(self, stem: str, taken: Mapping[str, Any]) -> str:
        owner = self.frames[-1].module if self.frames else self.model
        prefix = f"{self.path}.{stem}" if self.path else stem
        return next(
            name
            for index in itertools.count()
            if (name := f"{prefix}_{index}") not in taken and not hasattr(owner, f"{stem}_{index}")
        )

    def check_random(self, values: Iterable[Tensor]) -> None:
        """Refuse random numbers: a graph would hold one draw of them."""
        for value in values:
            source = self.tensors.random_source(value)
            if source:
                raise UnsupportedModelError(
                    f"{type(self.model).__name__} uses random numbers in evaluation mode: "
                    f"{source}{f', in {self.path}' if self.path else ''}. Draw them in training "
                    "mode only, or give them to forward as an input"
                )
