"""Base against compressed, in words: what the terminal and the page both say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from layermerge.report.formats import (
    format_change,
    format_latency,
    format_measured,
    format_score,
    format_score_change,
    is_fraction,
)
from layermerge.results import Result


@dataclass(frozen=True)
class Row:
    """One quantity of both networks; an empty text where there is nothing to say."""

    quantity: str
    base: str
    compressed: str
    change: str = ""


def compare(result: Result) -> tuple[Row, ...]:
    """Every quantity of the two networks, in the order of interest."""
    return (*_outcome(result), *_size(result), *_errors(result))


def headline(result: Result) -> str:
    """The result in one line."""
    base, compressed = _scores(result)
    return (
        f"{result.name} runs {result.speedup:.2f}x as fast: "
        f"{format_latency(result.base.latency_ns)} -> "
        f"{format_latency(result.compressed.latency_ns)}, "
        f"{result.score_name} {base} -> {compressed}, "
        f"{result.base.layers} -> {result.compressed.layers} convolutions"
    )


def notes(result: Result) -> Iterator[str]:
    """How the figures are to be read."""
    yield (
        f"Latency: {result.environment}; median, with the relative half-width of its 95 % "
        "confidence interval."
    )
    yield (
        "Predicted: sum of the parts, each measured alone, "
        f"times {result.calibration:.3f} (measured over predicted latency of the base)."
    )
    yield "Merge error: merged against rewritten network, relative."
    if result.compressed.weight_range is not None:
        yield (
            "Weight range: max |w| of the widest output channel over that of the median one, in "
            "the convolution where it is largest. INT8 with one scale for each weight loses its "
            "log2 in bits; with one for each channel it does not."
        )
    if not _is_clear(result.compressed.latency_ns / result.budget_ns, _spread(result)):
        yield (
            "The latency of the compressed network lies within its spread of the budget: measured "
            "again, the verdict may differ."
        )


def speedup_spread(result: Result) -> float:
    """Half-width of the speed-up's confidence interval, the two measurements being independent."""
    relative = math.hypot(result.base.latency_spread, result.compressed.latency_spread)
    return result.speedup * relative


def speed_verdict(result: Result) -> str:
    """Whether the compressed network is faster, as far as the measurements can tell."""
    if not _is_clear(result.speedup, speedup_spread(result)):
        return "no clear difference"
    return "faster" if result.speedup > 1 else "slower"


def budget_verdict(result: Result) -> str:
    """Whether the budget was kept, and by how much."""
    rest = 100 * (1 - result.compressed.latency_ns / result.budget_ns)
    if result.is_within_budget:
        return f"kept, {rest:.1f} % left"
    return f"EXCEEDED by {-rest:.1f} %"


def _outcome(result: Result) -> Iterator[Row]:
    base, compressed = result.base, result.compressed
    percent = is_fraction(result.score_name, base.score, compressed.score)
    yield Row(
        result.score_name,
        *_scores(result),
        format_score_change(base.score, compressed.score, percent=percent),
    )
    yield Row(
        "latency, measured",
        format_measured(base.latency_ns, base.latency_spread),
        format_measured(compressed.latency_ns, compressed.latency_spread),
        format_change(base.latency_ns, compressed.latency_ns),
    )
    spread = speedup_spread(result)
    yield Row("speed-up", "", f"{result.speedup:.2f}x ±{spread:.2f}", speed_verdict(result))
    yield Row("budget", "", format_latency(result.budget_ns), budget_verdict(result))
    yield Row(
        "latency, predicted",
        format_latency(base.predicted_ns),
        format_latency(compressed.predicted_ns),
        format_change(base.predicted_ns, compressed.predicted_ns),
    )
    yield Row(
        "prediction error",
        format_change(base.latency_ns, base.predicted_ns),
        format_change(compressed.latency_ns, compressed.predicted_ns),
    )


def _size(result: Result) -> Iterator[Row]:
    before, after = result.base, result.compressed
    yield Row(
        "convolution layers",
        f"{before.layers:,}",
        f"{after.layers:,}",
        f"{after.layers - before.layers:+,}",
    )
    for name, old, new in (
        ("parameters", before.parameters, after.parameters),
        ("FLOPs per input", before.flops, after.flops),
    ):
        yield Row(name, f"{old:,}", f"{new:,}", format_change(old, new))
    if before.weight_range is not None and after.weight_range is not None:
        yield Row(
            "weight range",
            f"{before.weight_range:.1f}",
            f"{after.weight_range:.1f}",
            f"{math.log2(after.weight_range / before.weight_range):+.1f} bits",
        )


def _errors(result: Result) -> Iterator[Row]:
    yield Row("merge error, float64", "", f"{result.float64_error:.1e}")
    yield Row("merge error, as run", "", f"{result.merge_error:.1e}")


def _scores(result: Result) -> tuple[str, str]:
    base, compressed = result.base.score, result.compressed.score
    percent = is_fraction(result.score_name, base, compressed)
    return format_score(base, percent=percent), format_score(compressed, percent=percent)


def _spread(result: Result) -> float:
    return result.compressed.latency_spread


def _is_clear(ratio: float, half_width: float) -> bool:
    return abs(ratio - 1) > half_width
