"""Estimators: what a network with one segment replaced is worth, with training and without.

An estimator is a frozen dataclass: its fields say all that decides its scores, so that its
`fingerprint` names them in a study, and it can be sent to another process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from torch import fx, nn

from layermerge.callbacks import check_callbacks
from layermerge.candidates import Candidate, Combination
from layermerge.checks import check_instance, check_numbers, check_texts
from layermerge.errors import InputError
from layermerge.importance.activations import Batches, fingerprint_batches
from layermerge.importance.closed_form import RIDGE, merge_least_squares
from layermerge.lending import scored, train_in_place
from layermerge.network import Network
from layermerge.plan import original_plan, plan_of
from layermerge.rewriting import rewrite

ScoreFunction = Callable[[nn.Module], float]
TrainFunction = Callable[[nn.Module], object]

UNNAMED = "custom"
"""The name of an estimator that was given none."""

INITS = ("composed", "least_squares")


@runtime_checkable
class Estimator(Protocol):
    """Gives raw scores, higher is better."""

    @property
    def fingerprint(self) -> str:
        """Names the estimator with its settings."""

    def base(self, model: nn.Module, network: Network) -> float:
        """Score of the original network."""

    def score(self, model: nn.Module, network: Network, candidate: Candidate) -> float:
        """Score of the network with one segment replaced."""


@runtime_checkable
class PlanEstimator(Estimator, Protocol):
    """Can score whole plans, too."""

    def score_plan(self, model: nn.Module, network: Network, plan: Combination) -> float:
        """Score of the network with several segments replaced."""


def check_estimator(name: str, estimator: object) -> None:
    """Refuse what is no estimator."""
    check_instance(
        name,
        estimator,
        Estimator,
        "an estimator, such as ClosedForm(batches) of layermerge.importance.proxies or "
        "ShortFineTune(score_fn, train_fn) of layermerge.importance.estimators",
    )


@dataclass(frozen=True)
class ShortFineTune:
    """The paper's probe: fine-tune shortly, then score on held-out data.

    Attributes
    ----------
    score_fn : callable
        ``score_fn(module) -> float``, on data that `train_fn` does not see.
    train_fn : callable or None
        ``train_fn(module)`` fine-tunes in place; None scores without training.
    name : str
        Names what the two do, with their settings.
    init : {"composed", "least_squares"}
        What the fine-tune starts from: the kept weights as they are, or the segment merged in
        closed form on `calibration`.
    reinitialise : bool
        Whether the layer of a segment that keeps only one starts from new weights.
    calibration : iterable of batches, optional
        For "least_squares".
    ridge : float
        For "least_squares".
    """

    score_fn: ScoreFunction
    train_fn: TrainFunction | None
    name: str = UNNAMED
    init: str = "composed"
    reinitialise: bool = False
    calibration: Batches | None = None
    ridge: float = RIDGE

    def __post_init__(self) -> None:
        check_callbacks(score_fn=self.score_fn)
        if self.train_fn is not None:
            check_callbacks(train_fn=self.train_fn)
        check_texts(self, "name")
        check_numbers(self, "ridge", least=0)
        if self.init not in INITS:
            raise InputError(f"init must be one of {', '.join(INITS)}; got {self.init!r}")
        if self.init == "least_squares" and self.calibration is None:
            raise InputError("init 'least_squares' needs calibration data: give `calibration`")
        if self.init == "least_squares" and self.reinitialise:
            raise InputError("give either init 'least_squares' or reinitialise, not both")

    @cached_property
    def fingerprint(self) -> str:
        """Names the estimator with its settings, and the data that it merges by."""
        settings: dict[str, object] = {"estimator": self.name}
        if self.train_fn is None:
            settings["training"] = "none"
        if self.init == "least_squares":
            assert self.calibration is not None
            batches = fingerprint_batches(self.calibration)
            settings |= {"init": self.init, "ridge": self.ridge, "batches": batches}
        if self.reinitialise:
            settings["reinitialise"] = True
        return json.dumps(settings, sort_keys=True)

    @property
    def is_unnamed(self) -> bool:
        """Whether nothing would tell that what it trains and scores by has changed."""
        return self.name == UNNAMED

    def base(self, model: nn.Module, network: Network) -> float:
        """Score of the original network, as it is."""
        return finite_score(self.score_fn, rewrite(model, original_plan(network)))

    def score(self, model: nn.Module, network: Network, candidate: Candidate) -> float:
        """Score after the short fine-tune."""
        return self.score_plan(model, network, Combination((candidate,)))

    def score_plan(self, model: nn.Module, network: Network, plan: Combination) -> float:
        """Score of the network with several segments replaced, after the short fine-tune."""
        replaced = self._start(model, network, plan.candidates)
        if self.train_fn is not None:
            train_in_place("train_fn", self.train_fn, replaced)
        return finite_score(self.score_fn, replaced.eval())

    def _start(
        self, model: nn.Module, network: Network, candidates: Sequence[Candidate]
    ) -> fx.GraphModule:
        plan = plan_of(network, candidates)
        if self.init == "least_squares":
            assert self.calibration is not None
            return merge_least_squares(
                model, network, plan, self.calibration, ridge=self.ridge, verify=False
            )
        replaced = rewrite(model, plan)
        for candidate in candidates if self.reinitialise else ():
            if len(candidate.kept) == 1 and not candidate.is_original:
                layer = replaced.get_submodule(network.layers[candidate.kept[0] - 1].name)
                layer.reset_parameters()  # type: ignore[operator]
        return replaced


def finite_score(score_fn: ScoreFunction, module: nn.Module) -> float:
    """What `score_fn` returns, which must be a finite number."""
    return scored("score_fn", score_fn, module)
