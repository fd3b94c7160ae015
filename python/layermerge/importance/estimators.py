"""Estimators: what a network with one segment replaced is worth, with training and without.

An estimator is a frozen dataclass: its fields say all that decides its scores, so that its
`fingerprint` names them in a study, and it can be sent to another process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, fx, nn

from layermerge.candidates import Candidate
from layermerge.errors import InputError, TrainingError
from layermerge.importance.activations import Batches, device_of, inputs_of, record
from layermerge.importance.closed_form import RIDGE, merge_least_squares
from layermerge.network import Network
from layermerge.plan import original_plan, replace_segment
from layermerge.rewriting import rewrite, rewriting_of

ScoreFunction = Callable[[nn.Module], float]
TrainFunction = Callable[[nn.Module], object]
LossFunction = Callable[[nn.Module, object], Tensor]
"""``loss_fn(module, batch)``: the loss of a batch, from which gradients flow."""

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
    name: str = "custom"
    init: str = "composed"
    reinitialise: bool = False
    calibration: Batches | None = None
    ridge: float = RIDGE

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise InputError(f"init must be one of {', '.join(INITS)}; got {self.init!r}")
        if self.init == "least_squares" and self.calibration is None:
            raise InputError("init 'least_squares' needs calibration data: give `calibration`")
        if self.init == "least_squares" and self.reinitialise:
            raise InputError("give either init 'least_squares' or reinitialise, not both")

    @property
    def fingerprint(self) -> str:
        """Names the estimator with its settings."""
        settings: dict[str, object] = {"estimator": self.name}
        if self.train_fn is None:
            settings["training"] = "none"
        if self.init == "least_squares":
            settings |= {"init": self.init, "ridge": self.ridge}
        if self.reinitialise:
            settings["reinitialise"] = True
        return json.dumps(settings, sort_keys=True)

    def base(self, model: nn.Module, network: Network) -> float:
        """Score of the original network, as it is."""
        return finite_score(self.score_fn, rewrite(model, original_plan(network)))

    def score(self, model: nn.Module, network: Network, candidate: Candidate) -> float:
        """Score after the short fine-tune."""
        replaced = self._start(model, network, candidate)
        if self.train_fn is not None:
            self.train_fn(replaced)
            check_weights(replaced)
        return finite_score(self.score_fn, replaced.eval())

    def _start(self, model: nn.Module, network: Network, candidate: Candidate) -> fx.GraphModule:
        plan = replace_segment(network, candidate)
        if self.init == "least_squares":
            assert self.calibration is not None
            return merge_least_squares(model, network, plan, self.calibration, ridge=self.ridge)
        replaced = rewrite(model, plan)
        if self.reinitialise and len(candidate.kept) == 1:
            layer = replaced.get_submodule(network.layers[candidate.kept[0] - 1].name)
            layer.reset_parameters()  # type: ignore[operator]
        return replaced


@dataclass(frozen=True)
class OutputError:
    """Training-free: minus the relative squared error of the segment's output.

    Attributes
    ----------
    calibration : iterable of batches
    name : str
        Names the data.
    """

    calibration: Batches
    name: str = "custom"

    @property
    def fingerprint(self) -> str:
        """Names the estimator with its settings."""
        return json.dumps({"estimator": "output error", "data": self.name}, sort_keys=True)

    def base(self, model: nn.Module, network: Network) -> float:
        """The original network has no error."""
        return 0.0

    @torch.no_grad()
    def score(self, model: nn.Module, network: Network, candidate: Candidate) -> float:
        """-||Y' - Y||² / ||Y||² over the calibration data."""
        pair = Pair.of(model, network, candidate)
        error = energy = 0.0
        for inputs in inputs_of(self.calibration, device_of(model)):
            before, after = pair.outputs(inputs)
            error += float((after - before).double().square().sum())
            energy += float(before.double().square().sum())
        return _finite(-error / max(energy, 1e-300), "the relative output error")


