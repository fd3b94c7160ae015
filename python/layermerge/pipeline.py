"""Compress a model: the stages in order."""

from __future__ import annotations

import copy
import json
import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from typing import Any

import safetensors.torch
import torch
from torch import fx, nn

from layermerge.arguments import check_argument
from layermerge.budgeting import Comparison, plan_within_budget
from layermerge.callbacks import check_callbacks
from layermerge.candidates import CandidateSpace
from layermerge.evidence import BASE, COMPRESSED, Evidence, sum_up
from layermerge.fingerprints import fingerprint_model
from layermerge.graph import ExampleInputs
from layermerge.importance.activations import Batches, check_batches
from layermerge.importance.closed_form import merge_least_squares
from layermerge.importance.estimators import ScoreFunction, ShortFineTune, TrainFunction
from layermerge.importance.proxies import ClosedForm
from layermerge.importance.scores import name_of
from layermerge.importance.search import searching
from layermerge.latency.measuring import measure_latency
from layermerge.latency.profile import LatencyProfile
from layermerge.latency.whole_networks import measure_modules
from layermerge.lending import scored, train_in_place
from layermerge.merging import merge, merge_unverified
from layermerge.network import Network
from layermerge.options import DEFAULTS, Options
from layermerge.plan import Plan, original_plan
from layermerge.planning import Budget, check_reachable, predict_original_ns
from layermerge.progress import Stages
from layermerge.results import Result
from layermerge.rewriting import rewrite
from layermerge.seeding import derive_seed, seeded
from layermerge.store import Measurement, Study, StudyLike, opened
from layermerge.tracing import trace
from layermerge.verification import check_only_weights_changed
from layermerge.weights_files import load_weights

