from __future__ import annotations

import copy
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError, UnsupportedModelError
from layermerge.merging import merge
from layermerge.plan import Plan, PlannedSegment, original_plan, replace_segment
from layermerge.rewriting import rewrite
from layermerge.tracing import trace
from layermerge.verification import verification
from networks import ZOO, Block, ConvNorm, images, randomized, relative_error, zoo

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
X = images(2, 4, 9, 11, dtype=torch.float64)


def double(*parts):
    return randomized(nn.Sequential(*parts)).double()


def plan_of(network, *segments):
    """Plan out of (start, end, kept)."""
    planned = (PlannedSegment(start, end, (1, 1), kept) for start, end, kept in segments)
    return Plan(network.fingerprint, network.num_layers, network.inputs, tuple(planned))


def rewritten(model, *segments, x=X):
    return rewrite(model, plan_of(trace(model, x), *segments))


def test_a_chain_pads_once_with_the_total_padding():
    convs = [
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 5, stride=2, padding=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
    ]
    model = double(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2], nn.ReLU())
    total = 1 + 2 + 2 * 2
    value = F.pad(X, (total,) * 4)
    for conv, stride, dilation in zip(convs, (1, 2, 1), (1, 1, 2), strict=True):
        value = F.conv2d(value, conv.weight, conv.bias, stride, 0, dilation)
    actual = rewritten(model, (0, 3, (1, 2, 3)))(X)
    assert relative_error(actual, F.relu(value)) <= 1e-12


@pytest.mark.parametrize("name", ZOO)
def test_keeping_everything_reproduces_the_model(name):
    model, x = zoo(name).double(), images(2, 3, 16, 16, dtype=torch.float64)
    plan = original_plan(trace(model, x))
    assert torch.equal(rewrite(model, plan)(x), model(x))


