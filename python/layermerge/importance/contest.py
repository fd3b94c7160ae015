"""A contest of plans: importances add up, networks do not always (no torch).

Replacing one segment may cost little and replacing all of its kind everything: without one of its
depthwise convolutions a network hardly sees less, without any it sees nothing. No sum of
importances says so. Plans that are best in some sense, of all candidates or of some, under the
objective or under another one, are therefore scored as wholes, and the best score wins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layermerge.candidates import METHODS, Candidate, Combination
from layermerge.importance.scores import Objective
from layermerge.store import Score

MIN_SCALE, LARGEST_EXPONENT = 1e-9, 500.0
"""Of the score that changes are divided by, and of what their exponential is taken: no overflow."""

SUM = "delta"
"""The objective under which a plan's importance is the predicted change of its score."""


@dataclass(frozen=True)
class Discipline:
    """What a plan is the best at: candidates as a method has them, importances of an objective."""

    method: str
    objective: Objective

    def admits(self, candidate: Candidate) -> bool:
        """Whether the method has the candidate, as `SearchSpace` restricts it."""
        if self.method == "depth":
            return len(candidate.kept) == candidate.end - candidate.start
        return self.method != "layer_only" or len(candidate.kept) <= 1


def _exponential(delta: NDArray[np.float64], base: float) -> NDArray[np.float64]:
    """exp(Δ / |base|), the paper's objective at any scale of scores; bounded, not to overflow."""
    return np.exp(np.clip(delta / max(abs(base), MIN_SCALE), -LARGEST_EXPONENT, LARGEST_EXPONENT))


def disciplines(objective: Objective) -> tuple[Discipline, ...]:
    """All of them, the first of all candidates under the objective itself."""
    second = SUM if objective != SUM else _exponential
    return tuple(Discipline(method, each) for method in METHODS for each in (objective, second))


def winner(contenders: Sequence[Combination], scores: Mapping[str, Score]) -> Combination:
    """The contender with the best score, the first of equals; the first if none has a score."""

    def score(contender: Combination) -> float:
        value = scores[contender.key]
        return -math.inf if value.failure is not None else value.value

    return max(contenders, key=score)


def verdict(
    certificate: str,
    contenders: Sequence[Combination],
    best: Combination,
    scores: Mapping[str, Score],
) -> str:
    """What the contest says of its winner, and of the plan with the certificate, the first."""
    among = f"of {len(contenders)} plans, each fine-tuned shortly as a whole, it scores best: "
    first = scores[contenders[0].key]
    if first.failure is None:
        if best is contenders[0]:
            return f"{certificate}; {among}{first.value:.6g}"
        of_first = f"scores {first.value:.6g}"
    else:
        if best is contenders[0]:
            return f"{certificate}; it could not be fine-tuned as a whole: {first.failure}"
        of_first = f"failed: {first.failure}"
    return (
        f"{among}{scores[best.key].value:.6g}; that of the largest total importance "
        f"({certificate}) {of_first}"
    )
