"""Estimate importances: evaluate candidates through an executor, and keep each result."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import nn

from layermerge.callbacks import check_callbacks
from layermerge.candidates import (
    PLAN,
    Candidate,
    CandidateSpace,
    Combination,
    Replacement,
    check_space,
)
from layermerge.checks import check_seed, check_truth
from layermerge.claims import POLL_S
from layermerge.errors import InputError, LayerMergeError, shown
from layermerge.fingerprints import fingerprint_model
from layermerge.importance.activations import check_batches, fingerprint_batches
from layermerge.importance.estimators import (
    Estimator,
    PlanEstimator,
    ScoreFunction,
    ShortFineTune,
    TrainFunction,
    check_estimator,
)
from layermerge.importance.evaluation import ORIGINAL, Job
from layermerge.importance.executors import SERIAL, Executor, Run, check_executor
from layermerge.importance.scores import ImportanceScores
from layermerge.model_checks import check_model
from layermerge.network import Network
from layermerge.plan import original_plan
from layermerge.progress import progress_bar
from layermerge.rewriting import rewrite
from layermerge.store import Score, ScoreKey, Study, StudyLike, opened

ROUNDING, NOISE, MIN_SCORE = 1e-6, 0.01, 1e-9
"""Relative differences between two scores of one network: what nobody is told of, and what cannot
be noise between machines; and below what scores count as 0."""

ENOUGH_FAILURES = 4
"""Candidates that may fail alike before a search gives up."""

_log = logging.getLogger(__name__)


def estimate_importance(
    model: nn.Module,
    network: Network,
    space: CandidateSpace,
    *,
    score_fn: ScoreFunction | None = None,
    train_fn: TrainFunction | None = None,
    estimator: str | Estimator = "custom",
    skip: Iterable[Candidate] = (),
    seed: int = 0,
    study: StudyLike = None,
    executor: Executor = SERIAL,
    progress: bool = True,
) -> ImportanceScores:
    """Score the network with each segment replaced, one at a time: the full table.

    For one plan `find_plans` needs far fewer evaluations. Each evaluation is seeded by `seed` and
    the candidate alone: order, interruptions, the executor and what a study already holds do not
    change it. One that raises or gives no finite score is tried again with another seed, and then
    recorded as failed; the rest goes on.

    Parameters
    ----------
    model : torch.nn.Module
        The model that `network` was traced from, in evaluation mode. Left as it is.
    network : Network
    space : CandidateSpace
    score_fn : callable
        ``score_fn(module) -> float``, higher is better, on data that `train_fn` does not see.
    train_fn : callable
        ``train_fn(module)`` fine-tunes a rewritten network in place; without it networks are scored
        as they are.
    estimator : str or Estimator
        Names what `score_fn` and `train_fn` do, with their settings. A study holds scores by
        this name: change it when they change. Or an estimator of `layermerge.importance`, which
        takes their place.
    skip : iterable of Candidate
        Left out, such as `LatencyProfile.unprofitable`.
    seed : int
    study : Study or path, optional
        Keeps each score as it arrives; what it holds is not evaluated again.
    executor : Executor
        Where evaluations run: `Serial`, `Processes` or `RayCluster`.
    progress : bool
        Show a progress bar on a terminal.

    Returns
    -------
    ImportanceScores

    Raises
    ------
    InputError
        If `score_fn` gives the original network no finite score.
    LayerMergeError
        If every candidate fails.
    """
    check_truth("progress", progress)
    check_space(network, space)
    given = [*skip] if isinstance(skip, Iterable) else [skip]
    if not all(isinstance(each, Candidate) for each in given):
        raise InputError(f"skip must be candidates of the space, got {shown(repr(skip))}")
    skipped = {*given}
    chosen = estimator_of(estimator, score_fn, train_fn)
    wanted = [c for c in space.candidates if not c.is_original and c not in skipped]
    with (
        opened(study) as store,
        evaluating(model, network, chosen, seed=seed, study=store, executor=executor) as evaluate,
        progress_bar("Estimating importance", len(wanted), enabled=progress) as show,
    ):
        scores = evaluate(wanted, on_score=lambda found: show(len(found)))
        evaluate.check_some(scores)
    left_out = frozenset(c.key for c in space.candidates if c in skipped)
    return collect(evaluate, scores, skipped=left_out)


def estimator_of(
    estimator: str | Estimator, score_fn: ScoreFunction | None, train_fn: TrainFunction | None
) -> Estimator:
    """The estimator that is given, or the short fine-tune that two callbacks make."""
    if isinstance(estimator, str):
        if not estimator:
            raise InputError("estimator must be a name, or an Estimator; got an empty text")
        if score_fn is None:
            raise InputError("give score_fn, or an estimator that needs none")
        check_callbacks(score_fn=score_fn)
        if train_fn is not None:
            check_callbacks(train_fn=train_fn)
        return ShortFineTune(score_fn, train_fn, estimator)
    check_estimator("estimator", estimator)
    if score_fn is not None or train_fn is not None:
        raise InputError(
            "an estimator takes the place of score_fn and train_fn: give either it or them"
        )
    return estimator


class Evaluations:
    """Scores of candidates: what the study knows, and what an executor finds.

    Attributes
    ----------
    base : float
        Score of the original network.
    network : str
        Its fingerprint.
    slots : int
        How many evaluations run at once.
    estimator : str
        Names the estimator with its settings and the seed.
    can_score_plans : bool
        Whether it takes a `Combination`, too.
    """

    def __init__(self, job: Job, study: Study, run: Run, slots: int) -> None:
        self.slots = slots
        self._study, self._claims, self._run = study, study.claims, run
        self.network = job.network.fingerprint
        self._weights = fingerprint_model(rewrite(job.model, original_plan(job.network)))
        fingerprint = {"estimator": job.estimator.fingerprint, "seed": job.seed}
        self.estimator = json.dumps(fingerprint, sort_keys=True)
        self.can_score_plans = isinstance(job.estimator, PlanEstimator)
        self.base = self._base(job)

    def known(self, candidates: Iterable[Replacement]) -> dict[str, Score]:
        """What the study holds, by candidate key."""
        found = ((each.key, self._study.score(self._score_key(each.key))) for each in candidates)
        return {key: score for key, score in found if score is not None}

    def known_plans(self, candidates: Sequence[Candidate]) -> list[Combination]:
        """The plans of these candidates that the study holds a score of."""
        keys = self._study.scored(self._score_key(PLAN))
        named = (Combination.named(key, candidates) for key in keys)
        return [plan for plan in named if plan is not None]

    def __call__(
        self,
        candidates: Sequence[Replacement],
        *,
        on_score: Callable[[Mapping[str, Score]], object] = lambda scores: None,
    ) -> dict[str, Score]:
        """Scores by candidate key. Each new one is committed as it arrives.

        What another process is evaluating for the same study is waited for. `on_score` is given
        after each one those that there are.
        """
        scores = self.known(candidates)
        on_score(scores)
        while left := [each for each in candidates if each.key not in scores]:
            for key, score in self._some(left, len(left)):
                scores[key] = score
                on_score(scores)
        return {candidate.key: scores[candidate.key] for candidate in candidates}

    def some(self, candidates: Sequence[Replacement], count: int) -> dict[str, Score]:
        """Scores of the first `count` that no other process evaluates, or of what others have.

        At least one of them; waits for others if they evaluate all.
        """
        return dict(self._some(candidates, count))

    def check_not_all_alike(self, scores: Mapping[str, Score]) -> None:
        """Give up when the first few candidates have failed for one and the same reason."""
        failures = {score.failure for score in scores.values()}
        if len(scores) >= ENOUGH_FAILURES and len(failures) == 1:
            self.check_some(scores)

    def check_some(self, scores: Mapping[str, Score]) -> None:
        """Refuse a table in which everything failed, and keep nothing of it in the study."""
        failures = [score.failure for score in scores.values() if score.failure is not None]
        if failures and len(failures) == len(scores):
            self._study.remove_failures(self._score_key(""))
            raise LayerMergeError(
                f"none of the {len(scores)} candidates could be scored; the first failed with "
                f"{failures[0]}. Mend that and start again: these failures are not kept"
            )

    def _some(self, candidates: Sequence[Replacement], count: int) -> Iterator[tuple[str, Score]]:
        is_told = False
        while not (scores := self.known(candidates)):
            for candidate, score in self._run(islice(self._claimed(candidates), count)):
                scores[candidate.key] = score
                key = self._score_key(candidate.key)
                self._study.add_score(key, score)
                self._claims.release(str(key))
                yield candidate.key, score
            if scores:
                return
            if not is_told:
                _log.info("waiting for another process, which evaluates what is wanted here")
                is_told = True
            time.sleep(POLL_S)
        yield from scores.items()

    def _claimed(self, candidates: Iterable[Replacement]) -> Iterator[Replacement]:
        """Those that no other process evaluates, each claimed when it is asked for."""
        for candidate in candidates:
            key = self._score_key(candidate.key)
            if not self._claims.take(str(key)):
                continue
            if self._study.score(key) is None:
                yield candidate
            else:  # it was evaluated since
                self._claims.release(str(key))

    def _base(self, job: Job) -> float:
        """Score of the original network; not being able to score that is an error.

        It is scored anew in every run, and compared: another score says that the data are not
        those of the scores that the study holds.
        """
        found = job.base()
        known = self._study.score(self._score_key(ORIGINAL))
        if known is None:
            known = Score(found, None, 0.0)
            self._study.add_score(self._score_key(ORIGINAL), known)
        elif getattr(job.estimator, "is_unnamed", False):
            _log.warning(
                "scores of an earlier run on this study count: if score_fn, train_fn or their "
                "data have changed, give another study, or give `estimator` a name"
            )
        self._check_base(found, known.value)
        return known.value

    def _check_base(self, found: float, known: float) -> None:
        """Refuse to go on with scores of other data; tell of a difference that may be noise."""
        difference = abs(found - known) / max(abs(found), abs(known), MIN_SCORE)
        if difference <= ROUNDING:
            return
        message = (
            f"the original network scores {found:.6g}, and scored {known:.6g} when study "
            f"{self._study.path} began"
        )
        if difference > NOISE:
            raise InputError(
                f"{message}: its scores are of other data, or of another score_fn. Give another "
                "study, or in Python `estimator` another name, by which scores are kept apart"
            )
        _log.warning(
            "%s: if the data or score_fn have changed, give another study, or in Python `estimator`"
            " another name",
            message,
        )

    def _score_key(self, candidate: str) -> ScoreKey:
        return ScoreKey(self.network, self._weights, candidate, self.estimator)


@contextmanager
def evaluating(
    model: nn.Module,
    network: Network,
    estimator: Estimator,
    *,
    seed: int,
    study: Study,
    executor: Executor,
) -> Iterator[Evaluations]:
    """Get ready to evaluate candidates, for the time of a block."""
    check_model(model)
    check_seed(seed)
    check_executor(executor)
    calibration = getattr(estimator, "calibration", None)
    if calibration is not None:
        first = check_batches("calibration", calibration, model, network)
        if fingerprint_batches(calibration) != first:
            _log.warning(
                "calibration holds other batches each time it is read, so that a study does not "
                "find again what was made of them: give a list of batches"
            )
    job = Job(model, network, estimator, seed, torch.get_num_threads())
    with executor.open(job) as (run, slots):
        yield Evaluations(job, study, run, slots)


def collect(
    evaluate: Evaluations,
    scores: Mapping[str, Score],
    *,
    skipped: frozenset[str],
    unevaluated: frozenset[str] = frozenset(),
) -> ImportanceScores:
    """Scores and failures, apart."""
    failures = {key: score.failure for key, score in scores.items() if score.failure is not None}
    raw = {key: score.value for key, score in scores.items() if key not in failures}
    return ImportanceScores(evaluate.base, raw, failures, skipped, unevaluated, evaluate.network)
