"""Raw scores of the candidates, and the objectives that make importances of them (no torch)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermerge.arguments import check_argument
from layermerge.candidates import Candidate
from layermerge.errors import InputError, located, shown

ObjectiveFunction = Callable[[NDArray[np.float64], float], NDArray[Any]]
"""``objective(delta, base)``: importances of changes Δ of the score from `base`, non-decreasing."""

Objective = str | ObjectiveFunction
"""The name of an objective, or one of one's own."""


def _relative(delta: NDArray[np.float64], base: float) -> NDArray[np.float64]:
    if base == 0:
        raise InputError(
            "objective 'exp_relative' divides by the score of the original, which is 0, as it is "
            "for estimators without a score_fn: choose 'exp_delta' or 'delta'"
        )
    return np.exp(delta / abs(base))


OBJECTIVES: dict[str, ObjectiveFunction] = {
    "exp_delta": lambda delta, base: np.exp(delta),
    "delta": lambda delta, base: delta,
    "exp_relative": _relative,
}
"""The paper's exp(Δ) for accuracies; Δ itself; exp(Δ / |base|) for scores that are minus a loss,
where it is the paper's exp(-loss / loss of the original) times e."""


def objective_function(objective: Objective) -> ObjectiveFunction:
    """The function of an objective that may be given by its name."""
    if callable(objective):
        return objective
    if not isinstance(objective, str) or objective not in OBJECTIVES:
        raise InputError(
            f"objective must be one of {', '.join(OBJECTIVES)}, or a function of changes of the "
            f"score and the original score; got {objective!r}"
        )
    return OBJECTIVES[objective]


_ADVICE = (
    ". exp(Δ) is for scores between 0 and 1, such as accuracy as a fraction: divide the score by "
    "what a change that matters is, or choose objective 'exp_relative' (for scores that are minus "
    "a loss) or 'delta'"
)


def importances(
    objective: Objective, delta: NDArray[np.float64], base: float
) -> NDArray[np.float64]:
    """Importances of changes Δ of the score.

    Raises
    ------
    InputError
        If the objective does not give a finite number for each; where exp(Δ) overflows, say.
    """
    name = name_of(objective)
    function = objective_function(objective)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            returned = function(delta.copy(), base)
    except Exception as error:  # the user's own
        raise InputError(
            f"objective {name!r} fails on an array of changes of the score and the original score: "
            f"{located(error)}"
        ) from error
    try:
        values = np.asarray(returned, np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != delta.shape:
        raise InputError(
            f"objective {name!r} must return an array of one importance for each change of the "
            f"score; got {shown(repr(returned))} for {len(delta)} of them"
        )
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        raise InputError(
            f"objective {name!r} gives {values[broken[0]]:g} for a change of the score by "
            f"{delta[broken[0]]:g}"
            + (_ADVICE if isinstance(objective, str) else ": it must be a finite number for each")
        )
    order = np.argsort(delta, kind="stable")
    falls = np.flatnonzero(np.diff(values[order]) < 0)
    if len(falls):
        less, more = order[falls[0]], order[falls[0] + 1]
        raise InputError(
            f"objective {name!r} must not decrease: it gives {values[less]:g} for a change of the "
            f"score by {delta[less]:g}, and {values[more]:g} for {delta[more]:g}"
        )
    return values


def change(key: str, score: float, base: float, objective: Objective) -> float:
    """Change Δ of the score of a candidate, to which the objective gives an importance.

    Raises
    ------
    InputError
        If it does not; names the candidate and the scores.
    """
    delta = score - base
    try:
        importances(objective, np.array([delta]), base)
    except InputError as error:
        raise InputError(
            f"candidate {key} scores {score:g}, and the original network {base:g}: {error}"
        ) from error
    return delta


def name_of(objective: Objective) -> str:
    """What an objective is called."""
    return objective if isinstance(objective, str) else getattr(objective, "__name__", "custom")


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
    unevaluated : frozenset of str
        Keys of the candidates that lazy estimation has not needed.
    network : str, optional
        Fingerprint of the network that they are of, as in `Network`; None if it is not known.
    """

    base: float
    raw: Mapping[str, float]
    failures: Mapping[str, str]
    skipped: frozenset[str]
    unevaluated: frozenset[str] = frozenset()
    network: str | None = None

    def check_network(self, network: str) -> None:
        """Refuse scores of another network.

        Raises
        ------
        InputError
        """
        if self.network not in (None, network):
            raise InputError(
                f"the scores are of network {self.network}, and the latency profile is of network "
                f"{network}: estimate the importance of the model that was profiled"
            )

    def is_available(self, candidate: Candidate) -> bool:
        """Whether the candidate may be chosen: it is original, or has a score; see `delta`."""
        return self.delta(candidate) > -math.inf

    def delta(self, candidate: Candidate) -> float:
        """Change Δ of the score; 0 for an original layer, -inf for one that is not available.

        Raises
        ------
        InputError
            If the candidate is of another candidate space.
        """
        check_argument("candidate", candidate, Candidate)
        if candidate.is_original:
            return 0.0
        key = candidate.key
        if key in self.raw:
            return self.raw[key] - self.base
        if key in self.failures or key in self.skipped or key in self.unevaluated:
            return -math.inf
        raise InputError(
            f"candidate {candidate.key} was neither scored nor skipped: the scores are of another "
            "candidate space"
        )

    def of(self, candidate: Candidate, objective: Objective = "exp_delta") -> float:
        """Importance of a candidate; -inf, under every objective, for one that is not available.

        Parameters
        ----------
        candidate : Candidate
        objective : {"exp_delta", "delta", "exp_relative"} or callable
            ``exp_delta`` is the paper's I = exp(Δ); ``delta`` adds up the changes themselves;
            ``exp_relative`` divides them by the absolute score of the original, for scores that are
            minus a loss. A callable takes an array of Δ, and the score of the original.
        """
        delta = self.delta(candidate)
        if delta == -math.inf:
            return delta
        if not candidate.is_original:
            change(candidate.key, self.raw[candidate.key], self.base, objective)
        return float(importances(objective, np.array([delta]), self.base)[0])
