"""A network comes back from a function that scores it in the state that it was in."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from layermerge.errors import InputError
from layermerge.finetuning import score_classification
from layermerge.latency.options import LatencyOptions
from layermerge.lending import lent, scored
from layermerge.options import Options
from layermerge.pipeline import compress
from layermerge.search_space import SearchSpace
from layermerge.store import Study
from networks import striped_images, tiny_classifier


def left_training(network):
    network.train()


def left_in_float64(network):
    network.double()


def left_in_half_without_a_norm(network):
    network.half()[1].float()


def left_frozen(network):
    network.requires_grad_(False)


def left_trainable(network):
    network.requires_grad_(True)


def left_inference_mode(network):
    torch.set_grad_enabled(False)


def left_as_float64_by_default(network):
    torch.set_default_dtype(torch.float64)


def left_quantised(network):
    for parameter in network.parameters():
        parameter.data = (parameter.data * 4).round() / 4


def left_channels_last(network):
    network.to(memory_format=torch.channels_last)


def left_autocasting(network):
    torch.set_autocast_enabled("cpu", True)


def left_on_the_default_device_meta(network):
    torch.set_default_device("meta")


def left_on_no_device(network):
    network.to("meta")


def left_trained(network):
    network.train()(striped_images(8)[0])  # the statistics of norms move
    with torch.no_grad():
        network[0].weight.zero_()
    network[6].bias.data.zero_()


def left_on_another_number_of_threads(network):
    torch.set_num_threads(torch.get_num_threads() + 1)


def left_with_a_hook(network):
    network[3].register_forward_hook(lambda module, inputs, output: 0 * output)


def left_with_another_eps(network):
    network[1].eps = 1.0


def left_with_another_layer(network):
    network[2] = nn.Tanh()


LEAVING = (
    left_with_a_hook,
    left_with_another_eps,
    left_with_another_layer,
    left_training,
    left_in_float64,
    left_in_half_without_a_norm,
    left_frozen,
    left_trainable,
    left_inference_mode,
    left_as_float64_by_default,
    left_on_no_device,
    left_quantised,
    left_channels_last,
    left_autocasting,
    left_on_the_default_device_meta,
    left_trained,
    left_on_another_number_of_threads,
)


def state_of(network):
    return (
        [module.training for module in network.modules()],
        repr(network),
        [len(module._forward_hooks) for module in network.modules()],
        [(each.dtype, each.device.type, each.requires_grad) for each in network.parameters()],
        [(each.dtype, each.device.type) for each in network.buffers()],
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
        network[0].weight.stride(),
    )


@pytest.mark.parametrize("leave", LEAVING)
@pytest.mark.parametrize("fails", [False, True])
def test_whatever_is_left_behind_is_put_back(leave, fails):
    network = tiny_classifier()
    network[0].requires_grad_(False)
    network[3].train()
    before, weights = state_of(network), deepcopy(network.state_dict())
    own = [*network.parameters()]

    def score(module):
        leave(module)
        if fails:
            raise ArithmeticError("mine")
        return 0.5

    if fails:
        with pytest.raises(ArithmeticError):
            scored("score_fn", score, network)
    else:
        assert scored("score_fn", score, network) == 0.5
    assert state_of(network) == before
    assert all(map(torch.equal, network.state_dict().values(), weights.values()))
    assert all(one is other for one, other in zip(network.parameters(), own, strict=True))


def test_parameters_that_were_replaced_are_those_of_before():
    network = tiny_classifier()
    own = network[0].weight
    with lent(network):
        network[0].weight = nn.Parameter(torch.zeros(4, 1, 3, 3))
    assert network[0].weight is own


class Frozen(dict):
    """As a library's settings, which must not change."""

    def update(self, *arguments):
        raise TypeError("frozen")

    clear = __setitem__ = update


def test_attributes_that_must_not_change_are_left_alone():
    network = tiny_classifier()
    network.settings = settings = Frozen(a=1)
    network.after = "this"
    assert scored("score_fn", lambda network: 1.0, network) == 1.0
    assert network.settings is settings == {"a": 1}
    assert network.after == "this"


def test_a_hook_from_before_can_still_be_removed():
    network, seen = tiny_classifier(), []
    handle = network.register_forward_hook(lambda *arguments: seen.append(1))
    with lent(network):
        network(striped_images(1)[0])
        handle.remove()
    network(striped_images(1)[0])
    handle.remove()
    network(striped_images(1)[0])
    assert len(seen) == 2


def test_what_is_no_number_names_the_function():
    with pytest.raises(InputError, match="mine must return a finite number, got None"):
        scored("mine", lambda network: None, tiny_classifier())


def test_scoring_leaves_a_norm_frozen_that_is():
    network = tiny_classifier().train()
    network[1].eval()
    score_classification(network, [striped_images(16)])
    assert [module.training for module in network.children()] == [True, False, *[True] * 5]


@pytest.fixture(scope="module")
def compressed():
    """Two compressions of a model with dropout, by callbacks that leave all as it should not be."""
    model = nn.Sequential(*tiny_classifier()[:6], nn.Dropout(0.1), tiny_classifier()[6]).eval()

    def score(network):
        value = score_classification(network, [striped_images(32)])
        network.double().requires_grad_(False).train()
        return value

    def train(network):
        with torch.no_grad():
            for each in network.parameters():
                each.add_(0.01 * torch.rand(()))
        network.train()

    latency = LatencyOptions(threads=1, target_rsd=0.2, max_seconds=1.5)
    options = Options(latency=latency, space=SearchSpace(max_kernel=5))
    example = torch.zeros(16, 1, 8, 8)
    callbacks = {"score_fn": score, "train_fn": train, "fraction": 1.0}
    with Study() as study:
        first = compress(model, example, **callbacks, options=options, study=study)
        renamed = replace(options, finetuner="again")
        return first, compress(model, example, **callbacks, options=renamed, study=study)


def test_compressed_networks_do_not_depend_on_what_callbacks_leave(compressed):
    for each in compressed:
        for network in (each.model, each.rewritten, each.base):
            assert not any(module.training for module in network.modules())
            assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_the_final_fine_tune_is_seeded(compressed):
    one, other = (each.rewritten.state_dict() for each in compressed)
    assert one.keys() == other.keys()
    assert all(map(torch.equal, one.values(), other.values()))
