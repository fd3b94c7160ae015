"""Results to report on: invented figures that are consistent with each other."""

from __future__ import annotations

import math
from dataclasses import replace

from layermerge.results import Figures, Result, Step
from layermerge.search_results import FrontierPoint, SearchResult, SegmentFinding


def make_step(start, latencies_ns, kept, after_ns, width=16):
    names = tuple(f"layers.{start + place}.conv" for place in range(len(latencies_ns)))
    kernel = 1 + 2 * len(kept)
    return Step(
        start=start,
        end=start + len(names),
        names=names,
        kept=tuple(names[place] for place in kept),
        description=f"{kernel}x{kernel}, {width} -> {2 * width}, stride 2, relu6",
        before_ns=sum(latencies_ns),
        after_ns=after_ns,
        name_descriptions=tuple(f"3x3, {width} -> {width}, relu6" for _ in names),
        name_ns=tuple(latencies_ns),
    )


def make_barrier(position, name, latency_ns):
    names = (name,)
    return Step(position, position, names, names, "avg_pool2d", latency_ns, latency_ns)


STEPS = (
    make_step(0, (310_000,), (0,), 310_000, width=3),
    make_step(1, (420_000, 380_000, 95_000), (0, 2), 450_000),
    make_step(4, (260_000, 240_000), (1,), 255_000, width=32),
    make_step(6, (205_000,), (0,), 205_000, width=32),
    make_step(7, (150_000, 148_000, 160_000, 155_000), (0, 3), 310_000, width=64),
    make_barrier(11, "pool", 61_000),
    make_barrier(11, "fc", 47_000),
)


def _kind(number, *, is_chosen):
    if is_chosen:
        return "num_scored"
    if number % 11 == 5:
        return "num_failed"
    if number % 7 == 3:
        return "num_unprofitable"
    return "num_scored" if number % 3 else "num_unevaluated"


def _segment(place, kind, is_chosen, severity):
    start, end = place
    finding = SegmentFinding(start, end, 1, is_chosen=is_chosen, **{kind: 1})
    if kind != "num_scored":
        return finding
    length = end - start
    delta = 0.004 - 0.01 * length * severity
    return replace(
        finding,
        kernel_size=(3, 3),
        kept=(end,),
        latency_ns=100_000 * length,
        replaced_ns=150_000 * length,
        delta=delta,
        importance=math.exp(delta),
    )


