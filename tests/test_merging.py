from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError, TrainingError, VerificationError
from layermerge.merging import merge
from layermerge.plan import Plan, PlannedSegment, original_plan
from layermerge.rewriting import rewrite
from layermerge.tracing import trace
from layermerge.verification import Sample, finite_sample, verification, verify
from networks import ZOO, Block, ConvNorm, images, randomized, relative_error, zoo
from random_networks import networks, plans

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def one_segment_per_start(network):
    """Keep all layers; of the segments at each position, take the longest."""
    segments, position = [], 0
    while position < network.num_layers:
        end = max(segment.end for segment in network.segments if segment.start == position)
        segments.append(PlannedSegment(position, end, (1, 1), tuple(range(position + 1, end + 1))))
        position = end
    return Plan(network.fingerprint, network.num_layers, network.inputs, tuple(segments))


def rewritten_zoo(name):
    model = zoo(name)
    return rewrite(model, one_segment_per_start(trace(model, images(2, 3, 16, 16))))


def convolutions(model):
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def total_padding(merged, name):
    """Padding of a convolution and of the F.pad in front of it."""
    conv = merged.get_submodule(name)
    padding = (conv.padding[1], conv.padding[1], conv.padding[0], conv.padding[0])
    (node,) = (node for node in merged.graph.nodes if node.target == name)
    (source,) = node.all_input_nodes
    if source.target is F.pad:
        padding = tuple(a + b for a, b in zip(padding, source.args[1], strict=True))
    return padding


def assert_is_as_promised(merged, network, chosen):
    for candidate in chosen:
        if not candidate.kept:
            continue
        name = network.layers[candidate.kept[-1] - 1].name
        conv, signature = merged.get_submodule(name), candidate.signature
        assert (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride) == (
            signature.in_channels,
            signature.out_channels,
            signature.kernel_size,
            signature.stride,
        )
        assert (conv.groups, conv.dilation) == (signature.groups, signature.dilation)
        assert total_padding(merged, name) == signature.padding


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_merged_equals_rewritten_and_is_what_the_candidates_promised(data):
    drawn = data.draw(networks())
    model, inputs = drawn.model.float(), tuple(value.float() for value in drawn.inputs)
    network = trace(model, inputs)
    plan, chosen = data.draw(plans(enumerate_candidates(network)))
    rewritten = rewrite(model, plan)
    merged = merge(rewritten)
    found = verification(merged)
    assert found.float64_error <= 1e-12
    assert found.error <= 1e-5
    expected = rewritten(*inputs)
    assume(bool(expected.any()))  # a last ReLU may leave nothing to compare
    assert relative_error(merged(*inputs), expected) <= 1e-5
    assert_is_as_promised(merged, network, chosen)


@pytest.mark.parametrize("name", ZOO)
def test_segments_of_each_network_become_one_convolution(name):
    rewritten = rewritten_zoo(name)
    merged = merge(rewritten)
    plan = one_segment_per_start(trace(zoo(name), images(2, 3, 16, 16)))
    assert len(convolutions(merged)) == len(plan.segments)
    other = images(3, 3, 16, 16, seed=5)
    assert relative_error(merged(other), rewritten(other)) <= 1e-5


@pytest.mark.parametrize("name", ZOO)
def test_keeping_everything_merges_norms_only(name):
    model, x = zoo(name).double(), images(2, 3, 16, 16, dtype=torch.float64)
    merged = merge(rewrite(model, original_plan(trace(model, x))))
    assert relative_error(merged(x), model(x)) <= 1e-12
    assert len(convolutions(merged)) == len(convolutions(model))


def test_a_segment_may_begin_right_where_another_ended():
    model = randomized(nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4)))).double()
    x = images(2, 4, 8, 8, dtype=torch.float64)
    network = trace(model, x)
    segments = (PlannedSegment(0, 2, (5, 5), (1, 2)), PlannedSegment(2, 4, (5, 5), (3, 4)))
    merged = merge(rewrite(model, Plan(network.fingerprint, 4, network.inputs, segments)))
    assert [conv.kernel_size for conv in convolutions(merged)] == [(5, 5), (5, 5)]


