"""What tells models and functions apart that print alike or have equal weights."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections import deque
from copy import deepcopy
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import callbacks
from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError
from layermerge.finetuning import FinetuneSettings, finetune
from layermerge.fingerprints import fingerprint_function, fingerprint_model
from layermerge.importance.estimation import estimate_importance
from layermerge.plan import original_plan
from layermerge.rewriting import rewrite
from layermerge.store import Study
from layermerge.tracing import trace
from networks import striped_images, tiny_classifier


@dataclass
class Slope:
    value: float


class Own(nn.Module):
    """A module of one's own, which prints nothing of what decides what it computes."""

    def __init__(self, slope=0.1, config=None, mean=0.0, table=0.0, scale=1.0):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        nn.init.constant_(self.conv.weight, 0.1)
        nn.init.constant_(self.conv.bias, 0.0)
        self.slope, self.config = slope, config or Slope(0.1)
        self.mean, self.table = torch.tensor(mean), [np.array([table])]
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, x):
        y = F.leaky_relu(self.conv(x), self.slope) * self.config.value
        return (y - self.mean) * self.scale + float(self.table[0][0])


class Negated(Own):
    def forward(self, x):
        return -super().forward(x) if self.slope in {"a", "b", 0.1} else x


def momentum(model):
    model[1].momentum = 0.3


def eps(model):
    model[1].eps = 1e-3


def frozen(model):
    model[0].requires_grad_(False)


def activation(model):
    model[2] = nn.SiLU()


def bound(model):
    model[2] = nn.Hardtanh(0, 5)


def dropout(model):
    model[5] = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))


def weight(model):
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] += 1e-3


def statistics(model):
    model[1].running_var[0] += 1e-3


def replaced_forward(model):
    model[2].forward = lambda x: F.relu(x) + 0.25


CHANGES = (
    momentum,
    eps,
    frozen,
    activation,
    bound,
    dropout,
    weight,
    statistics,
    replaced_forward,
)
UNSEEN_BY_THE_ORIGINALS_SCORE = (momentum, frozen, dropout)


def changed(change):
    model = tiny_classifier()
    change(model)
    return model.eval()


def as_traced(model):
    network = trace(model, torch.zeros(1, 1, 8, 8))
    return fingerprint_model(rewrite(model, original_plan(network)))


@pytest.mark.parametrize("fingerprint", [fingerprint_model, as_traced])
def test_every_difference_of_a_model_counts(fingerprint):
    found = [fingerprint(tiny_classifier()), *map(fingerprint, map(changed, CHANGES))]
    assert len({*found}) == len(found)
    assert fingerprint(deepcopy(tiny_classifier())) == found[0]


def test_what_a_module_of_ones_own_holds_counts():
    others = (
        Own(slope=0.2),
        Own(config=Slope(0.2)),
        Own(mean=0.5),
        Own(table=0.5),
        Own(scale=2.0),
        Negated(),
        Own(config=str.lower),
        Own(config=lambda: 0.5),
        Own(config=lambda: 0.25),
    )
    found = [*map(fingerprint_model, (Own(), *others))]
    assert len({*found}) == len(found)
    assert fingerprint_model(deepcopy(Own())) == found[0]


def known_again():
    functions = [fingerprint_function(make(0.5)) for make in MAKERS]
    return [*functions, *(fingerprint_model(make(0.5)) for make in HIDDEN.values())]


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_model_is_known_again_in_another_process():
    program = (
        "from networks import tiny_classifier; from test_fingerprints import as_traced, Negated;"
        "from layermerge.fingerprints import fingerprint_model;"
        "from layermerge.fingerprints import fingerprint_function; from test_fingerprints import *;"
        "print(as_traced(tiny_classifier()), fingerprint_model(Negated()), *known_again())"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    here = [as_traced(tiny_classifier()), fingerprint_model(Negated()), *known_again()]
    assert found.stdout.split() == here


def closed_over(value):
    def forward(x):
        return x * value

    return forward


def hooked(value):
    model = nn.Identity()
    model.register_forward_hook(lambda module, inputs, output: output * value)
    return model


def backward_hooked(value):
    model = nn.BatchNorm2d(2)
    model.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * value,))
    return model


def patched(value):
    model = nn.ReLU()
    model.forward = closed_over(value)
    return model


def patched_mode(value):
    model = nn.BatchNorm2d(2)
    model.train = lambda mode=True: value
    return model


def with_a_class_of_its_own(value):
    class Local(nn.Module):
        scale = value

        def forward(self, x):
            return self.scaled(x)

        def scaled(self, x):
            return x * value

    return Local()


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Plain:
    def __init__(self, value):
        self.value, self.itself = value, self


def holding(make):
    def build(value):
        model = nn.Conv2d(1, 1, 1)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        model.held = make(value)
        return model

    return build


