"""Find plans for latency budgets, evaluating as few candidates as that takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from layermerge.arguments import check_argument
from layermerge.candidates import Candidate, Combination
from layermerge.checks import check_instance
from layermerge.errors import InfeasibleError
from layermerge.importance.bounds import Bounds
from layermerge.importance.contest import Discipline, disciplines, verdict, winner
from layermerge.importance.estimation import (
    Evaluations,
    check_not_all_alike,
    check_some,
    collect,
    estimator_of,
    evaluating,
)
from layermerge.importance.estimators import (
    Estimator,
    ScoreFunction,
    TrainFunction,
    check_estimator,
)
from layermerge.importance.executors import SERIAL, Executor
from layermerge.importance.lazy import Choices, Round, search
from layermerge.importance.ranking import rank
from layermerge.importance.scores import ImportanceScores, change, importances
from layermerge.importance.search_options import LAZY, SearchOptions
from layermerge.importance.status import PlanStatus, Status
from layermerge.latency.profile import LatencyProfile
from layermerge.milliseconds import format_ms
from layermerge.plan import Plan
from layermerge.planning import (
    available_ns,
    checked_budgets,
    chosen_candidates,
    combine,
    explained,
    make_plan,
    predict_ns,
)
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
            _log.info("%s", next(status.lines()))
            show(status.evaluated)

        yield PlanSearch(profile, evaluate, guesses, options, announce)


class PlanSearch:
    """Finds plans for budgets, one after the other; what it learns it keeps."""

    def __init__(
        self,
        profile: LatencyProfile,
        evaluate: Evaluations,
        guesses: NDArray[np.float64] | None = None,
        options: SearchOptions = LAZY,
        announce: Callable[[Status], object] = lambda status: None,
    ) -> None:
        self.profile = profile
        self.candidates = profile.choosable()
        self._evaluate = evaluate
        self._options = options
        self._announce = announce
        if options.objective == "exp_delta" and abs(evaluate.base) > 1:
            _log.warning(
                "the original network scores %g: objective exp_delta is for scores between 0 and "
                "1, such as accuracy as a fraction. See exp_relative and delta",
                evaluate.base,
            )
        self._own, *others = disciplines(options.objective)
        self._others = others if options.contest and evaluate.can_score_plans else []
        self._known = evaluate.known(each for each in self.candidates if not each.is_original)
        start = np.array([each.start for each in self.candidates])
        end = np.array([each.end for each in self.candidates])
        kept = [each.kept for each in self.candidates]
        self._choices = Choices(
            start,
            end,
            np.array([profile.of(each) for each in self.candidates], np.int64),
            Bounds(start, end, kept, guesses, options.margins),
        )

    @property
    def scores(self) -> ImportanceScores:
        """What is known so far."""
        unevaluated = frozenset(each.key for each in self.candidates if self._is_unknown(each))
        skipped = frozenset(each.key for each in self.profile.unprofitable())
        return collect(self._evaluate.base, self._known, skipped=skipped, unevaluated=unevaluated)

    def plan(self, budget_ns: int) -> Plan:
        """The best plan for a whole-network budget."""
        return self.plans([budget_ns])[0]

    def plans(self, budgets_ns: Sequence[int]) -> tuple[Plan, ...]:
        """The best plan for each budget."""
        replacements = [each for each in self.candidates if not each.is_original]
        if self._options.full:
            self._known.update(self._evaluate(replacements))
            check_some(self._known)
        last = self._search(budgets_ns, self._own)
        plans = [
            make_plan(self.profile, self.scores, each, objective=self._options.objective)
            for each in budgets_ns
        ]
        if self.scores.unevaluated:
            plans = [replace(plan, certificate=last.certificate) for plan in plans]
        else:
            check_some(self._known)
        if self._others:
            plans = [*map(self._contest, plans, budgets_ns)]
            self._announce(replace(self._status(last, budgets_ns), is_done=True))
        return tuple(plans)

    def _contest(self, own: Plan, budget_ns: int) -> Plan:
        """The plan with the best score as a whole, of those that are best in some discipline."""
        contenders = [Combination(chosen_candidates(self.profile, own))]
        for discipline in self._others:
            with suppress(InfeasibleError):
                (rows,) = self._search([budget_ns], discipline).rows
                contenders.append(Combination(tuple(self.candidates[row] for row in rows)))
        known = self._evaluate.known_plans(self.candidates)  # the best of them is not to be lost
        most_ns = available_ns(self.profile, budget_ns)
        contenders += [p for p in known if sum(map(self.profile.of, p.candidates)) <= most_ns]
        contenders = list(dict.fromkeys(contenders))
        if len(contenders) == 1:
            return own
        _log.info("a contest of %d plans for %s ms", len(contenders), format_ms(budget_ns))
        scores = self._evaluate(contenders)
        best = winner(contenders, scores)
        return combine(
            self.profile,
            self.scores,
            best.candidates,
            budget_ns,
            self._options.objective,
            verdict(own.certificate, contenders, best, scores),
        )

    def _search(self, budgets_ns: Sequence[int], discipline: Discipline) -> Round:
        base = self._evaluate.base
        delta = np.array(
            [
                self._delta(each) if discipline.admits(each) else -math.inf
                for each in self.candidates
            ]
        )

        def announce(state: Round) -> None:
            if discipline is self._own:
                self._announce(self._status(state, budgets_ns))

        try:
            _, last = search(
                self._choices,
                delta,
                [available_ns(self.profile, each) for each in budgets_ns],
                self._evaluate_rows,
                objective=lambda delta: importances(discipline.objective, delta, base),
                on_round=announce,
                is_proven=discipline is self._own,
            )
        except InfeasibleError as error:
            check_some(self._known)
            raise explained(error, self.profile, min(budgets_ns)) from None
        return last

    def _delta(self, candidate: Candidate) -> float:
        """Change of the score: NaN where it is not known, minus infinity where there is none."""
        if candidate.is_original:
            return 0.0
        score = self._known.get(candidate.key)
        if score is None:
            return math.nan
        if score.failure is not None:
            return -math.inf
        base, objective = self._evaluate.base, self._options.objective
        return change(candidate.key, score.value, base, objective)

    def _evaluate_rows(self, rows: Sequence[int]) -> Mapping[int, float]:
        """What other processes have found since; if that is nothing, the first rows."""
        left = (each for each in self.candidates if self._is_unknown(each))
        found = self._evaluate.known(left) or self._evaluate.some(
            [self.candidates[row] for row in rows],
            self._options.per_round or self._evaluate.slots,
        )
        self._known.update(found)
        check_not_all_alike(self._known)
        return {k: self._delta(c) for k, c in enumerate(self.candidates) if c.key in found}

    def _is_unknown(self, candidate: Candidate) -> bool:
        return not candidate.is_original and candidate.key not in self._known

    def _status(self, state: Round, budgets_ns: Sequence[int]) -> Status:
        seconds = [score.seconds for score in self._known.values()]
        plans = zip(budgets_ns, state.rows, state.value, state.bound, strict=True)
        return Status(
            round=state.number,
            evaluated=state.evaluated,
            total=state.total,
            wanted=state.wanted,
            is_done=state.is_last and not self._others,
            base=self._evaluate.base,
            seconds_each=sum(seconds) / max(1, len(seconds)),
            slots=self._evaluate.slots,
            estimator=self._evaluate.estimator,
            certificate=state.certificate,
            plans=tuple(self._plan_status(*plan) for plan in plans),
        )

    def _plan_status(
        self, budget_ns: int, rows: tuple[int, ...], value: float, bound: float
    ) -> PlanStatus:
        if not rows:
            return PlanStatus(budget_ns, 0, None, bound, None, ())
        chosen = [self.candidates[row] for row in rows]
        return PlanStatus(
            budget_ns,
            predict_ns(self.profile, sum(map(self.profile.of, chosen))),
            value,
            bound,
            self._evaluate.base + sum(map(self._delta, chosen)),
            tuple(each.key for each in chosen if not each.is_original),
        )