def make_search(num_layers, chosen, budget_ns, *, num_points=12, longest=5):
    """A search of segments up to `longest` layers, of which `chosen` are in the plan.

    One in three is not evaluated, one in eleven failed, one in seven is no faster.
    """
    places = [
        (start, end)
        for start in range(num_layers)
        for end in range(start + 1, min(start + longest, num_layers) + 1)
    ]
    segments = [
        _segment(place, _kind(number, is_chosen=place in chosen), place in chosen, number % 5 + 1)
        for number, place in enumerate(places)
    ]
    keys = [f"{start}-{end}:3x3:{end}" for start, end in sorted(chosen)]
    middle = num_points // 2
    points = tuple(
        FrontierPoint(
            latency_ns=round(budget_ns * (0.98 + 0.6 * (place - middle) / num_points)),
            importance=num_layers - 0.5 / (place + 1),
            score=0.94 - 0.1 / (place + 1),
            layers=num_layers - len(keys),
            segments=tuple(keys[: len(keys) * (num_points - place) // (num_points - middle)]),
            is_chosen=place == middle,
        )
        for place in range(num_points)
    )
    return SearchResult("exp_delta", 0.94, points, tuple(segments))


def make_result(steps=STEPS, *, measured_ns=None, **changes):
    """The base is measured as calibrated; the compressed network as `measured_ns` says."""
    calibration = 1.083
    before, after = (
        math.ceil(calibration * sum(getattr(step, name) for step in steps))
        for name in ("before_ns", "after_ns")
    )
    num_layers = sum(len(step.names) for step in steps if not step.is_barrier)
    num_left = sum(bool(step.kept) for step in steps if not step.is_barrier)
    result = Result(
        name="digits_net",
        score_name="accuracy",
        environment="cpu Sample Processor, torch-eager 2.4, float32, batch 16, 2 threads",
        base=Figures(0.942, before, 0.008, before, num_layers, 78_042, 12_345_678, 3.2),
        compressed=Figures(
            score=0.9378,
            latency_ns=measured_ns or round(0.98 * after),
            latency_spread=0.011,
            predicted_ns=after,
            layers=num_left,
            parameters=91_310,
            flops=9_876_543,
            weight_range=7.9,
        ),
        budget_ns=before * 2 // 3,
        calibration=calibration,
        float64_error=1.3e-15,
        merge_error=4.1e-7,
        steps=tuple(steps),
        num_candidates=312,
        num_signatures=87,
        num_scored=44,
        num_unprofitable=31,
        num_failed=0,
        seconds={"trace": 0.412, "latency": 28.3, "importance": 171.94, "finetune": 40.2},
        provenance={"layermerge": "0.1.0", "seed": 0, "options": {"method": "layermerge"}},
    )
    return replace(result, **changes)


def with_search(result, **options):
    """The result with an invented search for its plan."""
    segments = [step for step in result.steps if not step.is_barrier]
    chosen = {(s.start, s.end) for s in segments if len(s.names) > 1 or not s.kept}
    search = make_search(segments[-1].end, chosen, result.budget_ns, **options)
    return replace(result, search=search)


def dropped_and_gated():
    """A dropped segment, a removed gate, and a fixed norm."""
    merged = make_step(1, (420_000, 380_000), (0, 1), 450_000)
    gated = replace(
        merged,
        names=(merged.names[0], "layers.1.gate", merged.names[1]),
        before_ns=merged.before_ns + 90_000,
        name_descriptions=(merged.name_descriptions[0], "gate", merged.name_descriptions[1]),
        name_ns=(420_000, 90_000, 380_000),
    )
    dropped = replace(
        make_step(3, (260_000, 240_000), (), 12_000), description="no convolution, 16 -> 16, relu"
    )
    single = replace(make_step(5, (150_000,), (), 0), description="no convolution, 16 -> 16")
    first, norm = make_step(0, (310_000,), (0,), 310_000), make_barrier(3, "norm", 20_000)
    last = make_step(6, (205_000,), (0,), 205_000)
    steps = (first, gated, norm, dropped, single, last, make_barrier(7, "head", 30_000))
    result = make_result(steps)
    return with_search(replace(result, compressed=replace(result.compressed, layers=3)), longest=3)


def searched():
    return with_search(make_result())


def one_layer():
    return make_result((make_step(0, (310_000,), (0,), 310_000),))


def two_hundred_layers():
    steps = [
        make_step(start, (200_000 + 900 * start,) * 4, (0, 3), 500_000 + 1500 * start)
        for start in range(0, 200, 4)
    ]
    return with_search(make_result((*steps, make_barrier(200, "head", 30_000))), num_points=100)


def mostly_unchanged():
    """120 layers of which few merge."""
    steps = [
        make_step(start, (20_000 + 70 * start,), (0,), 20_000 + 70 * start)
        if start % 30
        else make_step(start, (40_000, 30_000), (0, 1), 45_000)
        for start in range(120)
        if start % 30 != 1
    ]
    return make_result((*steps, make_barrier(120, "head", 30_000)))


def slower():
    return make_result(measured_ns=3_100_000)


def not_by_accuracy():
    result = make_result(score_name="minus loss ratio")
    return replace(
        result,
        base=replace(result.base, score=-1.0),
        compressed=replace(result.compressed, score=-1.2),
    )


def without_weight_range():
    result = make_result()
    figures = (replace(part, weight_range=None) for part in (result.base, result.compressed))
    return replace(result, **dict(zip(("base", "compressed"), figures, strict=True)))


SAMPLES = {
    "sample": make_result,
    "searched": searched,
    "dropped and gated": dropped_and_gated,
    "mostly unchanged": mostly_unchanged,
    "one layer": one_layer,
    "200 layers": two_hundred_layers,
    "slower": slower,
    "not by accuracy": not_by_accuracy,
    "without weight range": without_weight_range,
}
