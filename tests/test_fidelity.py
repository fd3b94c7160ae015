from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from layermerge.candidates import CandidateSpace
from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError
from layermerge.latency.bench import Bench
from layermerge.latency.fidelity import (
    Fidelity,
    Trial,
    measured_part,
    modest,
    random_plans,
    restricted,
    spearman,
)
from layermerge.latency.measuring import measure_latency
from layermerge.latency.options import LatencyOptions, Roofline
from layermerge.latency.plot import plot_fidelity
from layermerge.latency.trials import merged_network, try_plans
from layermerge.merging import merge
from layermerge.plan import original_plan
from layermerge.rewriting import rewrite
from layermerge.tracing import trace
from networks import ZOO, randomized

IMAGE = torch.zeros(1, 3, 16, 16)
ANALYTIC = LatencyOptions(backend="analytic", roofline=Roofline(0.01, 1.0))


@pytest.fixture(scope="module")
def traced():
    model = randomized(ZOO["basic"]())
    network = trace(model, IMAGE)
    return model, network, enumerate_candidates(network)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=30))
def test_the_rank_correlation_is_that_of_scipy(pairs):
    first, second = zip(*pairs, strict=True)
    if len(set(first)) > 1 and len(set(second)) > 1:
        assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)


@pytest.mark.parametrize("seed", range(5))
def test_random_plans_cover_the_network_and_merge_something(traced, seed):
    _, network, space = traced
    plans = random_plans(space, 20, seed)
    assert len(plans) == 20
    for plan in plans:
        assert [c.start for c in plan] == [0, *(c.end for c in plan[:-1])]
        assert plan[-1].end == network.num_layers
        assert not all(c.is_original for c in plan)
    assert plans == random_plans(space, 20, seed)
    assert len({*plans}) == 20


def test_a_small_space_has_few_plans():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, padding=1)
    )
    space = enumerate_candidates(trace(model.eval(), IMAGE))
    plans = random_plans(space, 1000)
    assert len(plans) == len({*plans}) == len(every_plan(space)) - 1


def every_plan(space, position=0):
    """All paths, by brute force."""
    if position == space.network.num_layers:
        return [()]
    return [
        (candidate, *rest)
        for candidate in space.candidates
        if candidate.start == position
        for rest in every_plan(space, candidate.end)
    ]


def test_trials_that_the_study_holds_are_not_measured_again(traced, tmp_path, monkeypatch):
    model, _, space = traced
    deployed = merge(rewrite(model, original_plan(space.network)))
    profile = measure_latency(*traced, example_inputs=IMAGE, options=ANALYTIC)
    plans = random_plans(space, 3)
    built = []
    network = Bench.network
    monkeypatch.setattr(Bench, "network", lambda *given: built.append(1) or network(*given))

    def trials(count):
        return try_plans(
            model,
            deployed,
            profile,
            {f"plan {number}": plan for number, plan in enumerate(plans[:count])},
            example_inputs=IMAGE,
            options=ANALYTIC,
            study=tmp_path / "run.db",
        ).trials

    first = trials(2)
    assert len(built) == 3
    assert trials(2) == first
    assert len(built) == 3
    assert trials(3)[:3] == first


def test_modest_candidates_have_at_most_so_many_times_the_flops(traced):
    space = traced[2]
    flops = {c.end: c.signature.flops for c in space.original}
    kept = set(modest(space, 1.5).candidates)
    for c in space.candidates:
        limit = 1.5 * sum(flops[layer] for layer in range(c.start + 1, c.end + 1))
        assert (c in kept) == (c.is_original or c.signature.flops <= limit)


def test_a_restricted_space_has_the_original_and_the_plans(traced):
    space = traced[2]
    plans = random_plans(space, 3)
    found = restricted(space, plans)
    assert set(found.candidates) == {*space.original, *(c for plan in plans for c in plan)}


def test_a_network_that_cannot_be_merged_has_no_random_plans(traced):
    _, network, space = traced
    with pytest.raises(InputError, match="no layer of this network can be merged"):
        random_plans(CandidateSpace(network, space.original, "layermerge"), 1)
    with pytest.raises(InputError, match="count must be at least 0, got -1"):
        random_plans(space, -1)


def test_a_computed_whole_is_the_sum_of_its_computed_parts(traced):
    """The parts of every plan are all that its merged network consists of."""
    model, network, space = traced
    base = merge(rewrite(model, original_plan(network)))
    profile = measure_latency(
        model, network, space, example_inputs=IMAGE, deployed=base, options=ANALYTIC
    )
    plans = {str(n): p for n, p in enumerate(random_plans(measured_part(profile), 6))}
    found = try_plans(model, base, profile, plans, example_inputs=IMAGE, options=ANALYTIC)
    assert max(found.raw_errors) < 0.02
    assert max(found.errors) < 0.02
    assert found.rank_correlation > 0.99
    assert [trial.name for trial in found.trials] == ["original", *plans]


def test_a_merged_network_has_one_convolution_for_each_candidate(traced):
    model, network, space = traced
    for plan in random_plans(space, 3):
        merged = merged_network(model, network, plan)
        convolutions = [m for m in merged.modules() if isinstance(m, torch.nn.Conv2d)]
        assert len(convolutions) <= len(plan)


FIDELITY = Fidelity(
    (
        Trial("original", 3, 900, 1000, 0.01),
        Trial("a", 2, 450, 500, 0.01),
        Trial("b", 1, 270, 250, 0.01),
    ),
    1000 / 900,
)


def test_errors_are_relative_to_what_was_measured():
    assert FIDELITY.raw_errors == pytest.approx((0.1, 0.08))  # of the plans, as with calibration
    assert FIDELITY.errors == pytest.approx((0.0, 0.2))
    assert FIDELITY.rank_correlation == 1
    assert str(FIDELITY).endswith("the original takes +0.0% from what it took for the calibration")
    slower = Fidelity((Trial("original", 3, 900, 1100, 0.01), *FIDELITY.trials[1:]), 1000 / 900)
    assert "the original takes +10.0% from" in str(slower)
    assert slower.errors == FIDELITY.errors
    assert "median 10.0%, worst 20.0% (without calibration 9.0% and 10.0%)" in str(FIDELITY)


@pytest.mark.parametrize(("suffix", "package"), [("png", "matplotlib"), ("html", "plotly")])
def test_a_fidelity_is_drawn(tmp_path, suffix, package):
    pytest.importorskip(package)
    path = tmp_path / f"plot.{suffix}"
    plot_fidelity(FIDELITY, path)
    assert path.stat().st_size > 1000
    with pytest.raises(InputError, match="cannot write"):
        plot_fidelity(FIDELITY, tmp_path / "missing" / f"plot.{suffix}")
    with pytest.raises(InputError, match="cannot draw"):
        plot_fidelity(FIDELITY, tmp_path / "plot.txt")


def test_ranks_that_are_all_equal_correlate_only_with_such():
    assert spearman([1, 1, 1], [2, 2, 2]) == 1.0
    assert spearman([1, 1, 1], [1, 2, 3]) == 0.0