@dataclass(frozen=True)
class FirstOrderTaylor:
    """Training-free: minus the change of the loss to first order, per batch, in absolute value.

    With g the gradient of the loss at the segment's output, it is -Σ |<g, Y' - Y>| over the
    calibration batches, relative to the loss.

    Attributes
    ----------
    calibration : iterable of (inputs, labels)
    loss_fn : callable
        ``loss_fn(outputs, labels)``: the mean over a batch.
    name : str
        Names the data and the loss.
    """

    calibration: Batches
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    name: str = "custom"

    @property
    def fingerprint(self) -> str:
        """Names the estimator with its settings."""
        return json.dumps({"estimator": "taylor", "data": self.name}, sort_keys=True)

    def base(self, model: nn.Module, network: Network) -> float:
        """The original network changes nothing."""
        return 0.0

    def score(self, model: nn.Module, network: Network, candidate: Candidate) -> float:
        """Minus the estimated change of the loss, relative to the loss."""
        pair = Pair.of(model, network, candidate)
        change = total = 0.0
        for inputs, labels in self.calibration:  # inputs and labels alike must be tensors
            before, after = pair.outputs(inputs := inputs.to(device_of(model)))
            loss = self.loss_fn(pair.original(inputs), labels.to(inputs.device))
            gradient = pair.gradient(inputs, labels.to(inputs.device), self.loss_fn)
            per_image = (gradient * (after - before)).flatten(1).sum(1)
            change += float(per_image.abs().sum())
            total += float(loss)
        return _finite(-change / max(total, 1e-300), "the Taylor estimate")


@dataclass(frozen=True)
class ClosedForm:
    """Training-free: merge the segment in closed form, and score the result or its error.

    Attributes
    ----------
    calibration : iterable of batches
    score_fn : callable, optional
        Scores the merged network; without it the score is minus the relative error that is left.
    name : str
        Names the data, and what `score_fn` does.
    ridge : float
        See `merge_least_squares`.
    """

    calibration: Batches
    score_fn: ScoreFunction | None = None
    name: str = "custom"
    ridge: float = RIDGE

    @property
    def fingerprint(self) -> str:
        """Names the estimator with its settings."""
        what = "closed form error" if self.score_fn is None else "closed form score"
        settings = {"estimator": what, "data": self.name, "ridge": self.ridge}
        return json.dumps(settings, sort_keys=True)

    def base(self, model: nn.Module, network: Network) -> float:
        """Score of the original network; it has no error."""
        if self.score_fn is None:
            return 0.0
        return finite_score(self.score_fn, rewrite(model, original_plan(network)))

    def score(self, model: nn.Module, network: Network, candidate: Candidate) -> float:
        """Score of the merged network, or minus the relative error."""
        errors: list[float] = []
        merged = merge_least_squares(
            model,
            network,
            replace_segment(network, candidate),
            self.calibration,
            ridge=self.ridge,
            report=lambda segment, error: errors.append(error),
        )
        if self.score_fn is not None:
            return finite_score(self.score_fn, merged)
        if not errors:  # dropped whole: there is no convolution to fit
            return OutputError(self.calibration).score(model, network, candidate)
        return _finite(-errors[0], "the relative error of the merged convolution")


@dataclass(frozen=True)
class Pair:
    """The original network and one with a segment replaced, and where that segment ends in both."""

    original: fx.GraphModule
    replaced: fx.GraphModule
    exits: tuple[str, str]

    @staticmethod
    def of(model: nn.Module, network: Network, candidate: Candidate) -> Pair:
        """Rewrite a model twice."""
        place = candidate.start, candidate.end
        original = rewrite(model, original_plan(network))
        replaced = rewrite(model, replace_segment(network, candidate))
        before = next(s.exit for s in network.segments if (s.start, s.end) == place)
        after = next(
            s.exit
            for s in rewriting_of(replaced).segments
            if (s.planned.start, s.planned.end) == place
        )
        return Pair(original, replaced, (before, after))

    @torch.no_grad()
    def outputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The segment's output before and after, for one batch."""
        before, after = self.exits
        return (
            record(self.original, inputs, {before})[before],
            record(self.replaced, inputs, {after})[after],
        )

    def gradient(
        self, inputs: Tensor, labels: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Gradient of the loss at the segment's output in the original network."""
        from layermerge.importance.activations import Recorder

        recorder = Recorder(self.original, {self.exits[0]})
        with torch.enable_grad():
            loss = loss_fn(recorder.run(inputs), labels)
        (found,) = torch.autograd.grad(loss, recorder.values[self.exits[0]])
        return found


def check_weights(module: nn.Module) -> None:
    """Refuse a network whose weights are no longer finite: its training diverged."""
    for name, weight in module.named_parameters():
        if not torch.isfinite(weight).all():
            raise TrainingError(f"fine-tuning diverged: parameter {name!r} holds NaN or infinity")


def finite_score(score_fn: ScoreFunction, module: nn.Module) -> float:
    """What `score_fn` returns, which must be a finite number."""
    returned = score_fn(module)
    try:
        value = math.nan if isinstance(returned, str) else float(returned)
    except (TypeError, ValueError, RuntimeError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"score_fn returned {returned!r}; expected a finite number")
    return value


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise InputError(f"{what} is {value}: check the calibration data for NaN")
    return value