HIDDEN = {
    "namespace": holding(lambda value: SimpleNamespace(p=value)),
    "arguments": holding(lambda value: argparse.Namespace(p=value)),
    "object": holding(Plain),
    "slots": holding(Slotted),
    "set": holding(lambda value: {"a", "b", value}),
    "bytes": holding(lambda value: str(value).encode()),
    "decimal": holding(lambda value: Decimal(str(value))),
    "deque": holding(lambda value: deque([value])),
    "number": holding(np.float32),
    "mixed list": holding(lambda value: [0.1, np.float32(value)]),
    "objects": holding(lambda value: {"one": Plain(value)}),
    "partial": holding(lambda value: partial(F.relu, inplace=value > 0.3)),
    "method": holding(lambda value: Plain(value).__init__),
    "closure": holding(closed_over),
    "enumeration": holding(lambda value: Size.LARGE if value > 0.3 else Size.SMALL),
    "attribute of a layer": holding(float),
    "hook": hooked,
    "backward hook": backward_hooked,
    "forward": patched,
    "mode": patched_mode,
    "class": with_a_class_of_its_own,
    "average pool": lambda value: nn.AvgPool2d(2, count_include_pad=value > 0.3),
    "upsample": lambda value: nn.Upsample(4, mode="bilinear", align_corners=value > 0.3),
    "in a container": lambda value: nn.Sequential(nn.Sequential(hooked(value))),
}


