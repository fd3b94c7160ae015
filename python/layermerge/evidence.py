"""Gather what a compression achieved into a `Result`."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from layermerge.candidates import Candidate
from layermerge.importance.scores import ImportanceScores, Objective
from layermerge.latency.profile import LatencyProfile
from layermerge.network import Barrier
from layermerge.plan import Plan
from layermerge.planning import Budget, chosen_candidates, predict_ns
from layermerge.results import Figures, Result, Step
from layermerge.store import Measurement
from layermerge.surveying import survey
from layermerge.verification import verification
from layermerge.weight_ranges import weight_range

BASE, COMPRESSED = "base", "compressed"


@dataclass(frozen=True)
class Evidence:
    """What the stages found, before it is summed up.

    Attributes
    ----------
    modules, measured, values : mapping
        Networks, end-to-end latencies and scores of `BASE` and `COMPRESSED`.
    seconds : mapping of str to float
        Time of each stage.
    """

    profile: LatencyProfile
    scores: ImportanceScores
    plan: Plan
    budget: Budget
    modules: Mapping[str, fx.GraphModule]
    measured: Mapping[str, Measurement]
    values: Mapping[str, float]
    seconds: Mapping[str, float]


def sum_up(
    evidence: Evidence, *, score_name: str, objective: Objective, provenance: dict[str, Any]
) -> Result:
    """Make the `Result` of a compression whose plan was chosen by an objective."""
    profile, scores = evidence.profile, evidence.scores
    error = verification(evidence.modules[COMPRESSED])
    return Result(
        name=profile.space.network.name,
        score_name=score_name,
        environment=str(profile.environment),
        base=_figures(evidence, BASE),
        compressed=_figures(evidence, COMPRESSED),
        budget_ns=evidence.budget.resolve(evidence.measured[BASE].median_ns),
        calibration=float(profile.calibration),
        float64_error=error.float64_error,
        merge_error=error.error,
        steps=_steps(profile, evidence.plan),
        num_candidates=len(profile.space.candidates),
        num_signatures=len(profile.space.signatures),
        num_scored=len(scores.raw),
        num_unprofitable=len(scores.skipped),
        num_failed=len(scores.failures),
        seconds=dict(evidence.seconds),
        provenance=provenance,
        search=survey(profile, scores, evidence.plan, objective=objective),
    )


def _figures(evidence: Evidence, name: str) -> Figures:
    profile, measured = evidence.profile, evidence.measured[name]
    original = profile.space.original
    candidates = original if name == BASE else chosen_candidates(profile, evidence.plan)
    return Figures(
        score=evidence.values[name],
        latency_ns=measured.median_ns,
        latency_spread=measured.spread,
        predicted_ns=predict_ns(profile, sum(map(profile.of, candidates))),
        layers=sum(bool(candidate.kept) for candidate in candidates),
        parameters=_num_parameters(evidence.modules[name]),
        flops=sum(candidate.signature.flops for candidate in candidates),
        weight_range=weight_range(evidence.modules[name]),
    )


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _steps(profile: LatencyProfile, plan: Plan) -> tuple[Step, ...]:
    """The plan and the fixed parts, in the order of their positions."""
    chosen = chosen_candidates(profile, plan)
    paid = {name for candidate in chosen for name in candidate.tail}
    steps = [_step(profile, candidate, paid) for candidate in chosen]
    ends = [candidate.end for candidate in chosen]
    for barrier in profile.space.network.barriers:
        if not barrier.is_removable or barrier.name in paid:
            # What stays of a merged segment runs behind it.
            place = next((end for end in ends if end >= barrier.position), barrier.position)
            steps.append(_fixed(profile, barrier, place if barrier.position else 0))
    return tuple(sorted(steps, key=lambda step: (step.end, step.is_barrier)))


def _fixed(profile: LatencyProfile, barrier: Barrier, position: int) -> Step:
    latency_ns = profile.barriers[barrier.name].median_ns
    names = (barrier.name,)
    return Step(position, position, names, names, barrier.kind, latency_ns, latency_ns)


def _step(profile: LatencyProfile, candidate: Candidate, paid: Set[str]) -> Step:
    """A segment of the plan: its layers, and the gates and norms that go with them."""
    network = profile.space.network
    layers = network.layers[candidate.start : candidate.end]
    originals = profile.space.original[candidate.start : candidate.end]
    parts = [
        (layer.index, layer.name, str(original.signature), _convolution_ns(profile, original))
        for layer, original in zip(layers, originals, strict=True)
    ]
    parts += [
        (barrier.position, barrier.name, barrier.kind, profile.barriers[barrier.name].median_ns)
        for barrier in network.barriers
        if barrier.is_removable and barrier.name not in paid
        if candidate.start < barrier.position <= candidate.end
    ]
    # Stable: a layer comes before what follows it.
    parts.sort(key=lambda part: part[0])
    _, names, descriptions, latencies_ns = zip(*parts, strict=True)
    return Step(
        candidate.start,
        candidate.end,
        names,
        tuple(network.layers[index - 1].name for index in candidate.kept),
        str(candidate.signature),
        sum(latencies_ns),
        _convolution_ns(profile, candidate),
        descriptions,
        latencies_ns,
    )


def _convolution_ns(profile: LatencyProfile, candidate: Candidate) -> int:
    """Latency of a candidate without the gates and norms that stay behind it."""
    return profile.measurement_of(candidate).median_ns
