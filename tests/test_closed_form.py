from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError
from layermerge.finetuning import FinetuneSettings, finetune, score_classification
from layermerge.importance.closed_form import NormalEquations, fit_convolution, merge_least_squares
from layermerge.merging import merge
from layermerge.plan import original_plan, replace_segment
from layermerge.rewriting import rewrite
from layermerge.tracing import trace
from networks import images, randomized, relative_error, striped_images, tiny_classifier, zoo

GEOMETRIES = {
    "plain": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": (2, 1)},
    "dilated": {"kernel_size": (3, 1), "dilation": 2},
    "grouped": {"kernel_size": 3, "groups": 2, "padding": 1},
    "depthwise": {"kernel_size": 5, "groups": 4, "padding": 2},
    "pointwise": {"kernel_size": 1},
}


def pair_of(geometry, dtype=torch.float64):
    """A convolution to find, and one of the same kind with other weights."""
    torch.manual_seed(0)
    return [nn.Conv2d(4, 4, **GEOMETRIES[geometry]).to(dtype) for _ in range(2)]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_where_the_target_is_a_convolution_it_is_found(geometry):
    wanted, fitted = pair_of(geometry)
    batches = [images(8, 4, 9, 8, seed=seed, dtype=torch.float64) for seed in range(3)]
    pairs = [(batch, wanted(batch).detach()) for batch in batches]
    assert fit_convolution(fitted, pairs, ridge=0.0) < 1e-15
    for found, expected in zip(fitted.parameters(), wanted.parameters(), strict=True):
        assert relative_error(found, expected) < 1e-8


def test_batches_add_up_to_the_dense_least_squares_solution():
    torch.manual_seed(1)
    conv = nn.Conv2d(3, 2, 3, padding=1).double()
    batches = [images(4, 3, 6, 6, seed=seed, dtype=torch.float64) for seed in range(3)]
    targets = [torch.randn(4, 2, 6, 6, dtype=torch.float64) for _ in batches]
    error = fit_convolution(conv, zip(batches, targets, strict=True), ridge=0.0)
    patches = nn.functional.unfold(torch.cat(batches), 3, padding=1).transpose(1, 2).flatten(0, 1)
    design = np.concatenate([patches.numpy(), np.ones((len(patches), 1))], 1)
    wanted = torch.cat(targets).permute(0, 2, 3, 1).flatten(0, 2).numpy()
    solution, residual, *_ = np.linalg.lstsq(design, wanted, rcond=None)
    np.testing.assert_allclose(conv.weight.detach().flatten(1).numpy().T, solution[:-1], atol=1e-10)
    np.testing.assert_allclose(conv.bias.detach().numpy(), solution[-1], atol=1e-10)
    assert error == pytest.approx(residual.sum() / np.square(wanted).sum(), rel=1e-9)


def test_a_strong_ridge_keeps_the_weights_and_a_weak_one_improves_on_them():
    conv, _ = pair_of("plain")
    batch = images(8, 4, 8, 8, dtype=torch.float64)
    target = torch.relu(conv(batch)).detach()
    equations = NormalEquations(conv)
    equations.add(batch, target)
    errors = {ridge: equations.error(*equations.solve(ridge)) for ridge in (1e9, 1.0, 1e-4, 0.0)}
    before = equations.error(conv.weight.detach(), conv.bias.detach())
    assert errors[1e9] == pytest.approx(before, rel=1e-6)
    assert before > errors[1.0] > errors[1e-4] >= errors[0.0] > 0


def test_too_little_data_is_no_failure_thanks_to_the_ridge():
    conv, other = pair_of("plain", torch.float32)
    batch = images(1, 4, 3, 3)
    error = fit_convolution(conv, [(batch, other(batch).detach())])
    assert error < 1e-3
    assert all(torch.isfinite(parameter).all() for parameter in conv.parameters())


def test_it_accumulates_in_double_precision():
    conv, other = pair_of("pointwise", torch.float32)
    # A mean of 1000 beside a spread of 1: in float32 the squares leave no digit for the spread.
    batch = images(64, 4, 16, 16) + 1000
    exact = other.double()(batch.double()).detach()
    equations = NormalEquations(conv)
    equations.add(batch, exact)
    weight, _ = equations.solve(ridge=0.0)
    assert relative_error(weight, other.weight) < 1e-6


def test_targets_of_another_size_are_refused():
    conv, _ = pair_of("plain")
    with pytest.raises(InputError, match=r"targets of shape \(2, 4, 7, 8\) do not fit"):
        NormalEquations(conv).add(torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 7, 8))


