"""What tells models and functions apart that print alike or have equal weights."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import callbacks
from layermerge.configuration import fingerprint_function, fingerprint_model
from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError
from layermerge.finetuning import FinetuneSettings, finetune
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


def test_a_model_is_known_again_in_another_process():
    program = (
        "from networks import tiny_classifier; from test_configuration import as_traced, Negated;"
        "from layermerge.configuration import fingerprint_model;"
        "print(as_traced(tiny_classifier()), fingerprint_model(Negated()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    here = [as_traced(tiny_classifier()), fingerprint_model(Negated())]
    assert found.stdout.split() == here


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