EVALUATION, FINETUNE = "evaluate_fn (or score_fn)", "finetune_fn (or train_fn)"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compression:
    """What `compress` made.

    Attributes
    ----------
    model : torch.fx.GraphModule
        The merged network, in evaluation mode.
    rewritten : torch.fx.GraphModule
        The network before merging, which can be trained further and merged again; with init
        "least_squares", which merges first, this is `model`.
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
    calibration: Batches | None = None,
    study: StudyLike = None,
    options: Options = DEFAULTS,
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
    calibration : iterable of batches, optional
        Some training data, inputs first: merges in closed form, by which candidates are ranked, so
        that fewer need a fine-tune.
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
    check_argument("options", options, Options)
    budget = Budget(latency_ms=latency_ms, fraction=fraction, speedup=speedup)
    tune, evaluate = finetune_fn or train_fn, evaluate_fn or score_fn
    check_callbacks(score_fn=score_fn, train_fn=train_fn, finetune_fn=tune, evaluate_fn=evaluate)
    estimator = ShortFineTune(
        score_fn, train_fn, options.estimator, init=options.init, calibration=calibration
    )
    order_by = None
    if calibration is not None and options.is_ranked:
        order_by = ClosedForm(calibration, name=options.estimator)
    stages = Stages()
    with opened(study) as store:
        with stages.timed("trace"):
            network = trace(model, example_inputs, remove=options.space.remove)
            if calibration is not None:
                check_batches("calibration", calibration, model, network)
            base = merge(rewrite(model, original_plan(network)))
            space = options.space.enumerate(network)
        base_score = scored(EVALUATION, evaluate, base)  # first: its data may be at fault
        with stages.timed("latency"):
            profile = _measure(model, base, space, example_inputs, store, options)
        check_reachable(profile, budget)
        with searching(
            model,
            profile,
            estimator,
            order_by=order_by,
            options=options.search,
            seed=options.seed,
            study=store,
            executor=options.executor,
            progress=options.progress,
        ) as planner:
            with stages.timed("importance"):
                planner.plan(budget.resolve(predict_original_ns(profile)))
            with stages.timed("plan"):
                measure = partial(_measure_plan, model, base, example_inputs, store, options)
                plan = plan_within_budget(
                    profile, planner.plan, budget, measure, margin=options.latency.margin
                )
        with stages.timed("finetune"):
            start = _start(model, network, plan, calibration, options)
            trained = _finetune(start, plan, tune, store, options)
    with stages.timed("merge"):
        merged = trained if options.init == "least_squares" else merge(trained)
    with stages.timed("evaluate"):
        measured = _compare(base, merged, example_inputs, study, options)
        values = {BASE: base_score, COMPRESSED: scored(EVALUATION, evaluate, merged)}
    modules = {BASE: base, COMPRESSED: merged}
    evidence = Evidence(
        profile, planner.scores, plan, budget, modules, measured, values, stages.seconds
    )
    result = sum_up(
        evidence,
        score_name=options.score_name,
        objective=options.search.objective,
        provenance=_provenance(options, budget),
    )
    return Compression(merged, trained, base, plan, result)


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


def _measure_plan(
    model: nn.Module,
    base: nn.Module,
    example_inputs: ExampleInputs,
    study: Study,
    options: Options,
    plan: Plan,
) -> Comparison:
    """Measure a plan beside the base, once: what the study holds is not measured again."""
    subjects = {
        BASE: f"base beside plan {plan.fingerprint}",
        COMPRESSED: f"plan {plan.fingerprint}",
    }
    candidate = merge_unverified(rewrite(model, plan))
    measured = _compare(base, candidate, example_inputs, study, options, subjects)
    return Comparison(measured[BASE], measured[COMPRESSED])


def _start(
    model: nn.Module,
    network: Network,
    plan: Plan,
    calibration: Batches | None,
    options: Options,
) -> fx.GraphModule:
    """What the final fine-tune starts from."""
    if options.init == "composed":
        return rewrite(model, plan)
    assert calibration is not None
    return merge_least_squares(model, network, plan, calibration)


def _finetune(
    start: fx.GraphModule,
    plan: Plan,
    finetune_fn: TrainFunction,
    study: Study,
    options: Options,
) -> fx.GraphModule:
    """Fine-tune in place, or take the fine-tuned weights that the study holds."""
    key = json.dumps(
        {
            "plan": plan.fingerprint,
            "start": fingerprint_model(start),
            "finetuner": options.finetuner,
            "init": options.init,
            "seed": options.seed,
        },
        sort_keys=True,
    )
    waiting = "waiting for another process, which fine-tunes the same plan for the same study"
    with study.claims.held(f"fine-tune {key}", waiting):
        known = study.artefact(key)
        if known is not None:
            _log.log(
                logging.WARNING if options.finetuner == DEFAULTS.finetuner else logging.INFO,
                "the fine-tuned weights are those of an earlier run on this study: if finetune_fn "
                "(or train_fn) or its data have changed, give another study, or "
                "Options(finetuner=...) another name",
            )
            load_weights(start, known, f"study {study.path}")
            return start
        untrained = copy.deepcopy(start)
        with seeded(derive_seed(options.seed, "finetune")):
            train_in_place(FINETUNE, finetune_fn, start)
        check_only_weights_changed(FINETUNE, start.eval(), untrained)
        weights = {
            name: tensor.cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in start.state_dict().items()
        }
        study.add_artefact(key, safetensors.torch.save(weights))
    return start


def _compare(
    base: nn.Module,
    compressed: nn.Module,
    example_inputs: ExampleInputs,
    study: StudyLike,
    options: Options,
    subjects: Mapping[str, str] | None = None,
) -> dict[str, Measurement]:
    return measure_modules(
        {BASE: base, COMPRESSED: compressed},
        example_inputs,
        options=replace(options.latency, target_rsd=options.latency.target_rsd / 2),
        study=study,
        subjects=subjects,
    )


def _provenance(options: Options, budget: Budget) -> dict[str, Any]:
    return {
        "layermerge": version("layermerge"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "finished": datetime.now(timezone.utc).isoformat(" ", "seconds"),
        "budget": str(budget),
        "space": {
            name: value if isinstance(value, (str, int, float)) else value and list(value)
            for name, value in vars(options.space).items()
        },
        "objective": name_of(options.search.objective),
        "init": options.init,
        "estimator": options.estimator,
        "finetuner": options.finetuner,
        "seed": options.seed,
    }
