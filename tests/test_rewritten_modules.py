"""Rewritten networks are modules like any other."""

from __future__ import annotations

import copy
import io
import socket

import pytest
import torch
import torch.nn.functional as F
from torch import distributed, nn

from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError
from layermerge.merging import merge
from layermerge.plan import Plan, plan_of, replace_segment
from layermerge.rewriting import rewrite
from layermerge.tracing import trace
from networks import images, randomized, relative_error, zoo

X = images(4, 3, 16, 16)
NAMES = ["bottleneck", "inverted", "rep_vgg"]


def widest(network, **options) -> Plan:
    """At each position the longest segment that merges all of its layers."""
    space = enumerate_candidates(network, **options)
    chosen, position = [], 0
    while position < network.num_layers:
        here = [c for c in space.candidates if c.start == position]
        chosen.append(max(here, key=lambda c: (c.end, len(c.kept))))
        position = chosen[-1].end
    return plan_of(network, chosen)


def student_of(name):
    model = zoo(name)
    return rewrite(model, widest(trace(model, X)))


@pytest.mark.parametrize("name", NAMES)
def test_autocast_computes_in_half_precision_and_trains(name):
    student = student_of(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = student(X)
    assert output.dtype is torch.bfloat16
    output.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_compiled_it_computes_the_same(name):
    student = student_of(name)
    torch._dynamo.reset()
    compiled = torch.compile(student, backend="aot_eager")
    assert relative_error(compiled(X), student(X)) <= 1e-6
    student.train()
    compiled(X).square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


@pytest.fixture
def process_group():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def test_it_trains_distributed(process_group):
    student = student_of("bottleneck").train()
    parallel = nn.parallel.DistributedDataParallel(student)
    parallel(X).square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert {name.removeprefix("module.") for name in parallel.state_dict()} == set(
        student.state_dict()
    )


@pytest.mark.parametrize("name", NAMES)
def test_modes_states_and_copies_carry_over(name):
    student, other = student_of(name), student_of(name)
    norms = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    student.train()(X)
    assert norms
    assert not any(map(torch.equal, before, (norm.running_mean for norm in norms)))
    student.eval()
    assert not torch.equal(other(X), student(X))
    other.load_state_dict(student.state_dict())
    copied = copy.deepcopy(student)
    assert torch.equal(other(X), student(X))
    assert torch.equal(copied(X), student(X))
    assert torch.equal(merge(copied)(X), merge(student)(X))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [1, 7])
def test_it_runs_at_other_batch_sizes(name, batch):
    student = student_of(name)
    x = images(batch, 3, 16, 16, seed=4)
    assert relative_error(merge(student)(x), student(x)) <= 1e-5
    alone = torch.cat([student(image[None]) for image in x])
    assert relative_error(student(x), alone) <= 1e-5


def test_an_activation_at_a_boundary_is_in_the_rewritten_and_the_merged_network():
    model = zoo("inverted")
    network = trace(model, X)
    with_one, without = (
        rewrite(model, widest(network, boundary_activation=flag, max_segment=3))
        for flag in (True, False)
    )
    assert any(isinstance(module, nn.ReLU6) for module in with_one.modules())
    assert relative_error(merge(with_one)(X), with_one(X)) <= 1e-5
    assert relative_error(without(X), with_one(X)) > 1e-3


