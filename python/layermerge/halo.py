"""Move the padding of a rewritten segment to its entry.

It then pads once, at its entry, and convolves without padding. The border that a value carries in
addition to its original extent is its *halo*. It follows from the exit backwards: 0 there, s h + p
in front of a convolution of stride s and padding p, and at a fork the largest that a branch asks
for; the other branches crop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import fx, nn

from layermerge.dataflow import Kind, Operation
from layermerge.regions import layer_module
from layermerge.values import annotate, is_channels_last, operation, sources_of
from layermerge.windows import NO_PADDING, Padding, Window, plus, through

Needs = dict[tuple[fx.Node, fx.Node], Padding]


def move_padding(captured: fx.GraphModule, entry: fx.Node, nodes: Sequence[fx.Node]) -> fx.Node:
    """Pad at the entry, compute without padding, crop where a branch needs less.

    Parameters
    ----------
    captured : torch.fx.GraphModule
        Is changed.
    entry : torch.fx.Node
    nodes : sequence of torch.fx.Node
        What is left of the segment, in topological order.

    Returns
    -------
    torch.fx.Node
        What computes the value of the last node now.
    """
    needs = _halo_needs(nodes)
    halo = {
        source: _largest(need for (_, used), need in needs.items() if used is source)
        for source in nodes[:-1]
    }
    for (user, source), need in needs.items():
        border = need if source is entry else _minus(need, halo[source])
        if border != NO_PADDING:
            _pad_between(captured, source, user, border)
    exit = entry
    for node in nodes:
        exit = _unpad(captured, node)
    return exit


def _halo_needs(nodes: Sequence[fx.Node]) -> Needs:
    """The halo that each node needs of each of its sources."""
    needs: Needs = {}
    for node in reversed(nodes):
        halo = _largest(needs[user, node] for user in node.users if (user, node) in needs)
        window = operation(node).window
        halo = plus(through(halo, window.stride), window.padding)
        for source in sources_of(node):
            needs[node, source] = halo
    return needs


def _pad_between(captured: fx.GraphModule, source: fx.Node, user: fx.Node, border: Padding) -> None:
    amounts = (0, 0, *border) if is_channels_last(source) else border
    with captured.graph.inserting_before(user):
        padded = captured.graph.call_function(F.pad, (source, amounts))
    padded.meta["shape"] = source.meta["shape"]
    annotate(padded, Operation(Kind.PAD, "pad", window=Window(padding=border)), [source])
    user.replace_input_with(source, padded)


def _unpad(captured: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Take away a node's own padding, which its input has now; return what stands for it."""
    found = operation(node)
    if found.kind is Kind.PAD:
        (source,) = sources_of(node)
        node.replace_all_uses_with(source)
        captured.graph.erase_node(node)
        return source
    if found.kind is Kind.POOL:
        source, window = sources_of(node)[0], found.window
        node.op, node.target = "call_function", F.avg_pool2d
        node.args, node.kwargs = (source, window.kernel_size, window.stride), {}
        annotate(node, _unpadded(found), [source])
    elif found.kind is Kind.LAYER:
        module = layer_module(captured, node)
        if isinstance(module, nn.Conv2d):
            module.padding = (0, 0)
            annotate(node, _unpadded(found))
    return node


def _unpadded(found: Operation) -> Operation:
    window = Window(found.window.kernel_size, found.window.stride, dilation=found.window.dilation)
    return Operation(found.kind, found.name, window=window, groups=found.groups)


def _largest(halos: Iterable[Padding]) -> Padding:
    left, right, top, bottom = (max(side) for side in zip(NO_PADDING, *halos, strict=True))
    return (left, right, top, bottom)


def _minus(need: Padding, halo: Padding) -> Padding:
    left, right, top, bottom = (n - h for n, h in zip(need, halo, strict=True))
    return (left, right, top, bottom)
