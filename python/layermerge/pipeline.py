"""Compress a model: the stages in order."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import safetensors.torch
import torch
from torch import fx, nn

from layermerge.budgeting import Comparison, plan_within_budget
from layermerge.candidates import CandidateSpace, enumerate_candidates
from layermerge.evidence import BASE, COMPRESSED, Evidence, sum_up
from layermerge.graph import ExampleInputs
from layermerge.importance.estimation import (
    ScoreFunction,
    TrainFunction,
    estimate_importance,
    fingerprint_weights,
)
from layermerge.importance.scores import ImportanceScores
from layermerge.latency.environment import Environment
from layermerge.latency.measuring import measure_latency, measure_modules
from layermerge.latency.options import DEFAULT_OPTIONS, LatencyOptions
from layermerge.latency.profile import LatencyProfile
from layermerge.merging import merge, merge_unverified
from layermerge.plan import Plan, original_plan
from layermerge.planning import Budget, make_plan, predict_original_ns
from layermerge.results import Result
from layermerge.rewriting import rewrite
from layermerge.store import Measurement, Study, StudyLike, opened
from layermerge.tracing import trace

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How to search and measure; the defaults suit most networks.

    Attributes
    ----------
    method, max_kernel, frozen, breaks
        See `enumerate_candidates`.
    objective : {"exp_delta", "delta"}
        See `ImportanceScores.of`.
    latency : LatencyOptions
        How latency is measured: backend, device, precision.
    estimator : str
        Names what `score_fn` and `train_fn` do; see `estimate_importance`.
    finetuner : str
        Names what `finetune_fn` does. A study holds the fine-tuned weights by this name: change it
        when that changes.
    score_name : str
        What a score is, for the report.
    seed : int
    progress : bool
        Show progress bars of everything but latency, which has an option of its own.
    """

    method: str = "layermerge"
    max_kernel: int | None = None
    frozen: Collection[int] = ()
    breaks: Collection[int] = ()
    objective: str = "exp_delta"
    latency: LatencyOptions = DEFAULT_OPTIONS
    estimator: str = "custom"
    finetuner: str = "custom"
    score_name: str = "score"
    seed: int = 0
    progress: bool = True


@dataclass(frozen=True)
class Compression:
    """What `compress` made.

    Attributes
    ----------
    model : torch.fx.GraphModule
        The merged network, in evaluation mode.
    rewritten : torch.fx.GraphModule
        The network before merging, which can be trained further and merged again.
    base : torch.fx.GraphModule
        The original network as deployed, batch norm folded.
    plan : Plan
    result : Result
        The evidence, as data.
    """

    model: fx.GraphModule
    rewritten: fx.GraphModule
    base: fx.GraphModule
    plan: Plan
    result: Result


def compress(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    score_fn: ScoreFunction,
    train_fn: TrainFunction,
    speedup: float | None = None,
    latency_ms: float | None = None,
    fraction: float | None = None,
    finetune_fn: TrainFunction | None = None,
    evaluate_fn: ScoreFunction | None = None,
    study: StudyLike = None,
    options: Options = Options(),
) -> Compression:
    """Make a network faster by making it shallower.

    Traces the model, enumerates candidates, measures their latency, estimates their importance by
    short fine-tuning, solves for the plan, rewrites, fine-tunes, merges, and measures the result.
    Whether a plan keeps its budget is measured before the fine-tuning, since latency does not
    depend on the weights; a plan that does not is replaced by a faster one.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode. Left as it is.
    example_inputs : tensor, tuple or dict
        As in deployment: latency is measured on them.
    score_fn : callable
        ``score_fn(module) -> float``, higher is better: estimates importance.
    train_fn : callable
        ``train_fn(module)`` fine-tunes a rewritten network, shortly, in place.
    speedup, latency_ms, fraction : float, optional
        The end-to-end budget, one of: original latency over budget; milliseconds; part of the
        original latency.
    finetune_fn : callable, optional
        The final fine-tune, by default `train_fn`.
    evaluate_fn : callable, optional
        Scores the base and the result, best on data that `score_fn` has not seen; by default
        `score_fn`.
    study : Study or path, optional
        Keeps what takes time as it arrives; what it holds is not done again.
    options : Options

    Returns
    -------
    Compression

    Raises
    ------
    InputError, UnsupportedModelError
        If the arguments do not fit, or the model cannot be traced.
    InfeasibleError
        If no plan meets the budget; has the least latency.
    """
    budget = Budget(latency_ms=latency_ms, fraction=fraction, speedup=speedup)
    stages = _Stages()
    with opened(study) as store:
        with stages.timed("trace"):
            network = trace(model, example_inputs)
            base = merge(rewrite(model, original_plan(network)))
            space = enumerate_candidates(
                network,
                method=options.method,
                max_kernel=options.max_kernel,
                frozen=options.frozen,
                breaks=options.breaks,
            )
        with stages.timed("latency"):
            profile = _measure(model, base, space, example_inputs, store, options)
        _check_reachable(profile, budget)
        with stages.timed("importance"):
            scores = _estimate(model, profile, score_fn, train_fn, store, options)
        with stages.timed("plan"):
            measure = partial(
                _measure_plan, model, base, example_inputs, profile.environment, store, options
            )
            plan = plan_within_budget(
                profile,
                scores,
                budget,
                measure,
                objective=options.objective,
                margin=options.latency.target_rsd,
            )
        with stages.timed("finetune"):
            rewritten = _finetune(model, plan, finetune_fn or train_fn, store, options)
    with stages.timed("merge"):
        merged = merge(rewritten)
    with stages.timed("evaluate"):
        evaluate = evaluate_fn or score_fn
        measured = _compare(base, merged, example_inputs, study, options)
        values = {BASE: float(evaluate(base)), COMPRESSED: float(evaluate(merged))}
    evidence = Evidence(
        profile,
        scores,
        plan,
        budget,
        {BASE: base, COMPRESSED: merged},
        measured,
        values,
        stages.seconds,
    )
    result = sum_up(
        evidence, score_name=options.score_name, provenance=_provenance(options, budget)
    )
    return Compression(merged, rewritten, base, plan, result)


