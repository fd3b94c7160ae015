"""Where a search for a plan stands, as kept in its study (no torch)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from layermerge.checks import check_integers
from layermerge.errors import InputError, shown
from layermerge.milliseconds import format_ms
from layermerge.store import Study
from layermerge.typed import check_types

KEY = "importance status"


@dataclass(frozen=True)
class PlanStatus:
    """The best known plan for a budget.

    Attributes
    ----------
    budget_ns, latency_ns : int
        Of the whole network; the latency is as predicted, 0 while there is no plan.
    value, bound : float or None
        Its importance, None while there is no plan, and what no plan exceeds if the bounds hold.
    score : float or None
        Predicted score: that of the original network and the changes of all replacements.
    segments : tuple of str
        Keys of its candidates that are not original.
    whole_score : float or None
        Score of the plan as a whole, if it has won a contest of plans.
    """

    budget_ns: int
    latency_ns: int
    value: float | None
    bound: float
    score: float | None
    segments: tuple[str, ...]
    whole_score: float | None = None


@dataclass(frozen=True)
class Status:
    """A search after one of its rounds.

    Attributes
    ----------
    round, evaluated, total, wanted : int
        See `layermerge.importance.lazy.Round`.
    is_done : bool
        Whether the certificate holds for every budget.
    base : float
        Score of the original network.
    seconds_each : float
        Mean time of an evaluation; 0 if there was none yet.
    slots : int
        Evaluations that run at once.
    estimator : str
        With its settings and the seed.
    certificate : str
    plans : tuple of PlanStatus
        One for each budget.
    """

    round: int
    evaluated: int
    total: int
    wanted: int
    is_done: bool
    base: float
    seconds_each: float
    slots: int
    estimator: str
    certificate: str
    plans: tuple[PlanStatus, ...]

    @property
    def eta_s(self) -> float:
        """Seconds until what is wanted now is evaluated: the least that is left."""
        return self.wanted * self.seconds_each / self.slots

    def save(self, study: Study) -> None:
        """Keep it in a study, in place of the one before."""
        study.add_artefact(KEY, json.dumps(asdict(self)).encode())

    def document(self) -> dict[str, Any]:
        """It as data for JSON; what names the estimator is an object, not text that holds one."""
        return {**asdict(self), "estimator": _unfolded(self.estimator), "eta_s": self.eta_s}

    def lines(self) -> Iterator[str]:
        """Describe it."""
        if self.is_done:
            rounds = "1 round" if self.round == 1 else f"{self.round} rounds"
            yield f"done after {rounds}: {self.certificate}"
        else:
            left = f", at least {self.eta_s:.0f} s left" if self.eta_s else ""
            yield (
                f"round {self.round}: {self.evaluated} of {self.total} entries evaluated, "
                f"{self.wanted} wanted now{left}"
            )
        yield f"the original network scores {self.base:.6g}"
        for plan in self.plans:
            yield from _describe(plan, is_done=self.is_done)


def load_status(study: Study) -> Status:
    """Read the status from a study.

    Raises
    ------
    InputError
        If no search has used the study yet, or what it says of one is damaged.
    """
    content = study.artefact(KEY)
    if content is None:
        raise InputError(
            f"study {study.path} holds no search yet: start one with `layermerge importance MODEL "
            "--study ...` or `layermerge compress`"
        )
    try:
        document = json.loads(content)
        plans = (
            PlanStatus(**{**plan, "segments": tuple(plan["segments"])})
            for plan in document.pop("plans")
        )
        status = Status(plans=tuple(plans), **document)
        check_types(status)
        check_integers(status, "slots", least=1)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"study {study.path} does not say where its search stands ({shown(str(error))}): run "
            "the search again, which keeps what was evaluated"
        ) from error
    return status


def _unfolded(value: Any) -> Any:
    """Objects in place of text that holds them as JSON, at any depth."""
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return _unfolded(found) if isinstance(found, dict) else value
    if isinstance(value, dict):
        return {key: _unfolded(each) for key, each in value.items()}
    return value


def _describe(plan: PlanStatus, *, is_done: bool) -> Iterator[str]:
    budget = f"budget {format_ms(plan.budget_ns)} ms"
    if plan.value is None:
        yield f"{budget}: no plan is known yet"
        return
    score = f"predicted score {plan.score:.6g}"
    if plan.whole_score is not None:
        score = f"scores {plan.whole_score:.6g} as a whole (sum of changes: {plan.score:.6g})"
    best = "the best plan" if is_done else "the best plan so far"
    yield (
        f"{budget}: {best} takes {format_ms(plan.latency_ns)} ms, {score}, importance "
        f"{plan.value:.6f} of at most {plan.bound:.6f}"
    )
    if plan.segments:
        yield f"  replaces {', '.join(plan.segments)}"