def test_a_convolution_without_bias_is_refused():
    with pytest.raises(InputError, match="has no bias"):
        fit_convolution(nn.Conv2d(1, 1, 1, bias=False), [])


def record(errors, segment, error):
    errors.append(error)


@pytest.fixture(scope="module")
def trained():
    data = striped_images(256)
    model = tiny_classifier()
    finetune(model, data, FinetuneSettings(epochs=10, batch_size=32, learning_rate=1e-2))
    return model, trace(model, torch.zeros(2, 1, 8, 8)), data


def test_a_segment_that_is_affine_already_is_merged_exactly():
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity(), nn.Conv2d(4, 5, 3)))
    network = trace(model.double(), torch.zeros(2, 3, 8, 8, dtype=torch.float64))
    space = enumerate_candidates(network)
    (whole,) = [c for c in space.candidates if c.end - c.start == 2]
    batch = images(16, 3, 8, 8, dtype=torch.float64)
    merged = merge_least_squares(
        model, network, replace_segment(network, whole), [batch], ridge=0.0
    )
    assert relative_error(merged(batch), model(batch)) < 1e-8


def test_the_original_plan_changes_nothing(trained):
    model, network, data = trained
    merged = merge_least_squares(model, network, original_plan(network), [data])
    assert relative_error(merged(data[0]), model(data[0])) < 1e-5


def test_it_is_nearer_to_the_original_than_composed_weights(trained):
    model, network, (inputs, _) = trained
    for candidate in enumerate_candidates(network).candidates:
        if candidate.is_original or not candidate.kept:
            continue
        plan = replace_segment(network, candidate)
        errors = []
        fitted = merge_least_squares(model, network, plan, [inputs], report=partial(record, errors))
        composed = merge(rewrite(model, plan))
        assert 0 < errors[0] < 1
        with torch.no_grad():
            distance = [(net(inputs) - model(inputs)).norm() for net in (fitted, composed)]
        assert distance[0] < distance[1], candidate.key


def test_every_segment_of_a_plan_is_fitted_on_what_the_ones_before_it_give():
    model = zoo("plain")
    network = trace(model, torch.zeros(2, 3, 16, 16))
    space = enumerate_candidates(network)
    first = next(c for c in space.candidates if (c.start, c.end) == (0, 2))
    second = next(c for c in space.candidates if (c.start, c.end) == (2, 4))
    plan = replace_segment(network, first)
    last = replace_segment(network, second).segments[-1]
    both = type(plan)(plan.network_fingerprint, 4, plan.inputs, (plan.segments[0], last))
    batch = images(32, 3, 16, 16)
    seen = []
    merge_least_squares(model, network, both, [batch], report=lambda s, _: seen.append(s.end))
    assert seen == [2, 4]


def test_the_model_is_left_alone_and_scores_less_after_composing(trained):
    model, network, data = trained
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merge_least_squares(model, network, original_plan(network), [data])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert score_classification(model, [data]) > 0.9


def test_no_batch_is_an_error(trained):
    model, network, _ = trained
    candidate = next(c for c in enumerate_candidates(network).candidates if not c.is_original)
    plan = replace_segment(network, candidate)
    with pytest.raises(InputError, match="batches holds no batch"):
        merge_least_squares(model, network, plan, [])
    with pytest.raises(InputError, match="begins with str"):
        merge_least_squares(model, network, plan, [("a", 1)])


@pytest.mark.parametrize("ridge", [float("nan"), -1.0, "x"])
def test_a_ridge_that_is_none_is_refused(trained, ridge):
    model, network = trained[:2]
    with pytest.raises(InputError, match="ridge must be a finite number of at least 0, got"):
        merge_least_squares(
            model, network, original_plan(network), [images(4, 1, 12, 12)], ridge=ridge
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": None}, r"model must be a torch.nn.Module, got NoneType"),
        ({"verify": "no"}, "verify must be True or False, got 'no'"),
        ({"report": 3}, "report must be a function of a segment and its error, got 3"),
    ],
)
def test_what_closed_form_merging_cannot_take_is_refused(trained, given, message):
    model, network = trained[:2]
    taken = {"model": model, "batches": [images(4, 1, 12, 12)], **given}
    with pytest.raises(InputError, match=message):
        merge_least_squares(network=network, plan=original_plan(network), **taken)


def test_without_a_ridge_too_little_data_is_refused():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    with pytest.raises(InputError, match="leaves weights undetermined at ridge 0: give more data"):
        fit_convolution(conv, [(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))], ridge=0.0)
