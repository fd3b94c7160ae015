"""Networks of other libraries from end to end: traced, enumerated, rewritten and merged."""

from __future__ import annotations

import copy
from importlib import import_module

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from layermerge import SearchSpace, merge, rewrite, trace
from layermerge.cli import main
from layermerge.dataflow import REMOVABLE
from layermerge.latency.fidelity import random_plans
from layermerge.plan import original_plan, plan_of
from layermerge.verification import verification
from networks import conditioned, images, relative_error

pytestmark = pytest.mark.filterwarnings("default")  # other libraries warn of their own doings

slow = pytest.mark.slow
TIMM = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext50_32x4d",
    pytest.param("mobilenetv2_100", marks=slow),
    "mobilenetv3_small_100",
    "efficientnet_b0",
    "regnetx_002",
    "regnety_002",
    "repvgg_a0",
    "convnext_atto",
    pytest.param("convnext_tiny", marks=slow),
    pytest.param("densenet121", marks=slow),
    "hrnet_w18_small",
]
TORCHVISION = [
    pytest.param("vgg16_bn", marks=slow),
    "googlenet",
    "inception_v3",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "mnasnet0_5",
    pytest.param("fcn_resnet50", marks=slow),
    "deeplabv3_mobilenet_v3_large",
]
UNBOUNDED = ("resnet18", "mobilenetv3_small_100", "efficientnet_b0", "googlenet", "squeezenet1_1")
"""Those whose whole search space is quickly merged; in the others kernels are at most 7x7."""


def library(name):
    pytest.importorskip(name, reason=f"{name} is not installed")
    return import_module(name)


def timm_model(name):
    return library("timm").create_model(name, pretrained=False)


def torchvision_model(name):
    library("torchvision")
    options = {"weights_backbone": None} if name.startswith(("fcn", "deeplab")) else {}
    options |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return import_module("torchvision.models").get_model(name, weights=None, **options)


def leaves(output):
    return [value for value in pytree.tree_leaves(output) if isinstance(value, torch.Tensor)]


def assert_same(actual, expected, tolerance):
    assert type(actual) is type(expected)
    found, wanted = leaves(actual), leaves(expected)
    assert len(found) == len(wanted) > 0
    assert max(map(relative_error, found, wanted)) <= tolerance


def called_layers(module, network):
    """Names of the network's layers that a graph calls, in order."""
    names = {layer.name for layer in network.layers}
    return [str(node.target) for node in module.graph.nodes if str(node.target) in names]


def assert_original_is_exact(model, inputs):
    """With its norms folded it computes the same; in double precision, where nothing rounds."""
    inputs = tuple(value.double() if value.is_floating_point() else value for value in inputs)
    double = copy.deepcopy(model).double()
    merged = merge(rewrite(double, original_plan(trace(double, inputs, remove=REMOVABLE))))
    assert_same(merged(*inputs), double(*inputs), 1e-9)


@torch.no_grad()
def assert_exact(model, inputs, num_plans=1, *, computes_weights=False, **options):
    """Everything kept, the outputs are the model's; random plans merge exactly and as promised."""
    network = trace(model, inputs, remove=REMOVABLE)
    values = inputs.values() if isinstance(inputs, dict) else [inputs]
    random = [
        images(*v.shape, seed=2, dtype=v.dtype) if v.is_floating_point() else v for v in values
    ]
    kept = rewrite(model, original_plan(network))
    assert_same(kept(*random), model(*random), 1e-4)
    state = (kept if computes_weights else model).state_dict()
    assert_original_is_exact(model, random)
    space = SearchSpace(remove=REMOVABLE, **options).enumerate(network)
    merged_layers = 0
    for chosen in random_plans(space, num_plans):
        student = rewrite(model, plan_of(network, chosen))
        merged = merge(student)
        found = verification(merged)
        assert found.float64_error <= 1e-10
        assert found.error <= 1e-4
        assert student.state_dict().keys() <= state.keys()
        assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())
        last = [network.layers[c.kept[-1] - 1].name for c in chosen if c.kept]
        assert sorted(called_layers(merged, network)) == sorted(last)
        kept_layers = [network.layers[index - 1].name for c in chosen for index in c.kept]
        assert sorted(called_layers(student, network)) == sorted(kept_layers)
        for candidate in chosen:
            if candidate.kept and not candidate.is_original:
                conv = merged.get_submodule(network.layers[candidate.kept[-1] - 1].name)
                assert isinstance(conv, nn.Conv2d)
                assert conv.kernel_size == candidate.signature.kernel_size
                assert conv.stride == candidate.signature.stride
                assert conv.groups == candidate.signature.groups
                merged_layers += len(candidate.kept) > 1
    assert merged_layers > 0
    return network, student, merged


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_network_merges_exactly(name):
    image = images(1, 3, 64, 64)
    max_kernel = None if name in UNBOUNDED else 7
    assert_exact(conditioned(timm_model(name), image), image, max_kernel=max_kernel)


def test_a_network_of_standardised_weights_merges_exactly():
    image = images(1, 3, 64, 64)
    model = conditioned(timm_model("nf_resnet26"), image)
    assert_exact(model, image, max_kernel=7, computes_weights=True)


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_torchvision_network_merges_exactly(name):
    size = 96 if name == "inception_v3" else 64
    image = images(1, 3, size, size)
    max_kernel = None if name in UNBOUNDED else 7
    assert_exact(conditioned(torchvision_model(name), image), image, max_kernel=max_kernel)


def unet():
    return library("diffusers").UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def test_a_diffusers_unet_merges_exactly():
    model = unet().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() <= 1:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    inputs = {"sample": images(1, 3, 16, 16), "timestep": torch.tensor(7)}
    assert_exact(model, inputs, num_plans=3)


SAMPLE = [
    (timm_model, "resnet18"),
    (timm_model, "efficientnet_b0"),
    (timm_model, "convnext_atto"),
    (torchvision_model, "shufflenet_v2_x0_5"),
    (torchvision_model, "squeezenet1_1"),
]


@pytest.mark.parametrize(("make", "name"), SAMPLE)
def test_what_was_rewritten_is_a_module_like_any_other(make, name):
    image, others = images(1, 3, 64, 64), images(3, 3, 64, 64, seed=5)
    model = conditioned(make(name), image)
    network = trace(model, image, remove=REMOVABLE)
    space = SearchSpace(remove=REMOVABLE, max_kernel=7).enumerate(network)
    student = rewrite(model, plan_of(network, random_plans(space, 1, seed=1)[0]))
    with torch.no_grad():
        before = student(others)
        assert relative_error(merge(student)(others), before) <= 1e-4
        alone = torch.cat([student(one[None]) for one in others])
        assert relative_error(before, alone) <= 1e-4
    copied = copy.deepcopy(student)
    student.train()
    student(others).square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter -= 1e-3 * parameter.grad
    student.eval()
    with torch.no_grad():
        trained = student(others)
        assert not torch.equal(trained, before)
        assert torch.equal(copied(others), before)
        copied.load_state_dict(student.state_dict())
        assert torch.equal(copied(others), trained)
        assert relative_error(merge(copied)(others), trained) <= 1e-4


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mixer_s32_224"])
def test_where_nothing_merges_inspect_says_so(name, capsys):
    library("timm")
    assert main(["inspect", f"timm:{name}"]) == 0
    assert "No segment of two layers: nothing can merge in this model." in capsys.readouterr().out
