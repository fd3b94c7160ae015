"""Training-free estimators: what replacing a segment does, judged from calibration data alone.

They say which candidates to try first. None of them is a score after training, and none is ever put
in its place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from layermerge.callbacks import check_callbacks
from layermerge.candidates import Candidate
from layermerge.checks import check_numbers, check_texts
from layermerge.errors import InputError, located, shown
from layermerge.fingerprints import fingerprint_function
from layermerge.importance.activations import (
    Batches,
    Recorder,
    device_of,
    fingerprint_batches,
    inputs_of,
    record,
)
from layermerge.importance.closed_form import RIDGE, merge_least_squares
from layermerge.importance.estimators import UNNAMED, ScoreFunction, finite_score
from layermerge.network import Network
from layermerge.plan import original_plan, replace_segment
from layermerge.rewriting import rewrite, rewriting_of


@dataclass(frozen=True)
class OutputError:
    """Minus the relative squared error of the segment's output.

    Attributes
    ----------
    calibration : iterable of batches
    name : str
        Names the data.
    """

    calibration: Batches
    name: str = UNNAMED

    def __post_init__(self) -> None:
        _check_given(self.calibration)
        check_texts(self, "name")

    @cached_property
    def fingerprint(self) -> str:
        """Names the estimator with its settings and data."""
        return _fingerprint("output error", self.name, self.calibration)

    def base(self, model: nn.Module, network: Network) -> float:
        """The original network has no error."""
        return 0.0

    @torch.no_grad()
    def score(self, model: nn.Module, network: Network, candidate: Candidate) -> float:
        """-||Y' - Y||² / ||Y||² over the calibration data."""
        pair = _Pair.of(model, network, candidate)
        error = energy = 0.0
        for inputs in inputs_of(self.calibration, device_of(model)):
            before, after = pair.outputs(inputs)
            error += float((after - before).double().square().sum())
            energy += float(before.double().square().sum())
        return _finite(-error / max(energy, 1e-300), "the relative output error")


@dataclass(frozen=True)
class FirstOrderTaylor:
    """Minus the change of the loss to first order.

    With g the gradient of the loss at the segment's output, it is -Σ |<g, Y' - Y>| over the
    calibration inputs, relative to the loss.

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
    name: str = UNNAMED

    def __post_init__(self) -> None:
        _check_given(self.calibration)
        check_callbacks(loss_fn=self.loss_fn)
        check_texts(self, "name")

    @cached_property
    def fingerprint(self) -> str:
        """Names the estimator with its settings and data."""
        loss = fingerprint_function(self.loss_fn)
        return _fingerprint("taylor", self.name, self.calibration, loss=loss)

    def base(self, model: nn.Module, network: Network) -> float:
        """The original network changes nothing; here the labels and `loss_fn` are tried."""
        original = rewrite(model, original_plan(network))
        for inputs, labels in self._batches(device_of(model)):
            with torch.enable_grad():
                _loss(self.loss_fn, original(_with_gradient(inputs)), labels)
        return 0.0

    def score(self, model: nn.Module, network: Network, candidate: Candidate) -> float:
        """Minus the estimated change of the loss, relative to the loss."""
        pair = _Pair.of(model, network, candidate)
        change = total = 0.0
        for inputs, labels in self._batches(device_of(model)):
            before, after = pair.outputs(inputs)
            gradient, loss = pair.gradient(inputs, labels, self.loss_fn)
            per_input = (gradient * (after - before)).flatten(1).sum(1)
            change += float(per_input.abs().sum())
            total += loss
        return _finite(-change / max(abs(total), 1e-300), "the Taylor estimate")

    def _batches(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.calibration:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise InputError(
                    "FirstOrderTaylor needs batches of (inputs, labels), got a "
                    f"{type(batch).__name__}"
                )
            if not isinstance(batch[1], Tensor):
                raise InputError(
                    f"FirstOrderTaylor needs labels that are tensors, got {shown(repr(batch[1]))}"
                )
            yield batch[0].to(device), batch[1].to(device)


@dataclass(frozen=True)
class ClosedForm:
    """Merge the segment in closed form, and score the result or its error.

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
    name: str = UNNAMED
    ridge: float = RIDGE

    def __post_init__(self) -> None:
        _check_given(self.calibration)
        if self.score_fn is not None:
            check_callbacks(score_fn=self.score_fn)
        check_texts(self, "name")
        check_numbers(self, "ridge", least=0)

    @cached_property
    def fingerprint(self) -> str:
        """Names the estimator with its settings and data."""
        what = "closed form error" if self.score_fn is None else "closed form score"
        return _fingerprint(what, self.name, self.calibration, ridge=self.ridge)

    @property
    def is_unnamed(self) -> bool:
        """Whether nothing would tell that what it scores by has changed."""
        return self.score_fn is not None and self.name == UNNAMED

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
            verify=False,
            report=lambda segment, error: errors.append(error),
        )
        if self.score_fn is not None:
            return finite_score(self.score_fn, merged)
        if not errors:  # dropped whole: there is no convolution to fit
            return OutputError(self.calibration).score(model, network, candidate)
        return _finite(-errors[0], "the relative error of the merged convolution")


@dataclass(frozen=True)
class _Pair:
    """The original network and one with a segment replaced, and where that segment ends in both."""

    original: fx.GraphModule
    replaced: fx.GraphModule
    exits: tuple[str, str]

    @staticmethod
    def of(model: nn.Module, network: Network, candidate: Candidate) -> _Pair:
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
        return _Pair(original, replaced, (before, after))

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
    ) -> tuple[Tensor, float]:
        """Gradient of the loss at the segment's output in the original network, and the loss."""
        recorder = Recorder(self.original, {self.exits[0]})
        with torch.enable_grad():
            loss = _loss(loss_fn, recorder.run(_with_gradient(inputs)), labels)
        (found,) = torch.autograd.grad(loss, recorder.values[self.exits[0]])
        return found, float(loss.detach())


def _with_gradient(inputs: Tensor) -> Tensor:
    """Inputs that gradients reach, also where all parameters are frozen."""
    return inputs.detach().clone().requires_grad_() if inputs.is_floating_point() else inputs


def _loss(loss_fn: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, labels: Tensor) -> Tensor:
    try:
        loss = loss_fn(outputs, labels)
    except Exception as error:  # the user's own
        raise InputError(
            f"loss_fn(outputs, labels) fails on a batch of calibration: {located(error)}"
        ) from error
    if not (isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad):
        raise InputError(
            "loss_fn(outputs, labels) must return a tensor of one number that depends on the "
            f"outputs, got {shown(repr(loss))}"
        )
    return loss


def _fingerprint(estimator: str, name: str, calibration: Batches, **settings: object) -> str:
    batches = fingerprint_batches(calibration)
    named = {"estimator": estimator, "data": name, "batches": batches, **settings}
    return json.dumps(named, sort_keys=True)


def _check_given(calibration: object) -> None:
    if calibration is None:
        raise InputError("calibration must be a list of batches, got None")


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise InputError(
            f"{what} is {value}: check the calibration data, and what score or loss makes of them, "
            "for NaN"
        )
    return value
