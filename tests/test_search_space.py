"""What the options of a search space do to the networks that its plans make."""

from __future__ import annotations

import csv

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layermerge import SearchSpace, merge, rewrite, trace
from layermerge.entries import COLUMNS, write_entries
from layermerge.enumeration import MAX_WEIGHTS, enumerate_candidates
from layermerge.errors import InputError
from layermerge.paper_space import enumerate_paper_candidates
from layermerge.plan import plan_of, replace_segment
from networks import ConvNorm, images, randomized, relative_error, zoo
from paper_networks import vgg19

X = images(2, 3, 16, 16)


@pytest.fixture(scope="module")
def network():
    return trace(zoo("inverted"), X)


@pytest.fixture(scope="module")
def vgg():
    return trace(vgg19(2).eval(), torch.zeros(1, 3, 32, 32))


def keys(space):
    return [candidate.key for candidate in space.candidates]


def test_the_default_is_the_general_space_with_twice_the_flops(network):
    found = SearchSpace().enumerate(network)
    expected = enumerate_candidates(network, max_flops_ratio=2.0)
    assert (found.candidates, found.skipped) == (expected.candidates, expected.skipped)
    assert found.skipped
    assert found.listed == found.candidates
    assert [found.place(c) for c in found.listed] == [(c.start, c.end) for c in found.candidates]


@pytest.mark.parametrize(
    "options",
    [
        {"method": "depth"},
        {"method": "layer_only"},
        {"max_kernel": 3},
        {"max_segment": 2},
        {"max_flops_ratio": 1.0},
        {"max_weights": 300},
        {"frozen": (2,)},
        {"breaks": [4]},
        {"drop_branches": False},
        {"boundary_activation": True},
    ],
)
def test_every_option_reaches_the_enumeration(network, options):
    found = SearchSpace(**options).enumerate(network)
    limits = {"max_flops_ratio": 2.0, "max_weights": MAX_WEIGHTS}
    assert found == enumerate_candidates(network, **(limits | options))
    assert keys(found) != keys(SearchSpace().enumerate(network))


@pytest.mark.parametrize(
    "options",
    [
        {"method": "depth"},
        {"method": "layer_only"},
        {"max_kernel": 3},
        {"max_flops_ratio": 1.0},
        {"breaks": [4]},
    ],
)
def test_the_options_of_the_papers_space_reach_its_enumeration(vgg, options):
    found = SearchSpace(space="paper", **options).enumerate(vgg)
    assert found == enumerate_paper_candidates(vgg, **({"max_flops_ratio": 2.0} | options))
    default = SearchSpace(space="paper", max_flops_ratio=None).enumerate(vgg)
    assert set(keys(found)) < set(keys(default))
    assert found.axis == default.axis


def test_frozen_layers_are_refused_in_the_papers_space():
    with pytest.raises(InputError, match="frozen is for the general space"):
        SearchSpace(space="paper", frozen=[1])


def test_another_space_is_refused():
    with pytest.raises(InputError, match="space must be one of general, paper; got 'theirs'"):
        SearchSpace(space="theirs")


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (("activation", "gate"), r"removes activation, gate, and the network .* activation: trace"),
        (("foo",), "the search space removes foo"),
        (None, "remove must name what may be removed, of activation, gate, norm; got None"),
    ],
)
def test_what_may_be_removed_is_what_was_traced(network, remove, message):
    with pytest.raises(InputError, match=message):
        SearchSpace(remove=remove).enumerate(network)


def test_rows_are_in_order_with_the_settings_of_the_merged_convolution(network, tmp_path):
    space = SearchSpace(remove=network.remove, max_flops_ratio=None).enumerate(network)
    write_entries(tmp_path / "entries.csv", space)
    with (tmp_path / "entries.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert len(rows) == len(space.candidates)
    model = zoo("inverted")
    by_place = {(int(row[0]), int(row[1]), int(row[2]), row[4]): row for row in rows}
    assert len(by_place) == len(rows)
    for candidate in space.candidates:
        if candidate.is_original or not candidate.kept:
            continue
        student = rewrite(model, replace_segment(network, candidate))
        conv = merge(student).get_submodule(network.layers[candidate.kept[-1] - 1].name)
        is_depthwise = conv.groups == conv.in_channels > 1
        row = by_place[candidate.start, candidate.end, conv.kernel_size[0], str(is_depthwise)]
        size = network.layers[candidate.start].input_size[0]
        expected = (conv.stride[0], is_depthwise, conv.in_channels, conv.out_channels, size)
        assert tuple(row[3:]) == tuple(map(str, expected))


def test_a_table_that_cannot_be_written_is_an_input_error(network, tmp_path):
    path = tmp_path / "none" / "entries.csv"
    with pytest.raises(InputError, match=r"entries\.csv cannot be written: No such file"):
        write_entries(path, SearchSpace().enumerate(network))


class Inverted(nn.Module):
    """Two inverted residual blocks, without norms: nothing follows their sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 4, 3, nn.ReLU6(), stride=2)
        self.expand, self.project = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Conv2d(4, 6, 1)

    def forward(self, x):
        x = self.stem(x)
        y = F.relu6(self.depthwise(F.relu6(self.expand(x))))
        return self.last(x + self.project(y))


def test_a_merged_block_ends_with_an_activation_that_it_did_not_have():
    model, x = randomized(Inverted()).double(), images(2, 3, 16, 16, dtype=torch.float64)
    network = trace(model, x)
    plans = {}
    for is_added in (False, True):
        space = SearchSpace(boundary_activation=is_added, max_flops_ratio=None).enumerate(network)
        whole = next(c for c in space.candidates if (c.start, c.end, len(c.kept)) == (1, 4, 3))
        assert whole.activation == ("relu6" if is_added else None)
        plans[is_added] = plan_of(network, [whole])
    start = model.stem(x)
    wide = model.expand(F.pad(start, (1,) * 4))
    depthwise = F.conv2d(wide, model.depthwise.weight, model.depthwise.bias, groups=8)
    block = start + model.project(depthwise)
    for is_added, expected in (
        (False, model.last(block)),
        (True, model.last(F.relu6(block))),
    ):
        student = rewrite(model, plans[is_added])
        merged = merge(student)
        assert relative_error(student(x), expected) <= 1e-12
        assert relative_error(merged(x), expected) <= 1e-12
        names = dict(merged.named_modules())
        assert ("activation_after_4" in names) == is_added
        assert student.state_dict().keys() == model.state_dict().keys()
    copied = plans[True]
    assert copied.segments[1].activation == "relu6"
    assert copied.fingerprint != plans[False].fingerprint


@pytest.mark.parametrize("max_segment", [2, 3, 6])
def test_every_candidate_with_an_added_activation_rewrites_and_merges(network, max_segment):
    model = zoo("inverted")
    space = SearchSpace(boundary_activation=True, max_segment=max_segment).enumerate(network)
    added = [candidate for candidate in space.candidates if candidate.activation]
    assert added
    for candidate in added:
        student = rewrite(model, replace_segment(network, candidate))
        name = f"activation_after_{candidate.end}"
        assert isinstance(student.get_submodule(name), nn.ReLU6)
        output = student(X)
        assert relative_error(merge(student)(X), output) <= 1e-5
        student.train()(X).square().mean().backward()
        assert all(parameter.grad is not None for parameter in student.parameters())
