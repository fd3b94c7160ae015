"""The options of a search for plans (no torch)."""

from __future__ import annotations

from dataclasses import dataclass

from layermerge.checks import check_instance, check_integer
from layermerge.importance.bounds import ASSUMED, Margins
from layermerge.importance.scores import Objective, objective_function


@dataclass(frozen=True)
class SearchOptions:
    """How to search for plans.

    Attributes
    ----------
    full : bool
        Evaluate every candidate that is faster than what it replaces, as the paper does.
    objective : str or callable
        See `ImportanceScores.of`.
    margins : Margins
        How far scores may exceed what the bounds assume.
    per_round : int or None
        Candidates to evaluate between two solutions; by default as many as run at once.
    contest : bool
        Score the plan as a whole, after a short fine-tune, beside those that are best otherwise:
        by the sum of changes (of their exponentials, where that sum is the objective), and of the
        candidates of `depth` and of `layer_only`. The best score wins. Needs an estimator that
        trains, or one of your own that has `score_plan`.
    """

    full: bool = False
    objective: Objective = "exp_delta"
    margins: Margins = ASSUMED
    per_round: int | None = None
    contest: bool = True

    def __post_init__(self) -> None:
        for name in ("full", "contest"):
            check_instance(name, getattr(self, name), bool, "True or False")
        objective_function(self.objective)
        check_instance("margins", self.margins, Margins, "Margins(...)")
        if self.per_round is not None:
            check_integer("per_round", self.per_round, least=1)


LAZY = SearchOptions()
