"""Find plans for latency budgets, evaluating as few candidates as that takes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from layermerge.arguments import check_argument
from layermerge.checks import check_instance, check_truth
from layermerge.importance.estimation import estimator_of, evaluating
from layermerge.importance.estimators import (
    Estimator,
    ScoreFunction,
    TrainFunction,
    check_estimator,
)
from layermerge.importance.executors import SERIAL, Executor
from layermerge.importance.plan_search import PlanSearch
from layermerge.importance.ranking import rank
from layermerge.importance.scores import ImportanceScores
from layermerge.importance.search_options import LAZY, SearchOptions
from layermerge.importance.status import Status
from layermerge.latency.profile import LatencyProfile
from layermerge.plan import Plan
from layermerge.planning import checked_budgets
from layermerge.progress import progress_bar
from layermerge.store import Study, StudyLike, opened

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundPlans:
    """What `find_plans` found.

    Attributes
    ----------
    plans : tuple of Plan
        One for each budget.
    scores : ImportanceScores
        Of the candidates that were evaluated.
    """

    plans: tuple[Plan, ...]
    scores: ImportanceScores


def find_plans(
    model: nn.Module,
    profile: LatencyProfile,
    budgets_ns: Sequence[int],
    *,
    score_fn: ScoreFunction | None = None,
    train_fn: TrainFunction | None = None,
    estimator: str | Estimator = "custom",
    order_by: Estimator | None = None,
    options: SearchOptions = LAZY,
    seed: int = 0,
    study: StudyLike = None,
    executor: Executor = SERIAL,
    progress: bool = True,
) -> FoundPlans:
    """Find the plan of largest importance for each budget, evaluating few candidates.

    Parameters
    ----------
    model : torch.nn.Module
        The model that the profile is of, in evaluation mode. Left as it is.
    profile : LatencyProfile
    budgets_ns : sequence of int
        For the whole network. Several of them are refined together.
    score_fn, train_fn, estimator, seed, study, executor, progress
        See `estimate_importance`.
    order_by : Estimator, optional
        A training-free estimator, which decides what is tried first; `ClosedForm` is the best.
    options : SearchOptions

    Returns
    -------
    FoundPlans
        The certificate of each plan says what it rests on.

    Raises
    ------
    InputError
        If an argument is not as expected; before anything is evaluated.
    InfeasibleError
        If no plan meets a budget.
    """
    check_argument("profile", profile, LatencyProfile)
    budgets_ns = checked_budgets(budgets_ns)
    chosen = estimator_of(estimator, score_fn, train_fn)
    with (
        opened(study) as store,
        searching(
            model,
            profile,
            chosen,
            order_by=order_by,
            options=options,
            seed=seed,
            study=store,
            executor=executor,
            progress=progress,
        ) as planner,
    ):
        return FoundPlans(planner.plans(budgets_ns), planner.scores)


@contextmanager
def searching(
    model: nn.Module,
    profile: LatencyProfile,
    estimator: Estimator,
    *,
    order_by: Estimator | None,
    options: SearchOptions,
    seed: int,
    study: Study,
    executor: Executor,
    progress: bool,
) -> Iterator[PlanSearch]:
    """Get ready to find plans, for the time of a block."""
    check_instance("options", options, SearchOptions, "SearchOptions(...)")
    check_truth("progress", progress)
    if order_by is not None:
        check_estimator("order_by", order_by)
    candidates = profile.choosable()
    guesses = None
    if order_by is not None and not options.full:
        guesses = rank(
            model, profile, order_by, candidates, seed, study, executor, progress=progress
        )
    with (
        evaluating(
            model, profile.space.network, estimator, seed=seed, study=study, executor=executor
        ) as evaluate,
        progress_bar("Estimating importance", len(candidates), enabled=progress) as show,
    ):

        def announce(status: Status) -> None:
            status.save(study)
            if status.round:  # counts within one are for the bar
                _log.info("%s", next(status.lines()))
            show(status.evaluated)

        yield PlanSearch(profile, evaluate, guesses, options, announce)