@pytest.mark.parametrize("name", ZOO)
def test_candidates_of_the_widest_segment_rewrite_and_merge(name):
    model, x = zoo(name), images(2, 3, 16, 16)
    network = trace(model, x)
    widest = max(network.segments, key=lambda segment: (segment.end - segment.start, segment.end))
    offered = [
        candidate
        for candidate in enumerate_candidates(network).candidates
        if (candidate.start, candidate.end) == (widest.start, widest.end)
    ]
    for candidate in {offered[0], offered[len(offered) // 2], offered[-1]}:
        found = verification(merge(rewrite(model, replace_segment(network, candidate))))
        assert found.float64_error <= 1e-12
        assert found.error <= 1e-5


def test_the_model_is_left_as_it_is():
    model = zoo("functional")
    x = images(2, 3, 16, 16)
    before, settings_before, output = copy.deepcopy(model.state_dict()), repr(model), model(x)
    network = trace(model, x)
    end = max(segment.end for segment in network.segments if segment.start == 0)
    space = enumerate_candidates(network)
    chosen = next(c for c in space.candidates if c.start == 0 and c.end == end)
    changed = rewrite(model, replace_segment(network, chosen))
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.zero_()
    assert repr(model) == settings_before
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(x), output)


def test_an_added_activation_is_seen_by_the_next_segment():
    """The second convolution begins behind it, in the rewritten and in the merged network."""
    first, second = (nn.Conv2d(4, 4, 1) for _ in range(2))
    model = double(nn.Conv2d(4, 4, 1), nn.ReLU6(), first, second, nn.ReLU6(), nn.Conv2d(4, 4, 1))
    network = trace(model, X)
    segments = (
        PlannedSegment(0, 2, (1, 1), (2,), activation="relu6"),
        PlannedSegment(2, 4, (1, 1), (3,), activation="relu6"),
    )
    plan = Plan(network.fingerprint, 4, network.inputs, segments)
    student = rewrite(model, plan)
    expected = F.relu6(second(F.relu6(first(X))))
    assert relative_error(student(X), expected) <= 1e-12
    assert relative_error(merge(student)(X), expected) <= 1e-12


def test_what_is_kept_has_its_parameter_names_and_values():
    model = zoo("basic")
    network = trace(model, images(2, 3, 16, 16))
    offered = enumerate_candidates(network).candidates
    candidate = next(c for c in offered if len(c.kept) == 1 < c.end - c.start)
    state = rewrite(model, replace_segment(network, candidate)).state_dict()
    original = model.state_dict()
    assert all(torch.equal(value, original[name]) for name, value in state.items())
    removed = set(range(candidate.start + 1, candidate.end + 1)).difference(candidate.kept)
    for layer in network.layers:
        assert (f"{layer.name}.weight" in state) == (layer.index not in removed)


def branches():
    conv = ConvNorm(4, 4, 3, nn.ReLU())
    return {
        "norm": nn.Sequential(conv, ConvNorm(4, 4, 3)),
        "dropout": nn.Sequential(conv, ConvNorm(4, 4, 3), nn.Dropout(0.5)),
        "nested": nn.Sequential(Block(conv), ConvNorm(4, 4, 3)),
    }


@pytest.mark.parametrize("name", branches())
def test_a_block_whose_branch_lost_its_layers_becomes_its_shortcut(name):
    """Not twice the input, which keeping the emptied branch would give."""
    after = nn.Conv2d(4, 4, 3, padding=1)
    model = double(Block(branches()[name]), after)
    assert relative_error(rewritten(model, (0, 3, (3,)))(X), after(X)) <= 1e-15


@pytest.mark.parametrize("last", [nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(3, 2, 1)])
def test_a_pooling_may_be_the_last_that_is_left_of_a_segment(last):
    model = double(nn.Conv2d(4, 4, 1), last, Block(nn.Conv2d(4, 4, 3, padding=1)))
    student = rewritten(model, (0, 2, (1,)))
    wide = F.avg_pool2d(model[0](F.pad(X, (1,) * 4)), 3, last.stride)
    assert relative_error(student(X), F.relu(wide)) <= 1e-12
    assert relative_error(merge(student)(X), F.relu(wide)) <= 1e-12


def test_a_skip_survives_the_loss_of_the_layer_that_it_starts_from():
    before, block = ConvNorm(4, 4, 3, nn.ReLU()), Block(ConvNorm(4, 4, 3))
    model = double(before, block)
    expected = F.relu(X + block.branch(X))
    assert relative_error(rewritten(model, (0, 2, (2,)))(X), expected) <= 1e-12


def test_a_block_around_blocks_keeps_the_outer_skip():
    inner = [Block(ConvNorm(4, 4, 3)) for _ in range(2)]
    model = double(Block(nn.Sequential(*inner, ConvNorm(4, 4, 1))))
    # The inner blocks are gone: x + last(x).
    expected = F.relu(X + model[0].branch[2](X))
    assert relative_error(rewritten(model, (0, 3, (3,)))(X), expected) <= 1e-12


def test_a_value_added_to_itself_stays_doubled():
    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            y = self.first(x)
            return self.last(y + y)

    model = randomized(Doubled()).double()
    assert relative_error(rewritten(model, (0, 2, (2,)))(X), model.last(2 * X)) <= 1e-15


def test_a_lost_shortcut_convolution_leaves_the_branch():
    block = Block(ConvNorm(4, 4, 3), nn.Conv2d(4, 4, 1))
    model = double(block)
    expected = F.relu(block.branch(X))
    assert relative_error(rewritten(model, (0, 2, (1,)))(X), expected) <= 1e-12


def test_a_rewritten_network_trains_then_merges():
    model, x = zoo("bottleneck"), images(4, 3, 16, 16)
    network = trace(model, x)
    plan = widest_plan(network)
    student = rewrite(model, plan).train()
    before = copy.deepcopy(student.state_dict())
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(student(images(6, 3, 16, 16)), torch.arange(6) % 5).backward()
        optimizer.step()
    changed = student.state_dict()
    weights = [name for name, value in student.named_parameters() if value.dim() == 4]
    assert len(weights) == network.num_layers
    assert not any(torch.equal(changed[name], before[name]) for name in weights)
    merged = merge(student.eval())
    assert verification(merged).float64_error <= 1e-12
    other_batch = images(3, 3, 16, 16)
    assert relative_error(merged(other_batch), student(other_batch)) <= 1e-5


def widest_plan(network):
    """Keep all layers; of the segments at each position, take the longest."""
    segments, position = [], 0
    while position < network.num_layers:
        end = max(segment.end for segment in network.segments if segment.start == position)
        segments.append((position, end, tuple(range(position + 1, end + 1))))
        position = end
    return plan_of(network, *segments)


def test_state_and_copies_of_a_rewritten_network_carry_over():
    x = images(2, 3, 16, 16)
    plan = widest_plan(trace(zoo("inverted"), x))
    trained = rewrite(zoo("inverted"), plan)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(0.9)
    other = rewrite(zoo("inverted"), plan)
    assert not torch.equal(other(x), trained(x))
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other(x), trained(x))
    assert torch.equal(merge(copy.deepcopy(trained))(x), merge(trained)(x))