class DiffusionBlock(nn.Module):
    """A residual block with group norms and a time embedding, as in diffusion models."""

    def __init__(self, channels: int, embedded: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(2, channels), nn.GroupNorm(2, channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.time = nn.Linear(embedded, channels)

    def forward(self, x, time):
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + self.time(F.silu(time))[:, :, None, None]
        return x + self.conv2(F.silu(self.norm2(y)))


class Diffusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.block = nn.Conv2d(3, 4, 3, padding=1), DiffusionBlock(4, 6)
        self.last = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x, time):
        return self.last(self.block(self.first(x), time))


def test_a_removed_group_norm_reappears_behind_the_merged_convolution():
    model = randomized(Diffusion()).double()
    inputs = (images(2, 3, 9, 9, dtype=torch.float64), images(2, 6, dtype=torch.float64))
    network = trace(model, inputs, remove=("activation", "norm"))
    candidates = enumerate_candidates(network).candidates
    candidate = next(c for c in candidates if (c.start, c.end, c.kept) == (1, 3, (2, 3)))
    student = rewrite(model, replace_segment(network, candidate))
    block, (x, time) = model.block, inputs
    first = model.first(x)
    y = F.conv2d(F.pad(F.silu(block.norm1(first)), (2,) * 4), block.conv1.weight, block.conv1.bias)
    y = F.conv2d(
        y + block.time(F.silu(time))[:, :, None, None], block.conv2.weight, block.conv2.bias
    )
    expected = model.last(first + block.norm2(y))
    assert relative_error(student(*inputs), expected) <= 1e-12
    assert relative_error(merge(student)(*inputs), expected) <= 1e-12
    assert "block.norm2.weight" in student.state_dict()


class ConvNextBlock(nn.Module):
    """Depthwise convolution, then linear layers at every pixel with the channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand, self.reduce = (
            nn.Linear(channels, 3 * channels),
            nn.Linear(3 * channels, channels),
        )
        self.gamma = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.reduce(F.gelu(self.expand(y))) * self.gamma
        return x + y.permute(0, 3, 1, 2)


def test_linear_layers_at_every_pixel_merge_like_convolutions():
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), *(ConvNextBlock(4) for _ in range(2))))
    model, x = model.double(), images(2, 3, 12, 12, dtype=torch.float64)
    network = trace(model, x, remove=("activation", "norm"))
    assert [layer.name for layer in network.layers[1:4]] == [
        "1.depthwise",
        "1.expand",
        "1.reduce",
    ]
    space = enumerate_candidates(network)
    assert (1, 4) in {(c.start, c.end) for c in space.candidates}
    for candidate in space.candidates:
        student = rewrite(model, replace_segment(network, candidate))
        assert relative_error(merge(student)(x), student(x)) <= 1e-10


class NormActivation(nn.BatchNorm2d):
    """A batch norm that holds a dropout and its activation, as in timm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Dropout(0.0), nn.ReLU()

    def forward(self, x):
        norms = self.running_mean, self.running_var, self.weight, self.bias
        return self.act(self.drop(F.batch_norm(x, *norms, self.training, 0.1, self.eps)))


class Scaled(nn.Module):
    """A residual block with a learned scale behind its convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.bn1, self.identity = NormActivation(channels), nn.Identity()
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x):
        return self.identity(x) + self.gamma * self.conv2(self.bn1(self.conv1(x)))


@pytest.mark.parametrize(
    ("kept", "left"), [((), {"0.weight", "0.bias"}), ((3,), {"0", "1.conv2", "1.gamma"})]
)
def test_parameters_of_what_was_removed_go_even_if_a_part_of_their_module_stays(kept, left):
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Scaled(4)))
    network = trace(model, X)
    space = enumerate_candidates(network)
    chosen = next(c for c in space.candidates if (c.start, c.end, c.kept) == (1, 3, kept))
    student = rewrite(model, replace_segment(network, chosen))
    found = set(dict(student.named_parameters()))
    assert all(any(name.startswith(part) for part in left) for name in found)
    assert all(any(name.startswith(part) for name in found) for part in left)
    assert not list(student.named_buffers())
    student.train()(X).square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    merged = merge(student.eval())
    names = {"0.weight", "0.bias"} | ({"1.conv2.weight", "1.conv2.bias"} if kept else set())
    assert set(merged.state_dict()) == names
    other = rewrite(model, replace_segment(network, chosen))
    other.load_state_dict(dict(student.state_dict()))
    assert relative_error(merged(X), other(X)) <= 1e-5


def test_a_pickled_network_runs_but_is_told_that_it_lost_its_plan():
    student = student_of("bottleneck")
    file = io.BytesIO()
    torch.save(student, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(X), student(X))
    with pytest.raises(InputError, match=r"carries no plan.*torch\.save.*load_state_dict"):
        merge(loaded)
