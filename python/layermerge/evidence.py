"""Gather what a compression achieved into a `Result`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from layermerge.importance.scores import ImportanceScores
from layermerge.latency.profile import LatencyProfile
from layermerge.plan import Plan
from layermerge.planning import Budget, chosen_candidates, predict_ns
from layermerge.results import Figures, Result, Step
from layermerge.store import Measurement
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


def sum_up(evidence: Evidence, *, score_name: str, provenance: dict[str, Any]) -> Result:
    """Make the `Result` of a compression."""
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
    """The plan and the barriers, in the order of their positions."""
    network = profile.space.network
    steps = [
        Step(
            barrier.position,
            barrier.position,
            (barrier.name,),
            (barrier.name,),
            barrier.kind,
            profile.barriers[barrier.name].median_ns,
            profile.barriers[barrier.name].median_ns,
        )
        for barrier in network.barriers
    ]
    for candidate in chosen_candidates(profile, plan):
        originals = profile.space.original[candidate.start : candidate.end]
        steps.append(
            Step(
                candidate.start,
                candidate.end,
                tuple(layer.name for layer in network.layers[candidate.start : candidate.end]),
                tuple(network.layers[index - 1].name for index in candidate.kept),
                str(candidate.signature),
                profile.replaced_ns(candidate),
                profile.of(candidate),
                tuple(str(original.signature) for original in originals),
                tuple(map(profile.of, originals)),
            )
        )
    return tuple(sorted(steps, key=lambda step: (step.end, step.start == step.end)))
