from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from layermerge.dataflow import REMOVABLE
from layermerge.enumeration import enumerate_candidates
from layermerge.graph import capture
from layermerge.merging import merge
from layermerge.operations import classify
from layermerge.ordering import keep_branches_together
from layermerge.paper_space import enumerate_paper_candidates
from layermerge.plan import plan_of
from layermerge.regions import find_regions, layer_nodes
from layermerge.rewriting import rewrite
from layermerge.tracing import trace
from networks import ZOO, Block, images, randomized, relative_error, zoo
from paper_networks import resnet34
from random_networks import networks

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
X = images(2, 4, 9, 9)


class InTurns(nn.Module):
    """A residual block that runs its shortcut between the layers of its branch."""

    def __init__(self, block):
        super().__init__()
        self.branch, self.shortcut, self.relu = block.branch, block.shortcut, block.relu

    def forward(self, x):
        first, *others = self.branch
        y = first(x)
        z = self.shortcut(x)
        for part in others:
            y = part(y)
        return self.relu(y + z)


def block():
    branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    return Block(branch, nn.Conv2d(4, 4, 1))


def places(network):
    return [(segment.start, segment.end) for segment in network.segments]


def layers_of(captured):
    return [node.name for node in layer_nodes(captured)]


def names(captured):
    return [node.name for node in captured.graph.nodes]


def test_a_shortcut_that_runs_amid_its_branch_splits_no_segment():
    usual = randomized(nn.Sequential(block(), nn.Conv2d(4, 4, 3)))
    in_turns = nn.Sequential(InTurns(usual[0]), usual[1]).eval()
    network, expected = trace(in_turns, X), trace(usual, X)
    assert [layer.name for layer in network.layers] == [layer.name for layer in expected.layers]
    assert places(network) == places(expected)
    chosen = next(c for c in enumerate_candidates(network).candidates if c.end - c.start == 2)
    student = rewrite(in_turns, plan_of(network, [chosen]))
    assert relative_error(merge(student)(X), student(X)) < 1e-5


def test_the_paper_space_takes_shortcuts_that_run_amid_their_branches():
    usual = resnet34(width=4).eval()
    image = images(1, 3, 64, 64)
    expected = enumerate_paper_candidates(trace(usual, image))
    for place, part in enumerate(usual):
        if isinstance(part, Block) and not isinstance(part.shortcut, nn.Identity):
            usual[place] = InTurns(part)
    found = enumerate_paper_candidates(trace(usual, image))
    assert [c.key for c in found.listed] == [c.key for c in expected.listed]


def test_a_branch_with_forks_inside_stays_together():
    """The value in front of a gate is used twice, and so is that in front of an inner block."""
    inner = nn.Sequential(nn.Conv2d(4, 4, 1), block(), nn.Conv2d(4, 4, 1))
    model = randomized(nn.Sequential(InTurns(Block(inner, nn.Conv2d(4, 4, 1))), nn.Conv2d(4, 4, 1)))
    found = [layer.name for layer in trace(model, X).layers]
    branch = [f"0.branch.{name}" for name in ("0", "1.branch.0", "1.branch.2", "1.shortcut", "2")]
    assert found == [*branch, "0.shortcut", "1"]


@pytest.mark.parametrize("name", ZOO)
def test_graphs_of_models_that_run_branch_after_branch_stay_as_they_are(name):
    captured = capture(zoo(name), images(2, 3, 16, 16))
    before = names(captured)
    keep_branches_together(captured)
    assert names(captured) == before


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_valid_order_is_brought_into_one_with_the_same_segments(data):
    drawn = data.draw(networks())
    captured = capture(drawn.model, drawn.inputs)
    classify(captured, tuple(REMOVABLE))
    expected, usual = captured(*drawn.inputs), layers_of(captured)
    num_regions = len(list(find_regions(captured)))
    keep_branches_together(captured)
    assert layers_of(captured) == usual  # these models run branch after branch
    _shuffle(captured.graph, random.Random(data.draw(st.integers(0, 2**32))))
    keep_branches_together(captured)
    captured.graph.lint()
    assert torch.equal(captured(*drawn.inputs), expected)
    assert len(list(find_regions(captured))) == num_regions
    once = names(captured)
    keep_branches_together(captured)
    assert names(captured) == once


def _shuffle(graph, generator):
    """Bring the nodes into another topological order."""
    output = graph.output_node()
    waiting = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    while waiting:
        ready = [node for node in waiting if not {*node.all_input_nodes} & {*waiting}]
        chosen = generator.choice(ready)
        waiting.remove(chosen)
        output.prepend(chosen)
