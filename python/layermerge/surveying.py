"""Gather what a search has learnt: the frontier, and what is known of every segment (no torch)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from layermerge.candidates import Candidate
from layermerge.importance.scores import ImportanceScores, Objective, name_of
from layermerge.latency.profile import LatencyProfile
from layermerge.plan import Plan
from layermerge.planning import chosen_candidates, predict_ns, tabulate
from layermerge.search_results import FrontierPoint, SearchResult, SegmentFinding
from layermerge.solver import frontier

MAX_POINTS = 100
"""Points of the frontier that are kept: more than a reader tells apart."""


def survey(
    profile: LatencyProfile,
    scores: ImportanceScores,
    plan: Plan,
    *,
    objective: Objective = "exp_delta",
    max_points: int = MAX_POINTS,
) -> SearchResult:
    """Gather what is known after a plan was chosen.

    Parameters
    ----------
    profile : LatencyProfile
    scores : ImportanceScores
        Of the same candidate space. What has no score is not on the frontier.
    plan : Plan
        Chosen from both.
    objective : str or callable
        By which it was chosen.
    max_points : int
        Of the frontier, at least 3: where the importance changes most, and the plan.
    """
    chosen = chosen_candidates(profile, plan)
    return SearchResult(
        name_of(objective),
        scores.base,
        _frontier(profile, scores, chosen, objective, max_points),
        tuple(_segments(profile, scores, frozenset(chosen), objective)),
    )


def _frontier(
    profile: LatencyProfile,
    scores: ImportanceScores,
    chosen: tuple[Candidate, ...],
    objective: Objective,
    max_points: int,
) -> tuple[FrontierPoint, ...]:
    latency, importance, candidates = tabulate(profile, scores, objective)
    found = frontier(latency, importance, max_points=max_points - 1)
    by_place = {(c.start, c.end, c.kept): c for c in candidates}
    plans = [
        tuple(by_place[e.start, e.end, e.kept] for e in selection.entries)
        for selection in found.selections()
    ]
    points = {
        point.latency_ns: point
        for point in (_point(profile, scores, each, objective) for each in plans)
    }
    # Where a plan of the frontier is as fast as the chosen one, that has the same importance.
    point = _point(profile, scores, chosen, objective, is_chosen=True)
    points[point.latency_ns] = point
    return tuple(points[latency_ns] for latency_ns in sorted(points))


def _point(
    profile: LatencyProfile,
    scores: ImportanceScores,
    plan: Sequence[Candidate],
    objective: Objective,
    *,
    is_chosen: bool = False,
) -> FrontierPoint:
    return FrontierPoint(
        latency_ns=predict_ns(profile, sum(map(profile.of, plan))),
        importance=math.fsum(scores.of(each, objective) for each in plan),
        score=scores.base + math.fsum(map(scores.delta, plan)),
        layers=sum(bool(each.kept) for each in plan),
        segments=tuple(each.key for each in plan if not each.is_original),
        is_chosen=is_chosen,
    )


def _segments(
    profile: LatencyProfile,
    scores: ImportanceScores,
    chosen: frozenset[Candidate],
    objective: Objective,
) -> Sequence[SegmentFinding]:
    replacements = sorted(
        (each for each in profile.space.candidates if not each.is_original), key=_place
    )
    return [
        _segment(profile, scores, tuple(entries), chosen, objective)
        for _, entries in groupby(replacements, key=_place)
    ]


def _segment(
    profile: LatencyProfile,
    scores: ImportanceScores,
    entries: tuple[Candidate, ...],
    chosen: frozenset[Candidate],
    objective: Objective,
) -> SegmentFinding:
    scored = [each for each in entries if each.key in scores.raw]
    failed = [each for each in entries if each.key in scores.failures]
    unprofitable = [
        each for each in entries if each.key in scores.skipped and each not in (*scored, *failed)
    ]
    finding = SegmentFinding(
        entries[0].start,
        entries[0].end,
        len(entries),
        num_scored=len(scored),
        num_unevaluated=len(entries) - len(scored) - len(failed) - len(unprofitable),
        num_unprofitable=len(unprofitable),
        num_failed=len(failed),
        is_chosen=not chosen.isdisjoint(entries),
    )
    if not scored:
        return finding
    best = max(scored, key=lambda each: (scores.raw[each.key], -profile.of(each)))
    return replace(
        finding,
        kernel_size=best.kernel_size,
        kept=best.kept,
        latency_ns=profile.of(best),
        replaced_ns=profile.replaced_ns(best),
        delta=scores.delta(best),
        importance=scores.of(best, objective),
    )


def _place(candidate: Candidate) -> tuple[int, int]:
    return candidate.start, candidate.end
