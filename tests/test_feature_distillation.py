from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from layermerge import SearchSpace, rewrite, trace
from layermerge.errors import InputError
from layermerge.feature_distillation import FeatureDistance
from layermerge.finetuning import FinetuneSettings, finetune
from layermerge.latency.fidelity import random_plans
from layermerge.plan import plan_of
from networks import striped_images, tiny_classifier

DATA = striped_images(64)
IMAGES, LABELS = DATA
SETTINGS = FinetuneSettings(
    steps=1, batch_size=len(IMAGES), distillation=0.0, feature_distillation=0.5
)


class Network(nn.Module):
    """A body with two feature maps, a pooling to one pixel, and a head."""

    def __init__(self, seed, width=4, padding=1):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Conv2d(1, width, 3, padding=1)
            self.relu = nn.ReLU(inplace=True)
            self.last = nn.Conv2d(width, 4, 3, padding=padding)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.relu(self.last(self.relu(self.first(x))))
        return self.head(self.pool(x).flatten(1))

    def maps(self, x):
        first = self.first(x)
        last = self.last(first.relu())
        return {"first": first, "last": last, "relu": last.relu()}


def relative_error(student, teacher, name):
    own, wanted = (network.maps(IMAGES)[name].detach() for network in (student, teacher))
    return float((own - wanted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize(
    ("names", "compared"),
    [((), ["relu"]), (("first",), ["first"]), (("first", "last"), ["first", "last"])],
)
def test_the_loss_gains_the_relative_squared_error_of_the_features(names, compared):
    """Also of a module whose output is overwritten by the activation behind it."""
    student, teacher = Network(0), Network(1).eval()
    hard = nn.functional.cross_entropy(student(IMAGES), LABELS).item()
    errors = [relative_error(student, teacher, name) for name in compared]
    settings = replace(SETTINGS, features=names)
    (loss,) = finetune(student, DATA, settings, teacher=teacher)
    assert loss == pytest.approx(hard + 0.5 * sum(errors) / len(errors), rel=1e-5)


def test_the_default_is_the_last_map_of_more_than_one_pixel_and_of_equal_shape():
    assert FeatureDistance(Network(0), Network(1), IMAGES).names == ("relu",)
    narrower = Network(0, padding=0)
    narrower.relu = nn.Identity()
    narrower.first = nn.Conv2d(1, 4, 3, padding=1)
    assert FeatureDistance(narrower, Network(1), IMAGES).names == ("first",)


def test_features_of_a_student_approach_those_of_its_teacher():
    student, teacher = Network(0), Network(1).eval()
    before = relative_error(student, teacher, "relu")
    settings = replace(SETTINGS, steps=60, distillation=1.0, learning_rate=1e-2)
    finetune(student, DATA, replace(settings, feature_distillation=10.0), teacher=teacher)
    assert relative_error(student, teacher, "relu") < 0.3 * before
    assert not any(module._forward_hooks for net in (student, teacher) for module in net.modules())


def test_a_rewritten_network_shares_its_last_map_with_the_original():
    model = tiny_classifier()
    network = trace(model, IMAGES[:1])
    for plan in random_plans(SearchSpace().enumerate(network), 3):
        student = rewrite(model, plan_of(network, plan))
        losses = finetune(student, DATA, replace(SETTINGS, steps=2), teacher=model)
        assert len(losses) == 2


def test_modes_and_statistics_stay_as_they_were():
    student, teacher = tiny_classifier().train(), tiny_classifier(seed=1)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    FeatureDistance(student, teacher, IMAGES)
    assert all(module.training for module in student.modules())
    assert not any(module.training for module in teacher.modules())
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("middle", r"names 'middle', which computes no tensor in the network"),
        ("last", r"names 'last', which computes \(1, 4, 6, 6\) here and \(1, 4, 8, 8\) in the"),
    ],
)
def test_modules_that_cannot_be_compared_are_refused_with_those_that_can(name, message):
    with pytest.raises(InputError, match=message) as caught:
        FeatureDistance(Network(0, padding=0), Network(1), IMAGES, (name,))
    assert "feature maps of both are first" in str(caught.value)


def test_networks_that_share_nothing_are_told_what_to_do():
    with pytest.raises(InputError, match=r"no feature map .*name modules in `features`"):
        FeatureDistance(nn.Sequential(Network(0)), Network(1), IMAGES)


def test_features_need_a_teacher():
    with pytest.raises(InputError, match=r"feature_distillation is 0\.5, which needs a teacher"):
        finetune(Network(0), DATA, SETTINGS)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_named(value):
    with pytest.raises(InputError, match="feature_distillation must be at least 0"):
        replace(SETTINGS, feature_distillation=value)


def test_features_without_a_weight_are_refused():
    with pytest.raises(InputError, match=r"features must be empty without feature_distillation"):
        replace(SETTINGS, feature_distillation=0.0, features=("last",))


def test_settings_without_effect_are_not_in_the_name_of_an_estimator():
    plain = replace(SETTINGS, feature_distillation=0.0)
    assert "features" not in plain.fingerprint
    assert replace(SETTINGS, features=("last",)).fingerprint != SETTINGS.fingerprint