class Times(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x * self.value


def with_cached(value):
    class Cached(nn.Module):
        @cached_property
        def p(self):
            return value

        @lru_cache  # noqa: B019
        def q(self):
            return value

    return Cached()


def with_named(value):
    class Named(nn.Module):
        class Settings:
            k = value

        def __len__(self):
            return round(value * 100)

    return Named()


HIDDEN |= {
    "traced": lambda value: torch.jit.trace(Times(value), torch.zeros(2)),
    "scripted": lambda value: torch.jit.script(nn.Sequential(nn.Threshold(value, 0.0))),
    "cached": with_cached,
    "named": with_named,
    "compiled": lambda value: torch.compile(hooked(value), backend="eager"),
    "text": holding(lambda value: np.array(["a", str(value)])),
    "dates": holding(lambda value: np.array([round(value * 100)], "datetime64[D]")),
}


class Attributes(dict):
    """Settings whose names that are not there are None."""

    __getattr__ = dict.get


class Items(dict):
    __getattr__ = dict.__getitem__


HIDDEN |= {
    "attributes": holding(lambda value: Attributes(p=value)),
    "items": holding(lambda value: Items(p=value)),
    "sets of sets": holding(lambda value: {frozenset({"u", "v", "w"}), frozenset({"a", value})}),
    "operation": holding(lambda value: torch.ops.aten.relu if value > 0.3 else torch.ops.aten.elu),
    "overload": holding(lambda value: [torch.ops.aten.relu.default, value]),
}


class Size(Enum):
    SMALL, LARGE = 1, 2


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("name", HIDDEN)
def test_whatever_a_module_holds_counts(name):
    make = HIDDEN[name]
    assert fingerprint_model(make(0.5)) == fingerprint_model(make(0.5))
    assert fingerprint_model(make(0.5)) != fingerprint_model(make(0.25))


def test_operations_are_known_by_name_whatever_ran_before():
    def of(operation):
        return fingerprint_model(holding(lambda value: operation)(0))

    before = of(torch.ops.aten.celu.default), of(torch.ops.aten.celu)
    torch.ops.aten.celu.default(torch.zeros(1))
    torch.ops.aten.celu.default(torch.zeros(1, device="meta"))
    torch.ops.aten.celu.out(torch.zeros(1), out=torch.zeros(1))
    assert (of(torch.ops.aten.celu.default), of(torch.ops.aten.celu)) == before
    assert len({*before, of(torch.ops.aten.selu), of(torch.ops.aten.selu.default)}) == 4


class Awkward:
    """Raises wherever it is looked at."""

    def __init__(self):
        self.__dict__["hidden"] = 1

    @property
    def hidden(self):
        raise ValueError("hidden")

    def __repr__(self):
        raise ValueError("repr")


def not_bound_yet():
    def inner():
        return later

    if inner is None:
        later = 1
    return inner


def test_what_raises_when_it_is_looked_at_is_no_obstacle():
    make = holding(lambda value: [Awkward(), {Awkward}, not_bound_yet()])
    assert fingerprint_model(make(0)) == fingerprint_model(make(0))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("has_first", [False, True])
def test_compiling_changes_nothing(has_first):
    plain, compiled = tiny_classifier(), tiny_classifier()
    before = fingerprint_model(plain)
    assert fingerprint_model(torch.compile(plain, backend="eager")) == before
    compiled.compile(backend="eager")
    if has_first:
        compiled(torch.zeros(1, 1, 8, 8))
    assert fingerprint_model(compiled) == before


def test_the_state_of_generators_and_locks_does_not_count():
    model = holding(lambda value: [torch.Generator(), threading.Lock()])(0.5)
    before = fingerprint_model(model)
    model.held[0].manual_seed(3)
    assert fingerprint_model(model) == before


ODD_TENSORS = {
    "sparse": torch.eye(3).to_sparse(),
    "conjugate": torch.complex(torch.ones(3), torch.ones(3)).conj(),
    "negative": torch.complex(torch.ones(3), torch.ones(3)).conj().imag,
    "expanded": torch.ones(1, 3).expand(3, 3),
    "empty": torch.zeros(0),
    "without values": torch.zeros(2, device="meta"),
    "bits": torch.ones(3, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("name", ODD_TENSORS)
def test_tensors_of_every_kind_are_hashed(name):
    one, other = Own(), Own()
    one.mean, other.mean = ODD_TENSORS[name], ODD_TENSORS[name].clone()
    assert fingerprint_model(one) == fingerprint_model(other) != fingerprint_model(Own())


@pytest.mark.parametrize("change", UNSEEN_BY_THE_ORIGINALS_SCORE)
def test_models_that_train_otherwise_have_scores_of_their_own_in_a_study(change):
    with Study() as study:
        found = []
        for model in (tiny_classifier(), changed(change), tiny_classifier()):
            space = enumerate_candidates(trace(model, torch.zeros(1, 1, 8, 8)), max_kernel=3)
            trained = []
            estimate_importance(
                model,
                space.network,
                space,
                score_fn=callbacks.score,
                train_fn=trained.append,
                estimator="test",
                study=study,
                progress=False,
            )
            found.append(len(trained))
    assert found[0] == found[1] > 0
    assert found[2] == 0


SETTINGS = FinetuneSettings(epochs=1, batch_size=32, distillation=0.5)


@pytest.mark.parametrize("change", [momentum, frozen, activation, dropout])
@pytest.mark.parametrize("whose", ["plan or weights of the network", "teacher"])
def test_a_checkpoint_of_a_model_that_trains_otherwise_is_refused(
    tmp_path, monkeypatch, change, whose
):
    monkeypatch.setattr("layermerge.checkpoints.EVERY_SECONDS", 0.0)

    def stopped():
        yield striped_images(32)
        raise KeyboardInterrupt

    def train(model, teacher, data):
        finetune(
            model,
            data,
            FinetuneSettings(steps=2),
            teacher=teacher,
            checkpoint=tmp_path / "state.ckpt",
            progress=False,
        )

    with pytest.raises(KeyboardInterrupt):
        train(tiny_classifier(), tiny_classifier(1), stopped())
    models = [tiny_classifier(), tiny_classifier(1)]
    change(models[whose == "teacher"])
    with pytest.raises(InputError, match=f"another training, which differs in.*{whose}"):
        train(models[0].eval(), models[1].eval(), [striped_images(32)])


def weighted(weights):
    return nn.CrossEntropyLoss(weight=torch.tensor(weights))


def scaled_loss(scale):
    return lambda outputs, labels: scale * F.cross_entropy(outputs, labels)


def with_default(scale=1.0):
    def loss(outputs, labels, scale=scale):
        return scale * F.cross_entropy(outputs, labels)

    return loss


class Loss:
    def __init__(self, weights):
        self.weights = torch.tensor(weights)

    def __call__(self, outputs, labels):
        return F.cross_entropy(outputs, labels, self.weights)

    def method(self, outputs, labels):
        return F.cross_entropy(outputs, labels, self.weights)


MAKERS = (
    lambda value: weighted([value, 1.0, 1.0]),
    scaled_loss,
    with_default,
    lambda value: partial(F.cross_entropy, weight=torch.tensor([value, 1.0, 1.0])),
    lambda value: partial(F.cross_entropy, label_smoothing=value),
    lambda value: Loss([value, 1.0, 1.0]),
    lambda value: Loss([value, 1.0, 1.0]).method,
    lambda value: nn.CrossEntropyLoss(label_smoothing=value),
    nn.HuberLoss,
    lambda value: scaled_loss({"cat", "cow", "emu", value}),
    lambda value: scaled_loss(scaled_loss(value)),
    lambda value: scaled_loss(SimpleNamespace(value=value)),
)


@pytest.mark.parametrize("make", MAKERS)
def test_functions_are_known_by_what_they_carry(make):
    assert fingerprint_function(make(0.5)) == fingerprint_function(make(0.5))
    assert fingerprint_function(make(0.5)) != fingerprint_function(make(0.25))


def test_functions_are_known_by_their_code():
    one, other = (lambda a, b: F.cross_entropy(a, b)), (lambda a, b: 2 * F.cross_entropy(a, b))
    functions = [one, other, F.cross_entropy, F.nll_loss, *(make(0.5) for make in MAKERS)]
    found = {*map(fingerprint_function, functions)}
    assert len(found) == len(functions)
