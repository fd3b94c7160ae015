"""The search for plans: rounds of evaluations in several disciplines, then a contest."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from layermerge.candidates import Candidate, Combination
from layermerge.errors import InfeasibleError
from layermerge.importance.bounds import Bounds
from layermerge.importance.contest import Discipline, disciplines, verdict, winner
from layermerge.importance.estimation import Evaluations, collect
from layermerge.importance.lazy import Choices, Round, search
from layermerge.importance.scores import ImportanceScores, change, importances
from layermerge.importance.search_options import LAZY, SearchOptions
from layermerge.importance.status import PlanStatus, Status
from layermerge.latency.profile import LatencyProfile
from layermerge.plan import Plan
from layermerge.planning import (
    available_ns,
    chosen_candidates,
    combine,
    explained,
    make_plan,
    predict_ns,
    with_left_out,
)
from layermerge.store import Score

_log = logging.getLogger(__name__)


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
        failures = [score.failure for score in self._known.values() if score.failure is not None]
        if failures:
            _log.warning(
                "%d candidates failed in an earlier run on this study and are left out; the first: "
                "%s. Another study tries them again, or in Python another `estimator` name",
                len(failures),
                failures[0],
            )
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
        return collect(self._evaluate, self._known, skipped=skipped, unevaluated=unevaluated)

    def plan(self, budget_ns: int) -> Plan:
        """The best plan for a whole-network budget."""
        return self.plans([budget_ns])[0]

    def plans(self, budgets_ns: Sequence[int]) -> tuple[Plan, ...]:
        """The best plan for each budget."""
        replacements = [each for each in self.candidates if not each.is_original]
        if self._options.full:
            self._evaluate(replacements, on_score=partial(self._learn, len(replacements)))
            self._evaluate.check_some(self._known)
        last, others = self._settle(budgets_ns)
        plans = [
            make_plan(self.profile, self.scores, each, objective=self._options.objective)
            for each in budgets_ns
        ]
        if self.scores.unevaluated:
            certificate = with_left_out(last.certificate, self.scores)
            plans = [replace(plan, certificate=certificate) for plan in plans]
        else:
            self._evaluate.check_some(self._known)
        return self._contest(plans, others, last, budgets_ns) if self._others else tuple(plans)

    def _learn(self, total: int, scores: Mapping[str, Score]) -> None:
        """Take up scores, and say how many there are, where all candidates are evaluated."""
        self._known.update(scores)
        count = len(scores)
        self._announce(self._standing(evaluated=count, total=total, wanted=total - count))

    def _settle(self, budgets_ns: Sequence[int]) -> tuple[Round, list[list[Combination]]]:
        """Search in every discipline, until none learns anything from the entries of the others.

        So a search that starts from all that this one has found ends where it does.

        Returns
        -------
        last : Round
            Of the search of all candidates under the objective.
        others : list of list of Combination
            For each budget, the best plans in the other disciplines.
        """
        while True:
            num_known = len(self._known)
            last = self._search(budgets_ns, self._own)
            others = [[*self._best_of_others(each)] for each in budgets_ns]
            if len(self._known) == num_known or not self._others:
                return last, others

    def _best_of_others(self, budget_ns: int) -> Iterator[Combination]:
        for discipline in self._others:
            with suppress(InfeasibleError):
                (rows,) = self._search([budget_ns], discipline).rows
                yield Combination(tuple(self.candidates[row] for row in rows))

    def _contest(
        self,
        plans: Sequence[Plan],
        others: Sequence[Sequence[Combination]],
        last: Round,
        budgets_ns: Sequence[int],
    ) -> tuple[Plan, ...]:
        """For each budget the plan with the best score as a whole, of all that meet it.

        Those are the plans that are best in some discipline, for any of the budgets, and those that
        were scored before: the best of them is not to be lost.
        """
        own = [Combination(chosen_candidates(self.profile, plan)) for plan in plans]
        everyone = dict.fromkeys(own) | dict.fromkeys(each for some in others for each in some)
        everyone |= dict.fromkeys(self._evaluate.known_plans(self.candidates))
        status = self._status(last, budgets_ns)
        if len(everyone) == 1:
            self._announce(replace(status, is_done=True))
            return tuple(plans)
        _log.info("a contest of %d plans", len(everyone))
        scores = self._evaluate([*everyone])
        found, states = [], []
        each_budget = zip(budgets_ns, plans, own, others, last.bound, strict=True)
        for budget_ns, plan, first, rest, bound in each_budget:
            most_ns = available_ns(self.profile, budget_ns)
            fit = [each for each in everyone if self._latency_ns(each) <= most_ns]
            contenders = [*dict.fromkeys([first, *rest, *fit])]
            best = winner(contenders, scores)
            found.append(
                combine(
                    self.profile,
                    self.scores,
                    best.candidates,
                    budget_ns,
                    self._options.objective,
                    verdict(plan.certificate, contenders, best, scores),
                )
            )
            state = self._plan_status(budget_ns, best.candidates, found[-1].importance, bound)
            states.append(replace(state, whole_score=scores[best.key].score))
        self._announce(replace(status, is_done=True, plans=tuple(states)))
        return tuple(found)

    def _latency_ns(self, plan: Combination) -> int:
        return sum(map(self.profile.of, plan.candidates))

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
            self._evaluate.check_some(self._known)
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
        self._evaluate.check_not_all_alike(self._known)
        return {k: self._delta(c) for k, c in enumerate(self.candidates) if c.key in found}

    def _is_unknown(self, candidate: Candidate) -> bool:
        return not candidate.is_original and candidate.key not in self._known

    def _status(self, state: Round, budgets_ns: Sequence[int]) -> Status:
        plans = zip(budgets_ns, state.rows, state.value, state.bound, strict=True)
        return replace(
            self._standing(evaluated=state.evaluated, total=state.total, wanted=state.wanted),
            round=state.number,
            is_done=state.is_last and not self._others,
            certificate=state.certificate,
            plans=tuple(
                self._plan_status(budget_ns, [self.candidates[row] for row in rows], value, bound)
                for budget_ns, rows, value, bound in plans
            ),
        )

    def _standing(self, *, evaluated: int, total: int, wanted: int) -> Status:
        """Where the search stands before its first round."""
        seconds = [score.seconds for score in self._known.values()]
        return Status(
            round=0,
            evaluated=evaluated,
            total=total,
            wanted=wanted,
            is_done=False,
            base=self._evaluate.base,
            seconds_each=sum(seconds) / max(1, len(seconds)),
            slots=self._evaluate.slots,
            estimator=self._evaluate.estimator,
            certificate="",
            plans=(),
        )

    def _plan_status(
        self, budget_ns: int, chosen: Sequence[Candidate], value: float, bound: float
    ) -> PlanStatus:
        if not chosen:
            return PlanStatus(budget_ns, 0, None, bound, None, ())
        return PlanStatus(
            budget_ns,
            predict_ns(self.profile, sum(map(self.profile.of, chosen))),
            value,
            bound,
            self._evaluate.base + sum(map(self._delta, chosen)),
            tuple(each.key for each in chosen if not each.is_original),
        )