def test_the_rewritten_network_is_left_as_it_is():
    rewritten = rewritten_zoo("basic")
    x = images(2, 3, 16, 16)
    before, code, output = copy.deepcopy(rewritten.state_dict()), rewritten.code, rewritten(x)
    merged = merge(rewritten)
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.zero_()
    state = rewritten.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], value) for name, value in before.items())
    assert rewritten.code == code
    assert torch.equal(rewritten(x), output)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_of_another_precision_merges_in_it(dtype):
    model = randomized(nn.Sequential(ConvNorm(4, 4, 3, nn.ReLU()), ConvNorm(4, 4, 3))).to(dtype)
    x = images(2, 4, 8, 8).to(dtype)
    merged = merge(rewrite(model, one_segment_per_start(trace(model, x))))
    assert {parameter.dtype for parameter in merged.parameters()} == {dtype}
    assert verification(merged).float64_error <= 1e-12
    assert verification(merged).error <= 8 * torch.finfo(dtype).eps


def test_what_rounds_before_the_merge_is_not_held_against_it():
    """A 1x1 convolution and its inverse cancel: in float32 only once they are one."""
    generator = torch.Generator().manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(8, 8, generator=generator))
    factors = torch.logspace(0, 5, 8)
    model = randomized(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)))
    with torch.no_grad():
        model[0].weight[:, :, 0, 0] = left @ torch.diag(factors) @ right
        model[2].weight[:, :, 0, 0] = right.T @ torch.diag(1 / factors) @ left.T
    rewritten = rewrite(model, one_segment_per_start(trace(model, images(2, 8, 12, 12))))
    merged = merge(rewritten)
    x = images(2, 8, 12, 12)
    with torch.no_grad():
        assert relative_error(merged(x), rewritten(x)) > 1e-4
    assert verification(merged).float64_error <= 1e-10
    assert verification(merged).error <= 1e-6


@pytest.mark.parametrize(("noise", "is_refused"), [(1e-7, False), (1e-3, True)])
def test_what_rounding_the_weights_changes_is_no_fault_of_a_merge(noise, is_refused):
    """The difference of two channels that are almost equal; the rewritten network has it exact."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)).eval()
    with torch.no_grad():
        model[0].weight[:, 0, 0, 0] = torch.tensor([1.0, 1.0 + 2.0**-13])
        model[1].weight[0, :, 0, 0] = torch.tensor([1.0, -1.0])
        for part in model:
            part.bias.zero_()
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    rewritten = rewrite(model, original_plan(trace(model, x)))
    merged = merge(rewritten)
    with torch.no_grad():
        merged.get_submodule("0").weight[0] += noise
        sample = Sample((x,), rewritten(x))
        assert relative_error(merged(x), sample.outputs) > 2e-4
    if is_refused:
        with pytest.raises(VerificationError, match="differs from the rewritten one"):
            verify(rewritten, merged, {}, sample)
    else:
        assert verify(rewritten, merged, {}, sample).error > 2e-4


def test_a_network_that_computes_something_else_is_refused_with_its_segment():
    model = randomized(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), Block(ConvNorm(4, 4, 3))))
    rewritten = rewrite(model, original_plan(trace(model, images(1, 4, 9, 9))))
    merged = merge(rewritten)
    with torch.no_grad():
        merged.get_submodule("2.branch.0").weight += 1
    with pytest.raises(VerificationError, match=r"differs from the rewritten one by .*expected"):
        verify(rewritten, merged, {"segment 0..1": 0.0}, finite_sample(rewritten))


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.Dropout])
def test_training_mode_is_refused(kind):
    part = kind(4) if kind is nn.BatchNorm2d else kind(0.5)
    model = randomized(nn.Sequential(nn.Conv2d(4, 4, 3), part, nn.Conv2d(4, 4, 3)))
    rewritten = rewrite(model, original_plan(trace(model, images(1, 4, 9, 9)))).train()
    before = copy.deepcopy(rewritten.state_dict())
    with pytest.raises(InputError, match=r"'1' of the model is in training mode.*model\.eval\(\)"):
        merge(rewritten)
    assert all(torch.equal(value, before[name]) for name, value in rewritten.state_dict().items())


def test_a_merge_runs_the_rewritten_network_once():
    rewritten = rewrite(zoo("plain"), original_plan(trace(zoo("plain"), images(2, 3, 16, 16))))
    runs = []
    rewritten.register_forward_hook(lambda module, inputs, output: runs.append(module))
    merge(rewritten)
    assert runs.count(rewritten) == 1


@pytest.mark.parametrize("what", [nn.Conv2d(1, 1, 1), "model.pt"])
def test_what_was_not_rewritten_is_refused(what):
    with pytest.raises(InputError, match=r"expected a network made by layermerge\.rewrite.*call"):
        merge(what)


def test_a_network_that_computes_nan_is_blamed_on_its_training():
    rewritten = rewritten_zoo("basic")
    name, weight = next(rewritten.named_parameters())
    with torch.no_grad():
        weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match=rf"{name}.*learning rate.*finetune_fn"):
        merge(rewritten)


class OfLogarithms(nn.Module):
    """Is defined for positive images and numbers alone."""

    def __init__(self):
        super().__init__()
        self.body = zoo("basic")

    def forward(self, image, step):
        return self.body(torch.log(image) / torch.log(step + 1)[:, None, None, None])


def logarithms():
    model = OfLogarithms().eval()
    example = {"image": images(2, 3, 16, 16).abs() + 0.1, "step": torch.tensor([3, 5])}
    return model, example, rewrite(model, original_plan(trace(model, example)))


def test_a_network_that_is_defined_for_positive_values_alone_can_be_merged():
    model, example, rewritten = logarithms()
    merged = merge(rewritten)
    assert verification(merged).error < 1e-4
    assert relative_error(merged(**example), model(**example)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_subnormal_weights_become_zero_but_in_half_precision(dtype):
    tiny = torch.finfo(dtype).tiny
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()).eval().to(dtype)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -tiny / 2, 2 * tiny, -1.0]).reshape(2, 2, 1, 1))
        model[0].bias.copy_(torch.tensor([tiny / 2, -tiny]))
    value = images(1, 2, 3, 3, dtype=dtype)
    merged = merge(rewrite(model, original_plan(trace(model, value))))
    conv = merged.get_submodule("0")
    left = [*conv.weight.detach().flatten(), *conv.bias.detach()]
    expected = [1.0, -tiny / 2, 2 * tiny, -1.0, tiny / 2, -tiny]
    if dtype != torch.float16:
        expected[1] = expected[4] = 0.0
    assert [float(weight) for weight in left] == expected


class Frozen(nn.Module):
    """Its first half runs without gradients."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.last = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        with torch.no_grad():
            y = self.first(x)
        return self.last(torch.relu(y))


