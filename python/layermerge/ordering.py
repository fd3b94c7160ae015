"""Order a captured graph so that the layers of a branch lie together.

A model may run its branches in turns: a layer of the branch, the shortcut, the next layer of the
branch. A segment holds consecutive layers, and would have to hold the shortcut, too.
"""

from __future__ import annotations

from collections import defaultdict
from functools import reduce

from torch import fx


def keep_branches_together(captured: fx.GraphModule) -> None:
    """Put side by side all operations whose values leave through the same one.

    A value's *join* is the first operation that all of its ways to the output pass, its immediate
    post-dominator; joins make a tree. The operations below a node, and the node, are brought
    together; those below one join keep the order in which the model begins them. A model that runs
    branch after branch keeps its order.
    """
    graph = captured.graph
    output = graph.output_node()
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    joins = _joins(nodes, output)
    below: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    starts: dict[fx.Node, int] = {}
    for place, node in enumerate(nodes):
        below[joins[node]].append(node)
        starts[node] = min((starts[inner] for inner in below[node]), default=place)
    found, stack = [], [output]
    while stack:
        node = stack.pop()
        found.append(node)
        stack += _in_order(below[node], joins, starts)
    for node in reversed(found[1:]):
        output.prepend(node)
    captured.recompile()


def _joins(nodes: list[fx.Node], output: fx.Node) -> dict[fx.Node, fx.Node]:
    """The join of each node: the deepest that is above all of its users, or one of them."""
    joins: dict[fx.Node, fx.Node] = {}
    depth = {output: 0}

    def meet(one: fx.Node, other: fx.Node) -> fx.Node:
        while one is not other:
            if depth[one] < depth[other]:
                one, other = other, one
            one = joins[one]
        return one

    for node in reversed(nodes):
        joins[node] = reduce(meet, node.users or (output,))
        depth[node] = depth[joins[node]] + 1
    return joins


def _in_order(
    siblings: list[fx.Node], joins: dict[fx.Node, fx.Node], starts: dict[fx.Node, int]
) -> list[fx.Node]:
    """Nodes of one join, by when the model begins what is below them, but behind what that uses.

    Of what is below another, it can use but that node itself: any other would have a way out that
    misses it.
    """
    for node in siblings:
        for user in node.users:
            if user is not joins[node]:
                while joins[user] is not joins[node]:
                    user = joins[user]
                starts[user] = max(starts[user], starts[node])
    return sorted(siblings, key=starts.__getitem__)
