"""Results to report on: invented figures that are consistent with each other."""

from __future__ import annotations

import math
from dataclasses import replace

from layermerge.results import Figures, Result, Step


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


def make_result(steps=STEPS, *, measured_ns=None, **changes):
    """The base is measured as calibrated; the compressed network as `measured_ns` says."""
    calibration = 1.083
    before, after = (
        math.ceil(calibration * sum(getattr(step, name) for step in steps))
        for name in ("before_ns", "after_ns")
    )
    num_layers = sum(len(step.names) for step in steps if not step.is_barrier)
    num_left = sum(not step.is_barrier for step in steps)
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


def one_layer():
    return make_result((make_step(0, (310_000,), (0,), 310_000),))


def two_hundred_layers():
    steps = [
        make_step(start, (200_000 + 900 * start,) * 4, (0, 3), 500_000 + 1500 * start)
        for start in range(0, 200, 4)
    ]
    return make_result((*steps, make_barrier(200, "head", 30_000)))


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
    "one layer": one_layer,
    "200 layers": two_hundred_layers,
    "slower": slower,
    "not by accuracy": not_by_accuracy,
    "without weight range": without_weight_range,
}