def convolutions():
    return double(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1))


def test_a_plan_without_an_irreducible_layer_is_refused():
    with pytest.raises(
        InputError, match=r"drops layer 2 \('2'\), which changes the channels.*keep"
    ):
        rewritten(convolutions(), (0, 2, (1,)))


def test_a_plan_of_another_network_is_refused():
    plan = original_plan(trace(convolutions(), X))
    other = double(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 5, padding=2))
    with pytest.raises(InputError, match=r"made for another network: its fingerprint is .*Give"):
        rewrite(other, plan)
    with pytest.raises(InputError, match="does not run on the example inputs"):
        rewrite(double(nn.Conv2d(3, 4, 3)), plan)


def test_a_segment_that_cannot_merge_is_refused():
    model = double(nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))
    with pytest.raises(UnsupportedModelError, match=r"segment 0\.\.2 of the plan cannot merge"):
        rewritten(model, (0, 2, (1, 2)))


def test_a_model_in_training_mode_is_refused():
    model = randomized(nn.Sequential(ConvNorm(4, 4, 3))).double()
    plan = original_plan(trace(model, X))
    with pytest.raises(InputError, match=r"batch norm '0\.1'.*training mode.*call model\.eval\(\)"):
        rewrite(model.train(), plan)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda model, plan: ("model", plan), "model must be a torch.nn.Module, got str"),
        (lambda model, plan: (model, "plan.json"), "plan must be a layermerge Plan, got str.*load"),
    ],
)
def test_arguments_of_another_type_are_refused(break_it, message):
    model = convolutions()
    plan = original_plan(trace(model, X))
    with pytest.raises(InputError, match=message):
        rewrite(*break_it(model, plan))


def test_a_damaged_plan_that_fits_no_network_is_refused():
    model = convolutions()
    plan = original_plan(trace(model, X))
    with pytest.raises(InputError, match="made for another network"):
        rewrite(model, replace(plan, network_fingerprint="0" * 16))


def test_all_subsets_of_a_residual_chain_compute_what_they_mean():
    model = double(ConvNorm(4, 4, 1, nn.ReLU()), Block(ConvNorm(4, 4, 3)), ConvNorm(4, 4, 3))
    first, block, last = model
    for kept in product([False, True], repeat=3):
        if not any(kept):
            continue
        model_output = rewritten(model, (0, 3, tuple(i for i, k in enumerate(kept, 1) if k)))(X)
        wide = F.pad(X, (4,) * 4)
        value = first[1](first[0](wide)) if kept[0] else wide
        value = value + block.branch(value) if kept[1] else value
        value = last(value) if kept[2] else value
        assert relative_error(model_output, value[:, :, 4:-4, 4:-4]) <= 1e-12


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_scripted_part_is_trained_without_a_trace_on_the_model():
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1)))
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), scripted, nn.Conv2d(3, 2, 3)).eval()
    rewritten = rewrite(model, original_plan(trace(model, images(1, 3, 8, 8))))
    assert all(parameter.is_leaf for parameter in rewritten.parameters())
    optimizer = torch.optim.SGD(rewritten.parameters(), 0.1)
    rewritten(images(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in model.parameters())
