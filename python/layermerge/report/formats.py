"""Numbers as people read them, with their units."""

from __future__ import annotations


def format_latency(ns: float) -> str:
    """Nanoseconds in milliseconds, to the microsecond.

    Examples
    --------
    >>> format_latency(3_301_499)
    '3.301 ms'
    """
    return f"{bare_ms(ns)} ms"


def bare_ms(ns: float) -> str:
    """The number of milliseconds without its unit, for columns that name it."""
    return f"{ns / 1e6:,.3f}"


def format_measured(ns: float, spread: float) -> str:
    """A latency with the relative half-width of its confidence interval.

    Examples
    --------
    >>> format_measured(3_301_499, 0.0081)
    '3.301 ms ±0.8 %'
    """
    return f"{format_latency(ns)} ±{spread:.1%}".replace("%", " %")


def format_change(before: float, after: float) -> str:
    """Relative change in percent; nothing if it would be relative to zero.

    Examples
    --------
    >>> format_change(200, 130), format_change(200, 200), format_change(0, 1)
    ('-35.0 %', '+0.0 %', '')
    """
    # + 0.0 turns a rounded -0.0 into 0.0
    return f"{round(100 * (after / before - 1), 1) + 0.0:+.1f} %" if before else ""


def is_fraction(score_name: str, *scores: float) -> bool:
    """Whether scores are shown in percent: accuracies between 0 and 1."""
    return "accuracy" in score_name.lower() and all(0 <= score <= 1 for score in scores)


def format_score(score: float, *, percent: bool) -> str:
    """A score, as a percentage or as it is."""
    return f"{100 * score:.2f} %" if percent else f"{score + 0.0:.4g}"


def format_score_change(before: float, after: float, *, percent: bool) -> str:
    """Difference of two scores, in percentage points or as it is.

    Examples
    --------
    >>> format_score_change(0.942, 0.9378, percent=True)
    '-0.42 points'
    """
    if percent:
        return f"{round(100 * (after - before), 2) + 0.0:+.2f} points"
    return f"{after - before + 0.0:+.4g}"


def format_seconds(seconds: float) -> str:
    """A duration, in minutes or hours where it lasts some.

    Examples
    --------
    >>> format_seconds(4.217), format_seconds(221.04), format_seconds(36_000)
    ('4.2 s', '3 min 41 s', '10 h 0 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def count(number: int, noun: str) -> str:
    """A number of things.

    Examples
    --------
    >>> count(1, "layer"), count(2, "layer")
    ('1 layer', '2 layers')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
