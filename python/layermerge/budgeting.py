"""Keep a budget: measure what a plan really takes, and tighten until it fits."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from layermerge.errors import InfeasibleError
from layermerge.latency.profile import LatencyProfile
from layermerge.milliseconds import format_ms
from layermerge.plan import Plan
from layermerge.planning import Budget, predict_original_ns
from layermerge.store import Measurement

MAX_ATTEMPTS = 8
MAX_TIGHTENING = 1.1
"""Largest factor by which one measurement tightens the budget: it may have been a bad one."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """End-to-end latencies of the base and of a plan's merged network, measured in turns."""

    base: Measurement
    compressed: Measurement


def plan_within_budget(
    profile: LatencyProfile,
    plan_for: Callable[[int], Plan],
    budget: Budget,
    measure: Callable[[Plan], Comparison],
    *,
    margin: float = 0.02,
) -> Plan:
    """Choose a plan that is measured to keep the budget.

    Parameters
    ----------
    profile : LatencyProfile
    plan_for : callable
        The best plan for a whole-network budget in nanoseconds; as `make_plan`, it raises
        `InfeasibleError` when there is none.
    budget : Budget
    measure : callable
        Measures a plan beside the base. Weights do not matter for that.
    margin : float
        Part of the budget that must be left, for medians differ from run to run.

    Returns
    -------
    Plan

    Raises
    ------
    InfeasibleError
        If no plan is predicted, or was measured, to keep the budget.
    """
    asked_ns = budget.resolve(predict_original_ns(profile))
    target_ns = asked_ns
    fastest_ns, least_excess = 0, math.inf
    for _ in range(MAX_ATTEMPTS):
        try:
            plan = plan_for(target_ns)
        except InfeasibleError:
            if target_ns == asked_ns:
                raise
            break
        assert plan.latency_ns is not None
        measured = measure(plan)
        taken_ns = measured.compressed.median_ns
        excess = taken_ns * (1 + margin) / budget.resolve(measured.base.median_ns)
        _log.info("predicted %.3f ms, measured %.3f ms", plan.latency_ns / 1e6, taken_ns / 1e6)
        if excess <= 1:
            return replace(plan, budget_ns=asked_ns)
        if excess < least_excess:
            fastest_ns, least_excess = taken_ns, excess
        target_ns = int(min(plan.latency_ns - 1, target_ns / min(excess, MAX_TIGHTENING)))
    raise InfeasibleError(
        f"no plan that was measured meets the budget of {budget} with confidence: the fastest took "
        f"{format_ms(fastest_ns)} ms, {least_excess:.1%} of the budget with the margin of "
        f"{margin:.0%}. Latency may be too noisy on this machine now: allow more latency, or try "
        "again with another study",
        fastest_ns,
    )
