"""The search spaces of the paper's networks, against what the authors' implementation lists."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from layermerge import SearchSpace, trace
from layermerge.cli import main
from layermerge.entries import COLUMNS, write_entries
from layermerge.errors import InputError
from layermerge.models import load_model_and_inputs
from layermerge.paper_space import enumerate_paper_candidates
from networks import images, zoo
from paper_networks import DiffusionUnet, mobilenet_v2, resnet34, resnet50, vgg19

DATA = Path(__file__).parent / "data"
REMOVE = ("activation", "norm")

# Last position, segments, entries, largest kernel (tests/data/reference/README.md).
FACTS = {
    "resnet34": (32, 62, 150, 21),
    "resnet50": (48, 107, 192, 11),
    "mobilenet_v2": (50, 171, 391, 15),
    "unet": (51, 73, 98, 5),
    "vgg19": (16, 36, 68, 9),
}
INPUTS = {
    "resnet34": lambda: torch.zeros(1, 3, 224, 224),
    "unet": lambda: (images(1, 3, 32, 32), images(1)),
}
MODELS = {
    "resnet34": resnet34,
    "resnet50": lambda: resnet50(8),
    "mobilenet_v2": mobilenet_v2,
    "unet": lambda: DiffusionUnet(8),
    "vgg19": lambda: vgg19(4),
}


@cache
def network_of(name):
    inputs = INPUTS.get(name, lambda: torch.zeros(1, 3, 64, 64))()
    return trace(MODELS[name]().eval(), inputs, remove=REMOVE)


@cache
def space_of(name, method="layermerge"):
    search = SearchSpace(space="paper", remove=REMOVE, method=method, max_flops_ratio=None)
    return search.enumerate(network_of(name))


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def written(space, tmp_path):
    write_entries(tmp_path / "entries.csv", space)
    return read(tmp_path / "entries.csv")


def facts(space):
    places = {space.place(candidate) for candidate in space.listed}
    kernels = [candidate.kernel_size[0] for candidate in space.listed]
    return max(end for _, end in places), len(places), len(kernels), max(kernels)


@pytest.mark.parametrize("name", FACTS)
def test_segments_and_entries_are_as_many_as_the_authors_list(name):
    assert facts(space_of(name)) == FACTS[name]


def test_the_entries_of_resnet34_are_those_of_the_authors_in_every_column(tmp_path):
    """Their input sizes are twice those of the network, for they leave the max-pool out."""
    found = written(space_of("resnet34"), tmp_path)
    for row in found:
        row["in_hw"] = str(2 * int(row["in_hw"]))
    assert found == read(DATA / "resnet34.entries.csv")


@pytest.mark.parametrize(
    ("name", "table"), [("resnet34", "resnet34.s1"), ("mobilenet_v2", "mobilenetv2.s1")]
)
def test_positions_kernels_strides_and_kinds_are_those_of_the_authors(name, table, tmp_path):
    columns = ("st", "end", "ker", "str", "is_dw")
    expected = read(DATA / "reference" / f"{table}.time.csv")
    found = written(space_of(name), tmp_path)
    assert [tuple(row[column] for column in columns) for row in found] == sorted(
        (tuple(row[column] for column in columns) for row in expected),
        key=lambda row: (int(row[0]), int(row[1]), int(row[2]), row[3], row[4]),
    )


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("mobilenet_v2", "depth_mbv2_1.0"),
        ("mobilenet_v2", "depth_mbv2_1.4"),
        ("vgg19", "depth_vgg19_no_trt"),
    ],
)
def test_keeping_every_convolution_leaves_the_segments_of_the_depth_method(name, table):
    rows = read(DATA / "reference" / f"{table}_rtx2080ti.time.csv")
    space = space_of(name, "depth")
    assert all(len(c.kept) == c.end - c.start for c in space.listed)
    places = [space.place(candidate) for candidate in space.listed]
    assert sorted(places) == sorted((int(row["st"]), int(row["end"])) for row in rows)


def test_the_convolution_behind_an_upsampling_may_be_dropped():
    space = space_of("unet")
    dropped = [candidate for candidate in space.listed if not candidate.kept]
    names = [space.network.layers[candidate.start].name for candidate in dropped]
    up = MODELS["unet"]().up
    assert names == [f"up.{i}" for i, part in enumerate(up) if isinstance(part, nn.Conv2d)]
    assert len(names) == 3


@pytest.mark.parametrize("name", FACTS)
def test_layers_off_the_axis_stay_as_they_are(name):
    space = space_of(name)
    off = [c for c in space.candidates if c.end not in space.axis]
    assert all(candidate.is_original for candidate in off)
    assert len(off) + len(space.axis) == space.network.num_layers
    assert list(space.axis.values()) == list(range(1, FACTS[name][0] + 1))


@pytest.mark.parametrize(
    ("name", "breaks"),
    [
        ("resnet34", (0, 7, 15, 27)),
        ("resnet50", (0, 11, 23, 41)),
        ("mobilenet_v2", (0, 5, 11, 20, 41)),
    ],
)
def test_the_breaks_are_the_authors_unless_others_are_given(name, breaks):
    network, space = network_of(name), space_of(name)
    given = enumerate_paper_candidates(network, breaks=breaks)
    assert given.candidates == space.candidates
    within, free = (
        enumerate_paper_candidates(network, breaks=found, max_kernel=7) for found in (None, ())
    )
    crossing = {free.place(c) for c in set(free.listed).difference(within.listed)}
    assert set(within.listed) < set(free.listed)
    assert all(any(start < place < end for place in breaks) for start, end in crossing)
    every = enumerate_paper_candidates(network, breaks=range(FACTS[name][0] + 1))
    assert all(candidate.end - candidate.start == 1 for candidate in every.candidates)


def test_limits_leave_out_entries_and_say_how_many():
    network, everything = network_of("mobilenet_v2"), space_of("mobilenet_v2")
    small = enumerate_paper_candidates(network, max_kernel=5).candidates
    assert list(small) == [c for c in everything.candidates if max(c.kernel_size) <= 5]
    light = enumerate_paper_candidates(network, max_flops_ratio=2.0)
    assert light.skipped == {
        "more than 2 times the FLOPs": len(everything.candidates) - len(light.candidates)
    }
    assert len(light.candidates) < len(everything.candidates)


def test_an_added_activation_changes_no_position_and_no_kernel():
    network, plain = network_of("mobilenet_v2"), space_of("mobilenet_v2")
    space = enumerate_paper_candidates(network, boundary_activation=True)
    assert [(space.place(c), c.kernel_size, c.kept) for c in space.listed] == [
        (plain.place(c), c.kernel_size, c.kept) for c in plain.listed
    ]
    added = {c.activation for c in space.listed}
    assert added == {None, "relu6"}


@pytest.mark.parametrize("place", [-1, 33, 100])
def test_breaks_off_the_axis_are_refused(place):
    with pytest.raises(
        InputError, match=rf"breaks names position {place}; positions of ResNet-34 are 0\.\.32"
    ):
        enumerate_paper_candidates(network_of("resnet34"), breaks=[7, place])


def test_another_network_is_refused_with_those_that_there_are():
    network = trace(zoo("basic"), images(2, 3, 16, 16))
    with pytest.raises(InputError, match=r"no search space for .*ResNet-34, ResNet-50, MobileNet"):
        SearchSpace(space="paper").enumerate(network)


def test_the_unet_is_recognised_only_where_norms_may_go():
    network = trace(DiffusionUnet(8).eval(), INPUTS["unet"]())
    with pytest.raises(InputError, match=r"the DDPM U-Net \(remove activations and norms\)"):
        enumerate_paper_candidates(network)


@pytest.mark.parametrize("name", ["mobilenet_v2", "unet"])
def test_the_command_line_writes_the_same_entries(name, tmp_path, capsys):
    path = tmp_path / "entries.csv"
    file = tmp_path / "model.py"
    file.write_text(
        "from test_paper_space import INPUTS, MODELS\n"
        "import torch\n"
        "def make():\n"
        f"    inputs = INPUTS.get({name!r}, lambda: torch.zeros(1, 3, 64, 64))()\n"
        f"    return MODELS[{name!r}](), inputs\n"
    )
    arguments = ["inspect", f"{file}:make", "--space", "paper", "--entries-csv", str(path)]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    last, segments, entries, _ = FACTS[name]
    assert (found["segments"], found["entries"]) == (segments, entries)
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    expected = written(space_of(name), tmp_path)
    assert [row["end"] for row in expected][-1] == str(last)
    assert read(path) == expected


THIRD_PARTY = [
    ("torchvision:resnet34", "resnet34"),
    ("torchvision:resnet50", "resnet50"),
    ("torchvision:mobilenet_v2", "mobilenet_v2"),
    ("torchvision:vgg19_bn", "vgg19"),
    ("timm:resnet34", "resnet34"),
    ("timm:resnet50", "resnet50"),
    ("timm:mobilenetv2_100", "mobilenet_v2"),
    ("timm:mobilenetv2_140", "mobilenet_v2"),
    ("diffusers:ddpm-cifar10-32", "unet"),
]


@pytest.mark.filterwarnings("default")  # other libraries warn of their own doings
@pytest.mark.parametrize(("model_name", "name"), THIRD_PARTY)
def test_networks_of_libraries_have_the_authors_entries(model_name, name, tmp_path):
    library = model_name.partition(":")[0]
    pytest.importorskip(library, reason=f"{library} is not installed")
    model, inputs = load_model_and_inputs(model_name)
    if inputs is None:
        inputs = torch.zeros(1, 3, 224, 224) if name == "resnet34" else torch.zeros(1, 3, 64, 64)
    network = trace(model, inputs, remove=REMOVE)
    space = SearchSpace(space="paper", remove=REMOVE, max_flops_ratio=None).enumerate(network)
    assert facts(space) == FACTS[name]
    if name == "resnet34":
        assert written(space, tmp_path) == written(space_of(name), tmp_path)
    ours = space_of(name)
    assert [(space.place(c), c.kernel_size[0], c.signature.is_depthwise) for c in space.listed] == [
        (ours.place(c), c.kernel_size[0], c.signature.is_depthwise) for c in ours.listed
    ]
