"""Estimate importances: fine-tune and score the network with one segment replaced, for each."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Collection

import torch
from torch import nn

from layermerge.candidates import Candidate, CandidateSpace
from layermerge.errors import InputError, LayerMergeError
from layermerge.importance.scores import ImportanceScores
from layermerge.network import Network
from layermerge.plan import original_plan, replace_segment
from layermerge.progress import progress_bar
from layermerge.rewriting import rewrite
from layermerge.seeding import derive_seed, seeded
from layermerge.store import Score, ScoreKey, Study, StudyLike, opened

ATTEMPTS = 2
ORIGINAL = "original"

ScoreFunction = Callable[[nn.Module], float]
TrainFunction = Callable[[nn.Module], object]

_log = logging.getLogger(__name__)


def estimate_importance(
    model: nn.Module,
    network: Network,
    space: CandidateSpace,
    *,
    score_fn: ScoreFunction,
    train_fn: TrainFunction,
    estimator: str = "custom",
    skip: Collection[Candidate] = (),
    seed: int = 0,
    study: StudyLike = None,
    progress: bool = True,
) -> ImportanceScores:
    """Score the network with each segment replaced, one at a time, after a short fine-tune.

    Each evaluation is seeded by `seed` and the candidate alone: order, interruptions and what a
    study already holds do not change it. One that raises or gives no finite score is tried again
    with another seed, and then recorded as failed; the rest goes on.

    Parameters
    ----------
    model : torch.nn.Module
        The model that `network` was traced from, in evaluation mode. Left as it is.
    network : Network
    space : CandidateSpace
    score_fn : callable
        ``score_fn(module) -> float``, higher is better, on data that `train_fn` does not see.
    train_fn : callable
        ``train_fn(module)`` fine-tunes a rewritten network in place.
    estimator : str
        Names what `score_fn` and `train_fn` do, with their settings. A study holds scores by
        this name: change it when they change.
    skip : collection of Candidate
        Left out, such as `LatencyProfile.unprofitable`.
    seed : int
    study : Study or path, optional
        Keeps each score as it arrives; what it holds is not evaluated again.
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
    wanted = [
        candidate
        for candidate in space.candidates
        if not candidate.is_original and candidate not in skip
    ]
    total = 1 + len(wanted)
    with (
        opened(study) as store,
        progress_bar("Estimating importance", total, enabled=progress) as show,
    ):
        evaluator = _Evaluator(model, network, score_fn, train_fn, estimator, seed, store)
        base = evaluator.base()
        scores: dict[str, Score] = {}
        for candidate in wanted:
            show(1 + len(scores))
            scores[candidate.key] = evaluator.score(candidate)
        show(total)
    return _collect(base, scores, frozenset(candidate.key for candidate in skip))


def fingerprint_weights(model: nn.Module) -> str:
    """Hash of the parameters and buffers, names and dtypes included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


class _Evaluator:
    """Evaluates candidates that the study does not know yet."""

    def __init__(
        self,
        model: nn.Module,
        network: Network,
        score_fn: ScoreFunction,
        train_fn: TrainFunction,
        estimator: str,
        seed: int,
        study: Study,
    ) -> None:
        self.model = model
        self.network = network
        self.score_fn = score_fn
        self.train_fn = train_fn
        self.seed = seed
        self.study = study
        self.weights = fingerprint_weights(model)
        self.estimator = json.dumps({"estimator": estimator, "seed": seed}, sort_keys=True)

    def base(self) -> float:
        """Score of the original network; not being able to score that is an error."""
        known = self.study.score(self._key(ORIGINAL))
        if known is None:
            start = time.perf_counter()
            with seeded(derive_seed(self.seed, ORIGINAL)):
                value = self._base_score(rewrite(self.model, original_plan(self.network)))
            known = Score(value, None, time.perf_counter() - start)
            self.study.add_score(self._key(ORIGINAL), known)
        return known.value

    def score(self, candidate: Candidate) -> Score:
        """Score of the network with the candidate in place, or the reason why there is none."""
        known = self.study.score(self._key(candidate.key))
        if known is None:
            known = self._evaluate(candidate)
            self.study.add_score(self._key(candidate.key), known)
        return known

    def _evaluate(self, candidate: Candidate) -> Score:
        start = time.perf_counter()
        failure = ""
        for attempt in range(ATTEMPTS):
            try:
                value = self._attempt(candidate, attempt)
            except Exception as error:  # user code may raise anything
                failure = f"{type(error).__name__}: {error}"
                _log.warning("candidate %s, attempt %d: %s", candidate.key, attempt + 1, failure)
            else:
                return Score(value, None, time.perf_counter() - start)
        return Score(None, failure, time.perf_counter() - start)

    def _attempt(self, candidate: Candidate, attempt: int) -> float:
        rewritten = rewrite(self.model, replace_segment(self.network, candidate))
        with seeded(derive_seed(self.seed, candidate.key, attempt)):
            self.train_fn(rewritten)
            return self._finite_score(rewritten.eval())

    def _base_score(self, original: nn.Module) -> float:
        try:
            return self._finite_score(original)
        except LayerMergeError:
            raise
        except Exception as error:  # user code may raise anything
            raise InputError(
                f"score_fn failed on the original network: {type(error).__name__}: {error}. It is "
                "called as score_fn(module) and must return a number, higher is better"
            ) from error

    def _finite_score(self, module: nn.Module) -> float:
        returned = self.score_fn(module)
        try:
            value = math.nan if isinstance(returned, str) else float(returned)
        except (TypeError, ValueError, RuntimeError):
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"score_fn returned {returned!r}; expected a finite number")
        return value

    def _key(self, candidate: str) -> ScoreKey:
        return ScoreKey(self.network.fingerprint, self.weights, candidate, self.estimator)


def _collect(base: float, scores: dict[str, Score], skipped: frozenset[str]) -> ImportanceScores:
    failures = {key: score.failure for key, score in scores.items() if score.failure is not None}
    if scores and len(failures) == len(scores):
        raise LayerMergeError(
            f"none of the {len(scores)} candidates could be scored; the first failed with "
            f"{next(iter(failures.values()))}. The study holds the failures: once that is mended, "
            "give another `estimator` or another study"
        )
    raw = {key: score.value for key, score in scores.items() if key not in failures}
    return ImportanceScores(base, raw, failures, skipped)
