"""Compare two recordings of a model, at two batch sizes and on different values.

What is equal in both is fixed. An integer in proportion to the batch size becomes an expression of
the input's size. Whatever else differs was frozen by recording, and is refused.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor, fx

from layermerge.graph_writer import Recording


@dataclass(frozen=True)
class Batch:
    """The input that holds the batch, and the batch size, of the recordings and of the example."""

    input: str
    first: int
    second: int
    example: int


class MismatchError(Exception):
    """Two recordings differ by more than the batch size, in the module at `path`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path = path


def unify(first: Recording, second: Recording, batch: Batch) -> None:
    """Make the first recording right at any batch size.

    Raises
    ------
    MismatchError
        If the recordings differ by more than the batch size.
    """
    _Unifier(first, second, batch).run()


class _Unifier:
    def __init__(self, first: Recording, second: Recording, batch: Batch) -> None:
        self.first, self.second, self.batch = first, second, batch
        self.twin: dict[fx.Node, fx.Node] = {}
        self.sizes: dict[int, fx.Node] = {}
        self.node: fx.Node

    def run(self) -> None:
        ours, theirs = list(self.first.graph.nodes), list(self.second.graph.nodes)
        for node, twin in zip(ours, theirs, strict=False):
            self.node = node
            if (node.op, node.target) != (twin.op, twin.target):
                self._refuse(twin, "which operations it runs")
            self.twin[node] = twin
            node.args = self._merge(node.args, twin.args)
            node.kwargs = self._merge(node.kwargs, twin.kwargs)
            self._merge_shapes(node, twin)
        if len(ours) != len(theirs):
            raise MismatchError("", "on other values or batch sizes it differs in how much it does")
        for node in ours:
            if node.op == "get_attr" and node.target in self.first.constants:
                self._merge_constant(node)

    def _merge(self, one: Any, other: Any) -> Any:
        if isinstance(one, fx.Node):
            if self.twin.get(one) is not other:
                self._refuse(self.node, "what it uses")
            return one
        if type(one) is not type(other):
            self._refuse(self.node, f"an argument, {one!r} or {other!r}")
        if isinstance(one, (tuple, list)):
            if len(one) != len(other):
                self._refuse(self.node, "how many arguments there are")
            return type(one)(self._merge(a, b) for a, b in zip(one, other, strict=True))
        if isinstance(one, dict):
            if one.keys() != other.keys():
                self._refuse(self.node, "which arguments there are")
            return {key: self._merge(one[key], other[key]) for key in one}
        if isinstance(one, slice):
            ends = ("start", "stop", "step")
            return slice(*(self._merge(getattr(one, e), getattr(other, e)) for e in ends))
        return self._merge_constants(one, other)

    def _merge_constants(self, one: Any, other: Any) -> Any:
        if one == other or (one != one and other != other):
            return one
        factor = self._factor(one, other) if type(one) is int else None
        if factor is not None:
            return self._size(factor)
        return self._refuse(self.node, f"an argument, {one!r} or {other!r}")

    def _factor(self, one: int, other: int) -> int | None:
        """What times the batch size gives both."""
        if not self.batch.first:
            return None
        factor, rest = divmod(one, self.batch.first)
        return factor if not rest and factor * self.batch.second == other else None

    def _size(self, factor: int) -> fx.Node:
        """A node that computes `factor` times the batch size."""
        if factor not in self.sizes:
            graph = self.first.graph
            inputs = [node for node in graph.nodes if node.op == "placeholder"]
            (source,) = (node for node in inputs if node.target == self.batch.input)
            size = source if factor == 1 else self._size(1)
            with graph.inserting_after(inputs[-1] if factor == 1 else size):
                if factor == 1:
                    self.sizes[1] = graph.call_method("size", (size, 0))
                else:
                    self.sizes[factor] = graph.call_function(operator.mul, (size, factor))
            self.sizes[factor].meta["owner"] = ""
        return self.sizes[factor]

    def _merge_shapes(self, node: fx.Node, twin: fx.Node) -> None:
        """The shape on the example: dimensions that differ grow with the batch."""
        one, other = node.meta.get("shape"), twin.meta.get("shape")
        if one is None or other is None or len(one) != len(other):
            return
        batch = self.batch
        step = max(batch.second - batch.first, 1)
        node.meta["shape"] = tuple(
            a + (b - a) * (batch.example - batch.first) // step
            for a, b in zip(one, other, strict=True)
        )

    def _merge_constant(self, node: fx.Node) -> None:
        name = str(node.target)
        one, other = self.first.constants[name], self.second.constants[name]
        if one.shape == other.shape:
            if not _are_equal(one, other):
                raise MismatchError(
                    node.meta["owner"], "on other values it differs in a tensor that it makes"
                )
            return
        self.node = node
        repeats = [self._repeats(a, b) for a, b in zip(one.shape, other.shape, strict=False)]
        if one.dim() != other.dim() or None in repeats:
            self._refuse(node, "the shape of a tensor that it makes")
        period = one[tuple(slice(size) if size else slice(None) for size in repeats)]
        if not all(
            _are_equal(_tile(period, repeats, count), full)
            for count, full in ((self.batch.first, one), (self.batch.second, other))
        ):
            self._refuse(node, "the values of a tensor that it makes")
        self.first.constants[name] = period.clone()
        self._repeat(node, repeats)

    def _repeats(self, one: int, other: int) -> int | None:
        """0 if a size is fixed, the size for each item if it grows with the batch, else None."""
        return 0 if one == other else self._factor(one, other)

    def _repeat(self, node: fx.Node, repeats: list[int | None]) -> None:
        size = self._size(1)
        with self.first.graph.inserting_after(node):
            times = tuple(size if grows else 1 for grows in repeats)
            whole = self.first.graph.call_method("repeat", (node, times))
        whole.meta.update(node.meta)
        node.replace_all_uses_with(whole, delete_user_cb=lambda user: user is not whole)

    def _refuse(self, twin: fx.Node, what: str) -> NoReturn:
        path = _common(self.node.meta.get("owner", ""), twin.meta.get("owner", ""))
        raise MismatchError(path, f"on other values or batch sizes it differs in {what}")


def _tile(period: Tensor, repeats: list[int | None], count: int) -> Tensor:
    return period.repeat(*(count if grows else 1 for grows in repeats))


def _are_equal(one: Tensor, other: Tensor) -> bool:
    both_nan = (one != one) & (other != other)
    return one.dtype == other.dtype and bool(((one == other) | both_nan).all())


def _common(one: str, other: str) -> str:
    """The path of the innermost module that holds both."""
    shared = []
    for a, b in zip(one.split("."), other.split("."), strict=False):
        if a != b:
            break
        shared.append(a)
    return ".".join(shared)
