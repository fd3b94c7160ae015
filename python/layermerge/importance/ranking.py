"""Ranking: training-free scores of all candidates, by which a search is ordered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from layermerge.candidates import Candidate
from layermerge.importance.estimation import ENOUGH_FAILURES, evaluating
from layermerge.importance.estimators import Estimator
from layermerge.importance.executors import Executor
from layermerge.latency.profile import LatencyProfile
from layermerge.progress import progress_bar
from layermerge.store import Score, Study

_log = logging.getLogger(__name__)


def rank(
    model: nn.Module,
    profile: LatencyProfile,
    order_by: Estimator,
    candidates: Sequence[Candidate],
    seed: int,
    study: Study,
    executor: Executor,
    *,
    progress: bool,
) -> NDArray[np.float64]:
    """Training-free scores; the original network's for what is original, the least if it failed."""
    network = profile.space.network
    wanted = [each for each in candidates if not each.is_original]
    _log.info("ranking %d candidates without training", len(wanted))
    with (
        evaluating(model, network, order_by, seed=seed, study=study, executor=executor) as evaluate,
        progress_bar("Ranking candidates", len(wanted), enabled=progress) as show,
    ):
        scores: dict[str, Score] = {}
        for part in (wanted[:ENOUGH_FAILURES], wanted[ENOUGH_FAILURES:]):
            scores |= evaluate(part, on_score=partial(_show_all, show, len(scores)))
            evaluate.check_not_all_alike(scores)
        evaluate.check_some(scores)
        base = evaluate.base
    least = min((score.value for score in scores.values() if score.failure is None), default=base)
    return np.array([_guess(scores.get(each.key), base, least) for each in candidates])


def _show_all(show: Callable[[float], None], before: int, scores: Mapping[str, Score]) -> None:
    show(before + len(scores))


def _guess(score: Score | None, base: float, least: float) -> float:
    if score is None:
        return base
    return least if score.failure is not None else score.value
