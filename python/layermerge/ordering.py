"""Order a captured graph so that the layers of a branch lie together.

A model may run its branches in turns: a layer of the branch, the shortcut, the next layer of the
branch. A segment holds consecutive layers, and would have to hold the shortcut, too.
"""

from __future__ import annotations

from torch import fx


def keep_branches_together(captured: fx.GraphModule) -> None:
    """Put what a value is made of right in front of it, as far as nothing else uses that.

    Values that are used once make trees, whose roots are used several times, or returned. The
    trees lie in the order in which the model computes their roots, and the subtrees of a node in
    the order in which it begins them. The graph of a model that runs branch after branch stays as
    it is.
    """
    graph = captured.graph
    output = graph.output_node()
    begins: dict[fx.Node, int] = {}
    roots = []
    for place, node in enumerate(graph.nodes):
        begins[node] = min((begins[source] for source in _own_sources(node)), default=place)
        is_fixed = node.op in ("placeholder", "output")
        if not is_fixed and (len(node.users) != 1 or output in node.users):
            roots.append(node)
    for root in roots:
        for node in _tree(root, begins):
            output.prepend(node)
    captured.recompile()


def _tree(root: fx.Node, begins: dict[fx.Node, int]) -> list[fx.Node]:
    """The root and what it alone is made of, each node behind its own subtrees."""
    found, stack = [], [root]
    while stack:
        found.append(stack.pop())
        stack += sorted(_own_sources(found[-1]), key=begins.__getitem__)
    return found[::-1]


def _own_sources(node: fx.Node) -> set[fx.Node]:
    return {
        source
        for source in node.all_input_nodes
        if len(source.users) == 1 and source.op != "placeholder"
    }
