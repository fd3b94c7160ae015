"""Networks of other libraries, captured as they are."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import nn

from layermerge.graph import capture, graph_arguments
from networks import images, randomized

pytestmark = pytest.mark.filterwarnings("default")  # other libraries warn of their own doings


def library(name):
    return pytest.importorskip(name, reason=f"{name} is not installed")


def assert_captured(model, example):
    """The capture equals the model on another batch, and knows its convolutions by their names."""
    model = randomized(model)
    named = {"x": example} if isinstance(example, torch.Tensor) else example
    captured = capture(model, example)
    inputs = {
        name: torch.cat([value, *[images(*value.shape, seed=s) for s in (2, 3)]])
        if value.is_floating_point()
        else value
        for name, value in named.items()
    }
    with torch.no_grad():
        expected = model(*inputs.values())
        actual = captured(*inputs.values())
    assert type(actual) is type(expected)
    torch.testing.assert_close(
        *(torch.utils._pytree.tree_leaves(found) for found in (actual, expected)),
        rtol=1e-3,
        atol=1e-4,
    )
    convolutions = {name for name, part in model.named_modules() if isinstance(part, nn.Conv2d)}
    called = {node.target for node in captured.graph.nodes if node.op == "call_module"}
    assert captured.state_dict().keys() <= model.state_dict().keys()
    return captured, convolutions - called


def plain_convolutions(model):
    return [part for part in model.modules() if type(part) is nn.Conv2d]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("tf_efficientnet_b0", 64),
        ("convnext_atto", 64),
        ("repvgg_a0", 64),
        ("hrnet_w18_small", 64),
        ("regnety_002", 64),
    ],
)
def test_a_timm_network_is_captured(name, size):
    model = library("timm").create_model(name, pretrained=False)
    captured, left_out = assert_captured(model, images(1, 3, size, size))
    assert left_out == set()
    assert not [node for node in captured.graph.nodes if "opaque_reason" in node.meta]
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    assert len(plain_convolutions(captured)) == len(convolutions)


@pytest.mark.parametrize("name", ["nf_regnet_b0", "resnetv2_50x1_bit"])
def test_weight_standardised_convolutions_of_timm_are_plain_ones(name):
    model = library("timm").create_model(name, pretrained=False)
    captured, left_out = assert_captured(model, images(1, 3, 64, 64))
    assert left_out == set()
    kinds = {type(part).__name__ for part in captured.modules() if isinstance(part, nn.Conv2d)}
    assert kinds == {"Conv2d"}


@pytest.mark.parametrize(
    ("name", "size", "unused"),
    [
        ("shufflenet_v2_x0_5", 64, ""),
        ("mobilenet_v3_small", 64, ""),
        ("squeezenet1_1", 64, ""),
        ("lraspp_mobilenet_v3_large", 64, ""),
        ("googlenet", 64, "aux"),
    ],
)
def test_a_torchvision_network_is_captured(name, size, unused):
    library("torchvision")
    options = {"weights_backbone": None} if "lraspp" in name else {}
    options |= {"init_weights": False} if name == "googlenet" else {}
    model = import_module("torchvision.models").get_model(name, weights=None, **options)
    _, left_out = assert_captured(model, images(1, 3, size, size))
    assert all(unused and name.startswith(unused) for name in left_out)


def test_stochastic_depth_of_torchvision_still_drops_in_training():
    library("torchvision")
    model = import_module("torchvision.models").convnext_tiny(stochastic_depth_prob=1.0)
    captured, _ = assert_captured(model, images(1, 3, 32, 32))
    names = {type(part).__name__ for part in captured.modules()}
    assert "StochasticDepth" in names


def test_a_diffusers_unet_is_captured():
    model = library("diffusers").UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    example = {"sample": images(1, 3, 16, 16), "timestep": torch.tensor(7)}
    captured, left_out = assert_captured(model, example)
    assert left_out == set()
    arguments = graph_arguments(captured, example)
    assert arguments == tuple(example.values())


def test_a_transformers_backbone_is_captured():
    transformers = library("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 16], depths=[1, 2], layer_type="basic"
    )
    model = transformers.ResNetForImageClassification(config)
    captured, left_out = assert_captured(model, {"pixel_values": images(1, 3, 32, 32)})
    assert left_out == set()
    assert len(plain_convolutions(captured)) == len(plain_convolutions(model))
