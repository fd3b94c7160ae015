"""How the layers of a segment are connected, in the terms of the core's `kernel_sizes`.

A segment is cut at the values that everything passes through. Between two cuts lies one operation,
or branches that join; branches that share nothing are taken apart in turn. Where they share
something, as in a densely connected block, all their layers are kept: they stand as one layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from layermerge.dataflow import Kind, Node
from layermerge.windows import POINT, Size, Window, compose, union

SERIES, SUM, JOIN, IDENTITY = -1, -2, -3, -4
_FIRST_WINDOW = -5


@dataclass(frozen=True)
class Block:
    """What is kept or removed as one: a layer, several, or a pooling (no layer, always there).

    Attributes
    ----------
    layers : tuple of int
    growth : (int, int)
        What it adds to the merged kernel, in pixels of the segment's entry.
    is_rigid : bool
        Whether it must stay even if its layers could go.
    """

    layers: tuple[int, ...]
    growth: Size
    is_rigid: bool


@dataclass
class Structure:
    """The blocks of a segment, and the program that connects them."""

    blocks: list[Block] = field(default_factory=list)
    program: list[int] = field(default_factory=list)


def structure_of(nodes: Sequence[Node], entry: str, *, drop_branches: bool = True) -> Structure:
    """Take a segment apart.

    Parameters
    ----------
    nodes : sequence of Node
        In topological order; the last one is the exit.
    entry : str
        The value that enters.
    drop_branches : bool
        Whether a branch of a sum may go whole where its layers could not go one by one.
    """
    found = _Decomposition({entry: (1, 1)}, SUM if drop_branches else JOIN)
    found.series(nodes, entry)
    return found.result


class _Decomposition:
    def __init__(self, jumps: dict[str, Size], code_of_sum: int) -> None:
        self.result = Structure()
        self.code_of_sum = code_of_sum
        self.jumps = jumps
        """The product of the strides between the entry and each value."""

    def series(self, nodes: Sequence[Node], entry: str) -> None:
        """Append the program of the nodes from `entry` on: one operand."""
        operands = 0
        for piece in _pieces(nodes, entry):
            pushed = len(self.result.program)
            if len(piece) == 1 and len(set(piece[0].sources)) == 1:
                self._operation(piece[0])
            else:
                self._branches(piece, entry)
            entry = piece[-1].name
            if len(self.result.program) > pushed:
                operands += 1
                if operands > 1:
                    self.result.program.append(SERIES)
        if not operands:
            self.result.program.append(IDENTITY)

    def _operation(self, node: Node) -> None:
        jump = self.jumps[node.sources[0]]
        window = node.operation.window if node.kind is not Kind.PAD else Window()
        stride = window.stride
        self.jumps[node.name] = (jump[0] * stride[0], jump[1] * stride[1])
        if node.layer or window.growth != (0, 0):
            layers = (node.layer,) if node.layer else ()
            growth = (window.growth[0] * jump[0], window.growth[1] * jump[1])
            self._push(Block(layers, growth, is_rigid=not node.layer))

    def _branches(self, piece: Sequence[Node], entry: str) -> None:
        join = piece[-1]
        sources = list(dict.fromkeys(join.sources))
        branches = [_upstream(piece[:-1], source, entry) for source in sources]
        names = [{node.name for node in branch} for branch in branches]
        shared = sum(map(len, names)) > len(set().union(*names))
        if shared or join.kind not in (Kind.SUM, Kind.CONCAT):
            self._rigid(piece, entry)
            return
        for place, branch in enumerate(branches):
            self.series(branch, entry)
            if place:
                self.result.program.append(self.code_of_sum if join.kind is Kind.SUM else JOIN)
        self.jumps[join.name] = self.jumps[sources[0]]

    def _rigid(self, piece: Sequence[Node], entry: str) -> None:
        jump = self.jumps[entry]
        window = follow_windows(piece, entry)[piece[-1].name]
        growth = (window.growth[0] * jump[0], window.growth[1] * jump[1])
        self.jumps[piece[-1].name] = (jump[0] * window.stride[0], jump[1] * window.stride[1])
        layers = tuple(node.layer for node in piece if node.layer)
        if layers or growth != (0, 0):
            self._push(Block(layers, growth, is_rigid=True))

    def _push(self, block: Block) -> None:
        place = len(self.result.blocks)
        self.result.program.append(place if block.layers else _FIRST_WINDOW - place)
        self.result.blocks.append(block)


def follow_windows(nodes: Iterable[Node], entry: str) -> dict[str, Window]:
    """The window through which each value sees the entry."""
    seen: dict[str, Window] = {entry: POINT}
    for node in nodes:
        seen[node.name] = _window(node, [seen[source] for source in node.sources])
    return seen


def _window(node: Node, sources: Sequence[Window]) -> Window:
    if node.kind is Kind.PAD:
        return sources[0].padded(node.operation.window.padding)
    total = sources[0]
    for other in sources[1:]:
        total = union(total, other)
    return total if node.operation.window == POINT else compose(total, node.operation.window)


def _pieces(nodes: Sequence[Node], entry: str) -> Iterator[Sequence[Node]]:
    """Cut at each value without which nothing before it reaches the exit."""
    waiting = _uses(nodes)
    live = {entry}
    begin = 0
    for place, node in enumerate(nodes):
        for source in set(node.sources):
            waiting[source] -= 1
            if not waiting[source]:
                live.discard(source)
        live.add(node.name)
        if live == {node.name}:
            yield nodes[begin : place + 1]
            begin = place + 1


def _uses(nodes: Iterable[Node]) -> dict[str, int]:
    uses: dict[str, int] = {}
    for node in nodes:
        for source in set(node.sources):
            uses[source] = uses.get(source, 0) + 1
    return uses


def _upstream(nodes: Sequence[Node], exit: str, entry: str) -> Sequence[Node]:
    """The nodes that a value is computed from, it included, as far as `entry`."""
    needed = {exit} - {entry}
    found = []
    for node in reversed(nodes):
        if node.name in needed:
            found.append(node)
            needed.update(source for source in node.sources if source != entry)
    return found[::-1]