@dataclass
class _Stages:
    """Times the stages and announces them."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 3)
        _log.info("%s: %.1f s", name, self.seconds[name])


def _measure(
    model: nn.Module,
    base: nn.Module,
    space: CandidateSpace,
    example_inputs: ExampleInputs,
    study: Study,
    options: Options,
) -> LatencyProfile:
    return measure_latency(
        model,
        space.network,
        space,
        example_inputs=example_inputs,
        deployed=base,
        options=options.latency,
        study=study,
    )


def _estimate(
    model: nn.Module,
    profile: LatencyProfile,
    score_fn: ScoreFunction,
    train_fn: TrainFunction,
    study: Study,
    options: Options,
) -> ImportanceScores:
    return estimate_importance(
        model,
        profile.space.network,
        profile.space,
        score_fn=score_fn,
        train_fn=train_fn,
        estimator=options.estimator,
        skip=profile.unprofitable(),
        seed=options.seed,
        study=study,
        progress=options.progress,
    )


def _check_reachable(profile: LatencyProfile, budget: Budget) -> None:
    """Refuse a budget below the fastest plan before any fine-tune is spent on it."""
    equal = ImportanceScores(0.0, {c.key: 0.0 for c in profile.space.candidates}, {}, frozenset())
    make_plan(profile, equal, budget.resolve(predict_original_ns(profile)))


def _measure_plan(
    model: nn.Module,
    base: nn.Module,
    example_inputs: ExampleInputs,
    environment: Environment,
    study: Study,
    options: Options,
    plan: Plan,
) -> Comparison:
    """Measure a plan beside the base, once: what the study holds is not measured again."""
    subjects = (f"base beside plan {plan.fingerprint}", f"plan {plan.fingerprint}")
    known = study.measurements(environment.fingerprint)
    if not all(subject in known for subject in subjects):
        candidate = merge_unverified(rewrite(model, plan))
        measured = _compare(base, candidate, example_inputs, study, options)
        known = dict(zip(subjects, (measured[BASE], measured[COMPRESSED]), strict=True))
        study.add_measurements(environment.fingerprint, known)
    return Comparison(*(known[subject] for subject in subjects))


def _finetune(
    model: nn.Module, plan: Plan, finetune_fn: TrainFunction, study: Study, options: Options
) -> fx.GraphModule:
    """Rewrite and fine-tune, or take the fine-tuned weights that the study holds."""
    rewritten = rewrite(model, plan)
    key = json.dumps(
        {
            "plan": plan.fingerprint,
            "weights": fingerprint_weights(model),
            "finetuner": options.finetuner,
            "seed": options.seed,
        },
        sort_keys=True,
    )
    known = study.artefact(key)
    if known is not None:
        _log.info("fine-tuned weights are in the study")
        rewritten.load_state_dict(safetensors.torch.load(known))
        return rewritten
    finetune_fn(rewritten)
    weights = {name: tensor.cpu().clone() for name, tensor in rewritten.state_dict().items()}
    study.add_artefact(key, safetensors.torch.save(weights))
    return rewritten.eval()


def _compare(
    base: nn.Module,
    compressed: nn.Module,
    example_inputs: ExampleInputs,
    study: StudyLike,
    options: Options,
) -> dict[str, Measurement]:
    return measure_modules(
        {BASE: base, COMPRESSED: compressed},
        example_inputs,
        options=replace(options.latency, target_rsd=options.latency.target_rsd / 2),
        study=study,
    )


def _provenance(options: Options, budget: Budget) -> dict[str, Any]:
    return {
        "layermerge": version("layermerge"),
        "torch": torch.__version__,
        "budget": str(budget),
        "method": options.method,
        "objective": options.objective,
        "estimator": options.estimator,
        "finetuner": options.finetuner,
        "seed": options.seed,
    }
