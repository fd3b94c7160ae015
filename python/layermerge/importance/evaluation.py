"""One evaluation: the work that an executor runs, here or elsewhere."""

from __future__ import annotations

import gc
import logging
import time
from dataclasses import dataclass

import torch
from torch import nn

from layermerge.callbacks import finite
from layermerge.candidates import Candidate, Replacement
from layermerge.errors import InputError, LayerMergeError, located
from layermerge.importance.estimators import Estimator, PlanEstimator
from layermerge.lending import lent
from layermerge.network import Network
from layermerge.seeding import attempting, derive_seed, seeded
from layermerge.store import Score

ATTEMPTS = 2
ORIGINAL = "original"
_NAME = "score of the estimator"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """All that evaluations need and share. It is sent once to each worker.

    Attributes
    ----------
    model : torch.nn.Module
        In evaluation mode.
    network : Network
        Traced from it.
    estimator : Estimator
    seed : int
        With the candidate, and nothing else, it seeds an evaluation.
    threads : int
        Threads within an operation, as in the process that made the job: sums over another number
        of threads differ in their last digits.
    """

    model: nn.Module
    network: Network
    estimator: Estimator
    seed: int
    threads: int

    def base(self) -> float:
        """Score of the original network.

        Raises
        ------
        InputError
            If it cannot be scored.
        """
        try:
            with lent(self.model), seeded(derive_seed(self.seed, ORIGINAL)):
                return finite(_NAME, self.estimator.base(self.model, self.network))
        except LayerMergeError:
            raise
        except (Exception, SystemExit) as error:  # user code may raise anything
            raise InputError(
                f"score_fn failed on the original network: {located(error)}. It is "
                "called as score_fn(module) and must return a number, higher is better"
            ) from error

    def run(self, what: Replacement) -> Score:
        """Evaluate a candidate, or a plan if the estimator can.

        One that fails is tried again with another seed, then given up.
        """
        start = time.perf_counter()
        failure = ""
        for attempt in range(ATTEMPTS):
            try:
                seed = derive_seed(self.seed, what.key, attempt)
                # Lent: the original may teach, and must be the same for all.
                with lent(self.model), attempting(attempt), seeded(seed):
                    value = finite(_NAME, self._score(what))
                return Score(value, None, time.perf_counter() - start)
            except (Exception, SystemExit) as error:  # user code may raise anything
                failure = located(error)
                _log.warning("candidate %s, attempt %d: %s", what.key, attempt + 1, failure)
            _free_memory()
        return Score(None, failure, time.perf_counter() - start)

    def _score(self, what: Replacement) -> float:
        if isinstance(what, Candidate):
            return self.estimator.score(self.model, self.network, what)
        assert isinstance(self.estimator, PlanEstimator)
        return self.estimator.score_plan(self.model, self.network, what)


def _free_memory() -> None:
    """Let go of what a failed attempt held, out of memory perhaps."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
