"""Raw scores of the candidates, and the objectives that make importances of them (no torch)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from layermerge.candidates import Candidate
from layermerge.errors import InputError

OBJECTIVES: dict[str, Callable[[float], float]] = {
    "exp_delta": math.exp,
    "delta": lambda delta: delta,
}


@dataclass(frozen=True)
class ImportanceScores:
    """What replacing each segment does to the score.

    Attributes
    ----------
    base : float
        Raw score of the original network; higher is better.
    raw : mapping of str to float
        Raw score by candidate key, after the short fine-tune.
    failures : mapping of str to str
        Why a candidate has no score, by candidate key.
    skipped : frozenset of str
        Keys of the candidates that were left out on purpose.
    """

    base: float
    raw: Mapping[str, float]
    failures: Mapping[str, str]
    skipped: frozenset[str]

    def is_available(self, candidate: Candidate) -> bool:
        """Whether the candidate may be chosen: it is original, or has a score."""
        return candidate.is_original or candidate.key in self.raw

    def delta(self, candidate: Candidate) -> float:
        """Change Δ of the score; 0 for an original layer, -inf for one that is not available.

        Raises
        ------
        InputError
            If the candidate is of another candidate space.
        """
        if candidate.is_original:
            return 0.0
        if candidate.key in self.raw:
            return self.raw[candidate.key] - self.base
        if candidate.key in self.failures or candidate.key in self.skipped:
            return -math.inf
        raise InputError(
            f"candidate {candidate.key} was neither scored nor skipped: the scores are of another "
            "candidate space"
        )

    def of(self, candidate: Candidate, objective: str = "exp_delta") -> float:
        """Importance of a candidate; -inf, under every objective, for one that is not available.

        Parameters
        ----------
        candidate : Candidate
        objective : {"exp_delta", "delta"}
            ``exp_delta`` is the paper's I = exp(Δ); ``delta`` adds up the changes themselves.
        """
        if objective not in OBJECTIVES:
            raise InputError(f"objective must be one of {', '.join(OBJECTIVES)}; got {objective!r}")
        delta = self.delta(candidate)
        return delta if delta == -math.inf else OBJECTIVES[objective](delta)