def weight_normed():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        weight_norm(nn.Conv2d(8, 8, 3, padding=1)),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
    )


@pytest.mark.parametrize("make", [Frozen, weight_normed])
def test_layers_without_gradients_and_of_computed_weights_merge(make):
    model = randomized(make())
    x = images(2, 3, 16, 16)
    rewritten = rewrite(model, one_segment_per_start(trace(model, x)))
    merged = merge(rewritten)
    assert verification(merged).float64_error <= 1e-12
    assert relative_error(merged(x), rewritten(x)) <= 1e-5
    assert len(convolutions(merged)) < len(convolutions(rewritten))


class Decides(nn.Module):
    """Returns indices, truth values and nothing at all besides its values."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))

    def forward(self, x):
        y = self.body(x)
        return y.argmax(1), y > 0, y[:, :0], y


def test_outputs_that_are_no_numbers_are_not_compared():
    model = randomized(Decides())
    network = trace(model, images(2, 3, 12, 12))
    chosen = Plan(
        network.fingerprint,
        network.num_layers,
        network.inputs,
        (PlannedSegment(0, 2, (5, 5), (1, 2)),),
    )
    student = rewrite(model, chosen)
    value = images(3, 3, 12, 12, seed=1)
    with torch.no_grad():
        expected, actual = student(value), merge(student)(value)
    assert relative_error(actual[3], expected[3]) < 1e-5
    assert [part.shape for part in actual] == [part.shape for part in expected]


@pytest.mark.parametrize("size", [12, 13])
def test_a_pooling_that_rounds_up_is_not_merged_for_other_sizes_may_not_divide(size):
    parts = [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(4, 4, 1)]
    model = randomized(nn.Sequential(*parts))
    network = trace(model, images(2, 3, 12, 12))
    assert "ceil_mode=True at _2" in network.explain()
    kept = merge(rewrite(model, original_plan(network)))
    value = images(2, 3, size, size)
    with torch.no_grad():
        assert relative_error(kept(value), model(value)) < 1e-5


def test_a_norm_over_the_pixels_is_not_moved_where_they_are_fewer():
    parts = [nn.Conv2d(3, 4, 3), nn.LayerNorm([4, 10, 10]), nn.ReLU(), nn.Conv2d(4, 4, 3)]
    network = trace(
        randomized(nn.Sequential(*parts)), images(2, 3, 12, 12), remove=("activation", "norm")
    )
    assert "LayerNorm at 1 is not over the channels" in network.explain()


def test_what_is_merged_is_not_merged_again():
    with pytest.raises(InputError, match="is merged already"):
        merge(merge(rewritten_zoo("basic")))
