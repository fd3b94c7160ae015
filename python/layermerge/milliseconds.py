"""Milliseconds, as people write them, to whole nanoseconds, as the solver counts them; exactly."""

from __future__ import annotations

import re
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

from layermerge.errors import InputError, shown

MAX_NS = 2**63 - 1

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,9})?", re.ASCII | re.IGNORECASE)
_ARITHMETIC = Context(prec=60)


def ns_from_ms(milliseconds: str | float | Decimal, *, rounding: str = ROUND_HALF_EVEN) -> int:
    """Convert milliseconds to whole nanoseconds, in decimal: 0.1 is exactly 100,000 ns.

    Parameters
    ----------
    milliseconds : str, float or Decimal
        A float stands for the shortest decimal that reads as it.
    rounding : str
        What to do beyond six decimals, as a rounding mode of `decimal`.

    Raises
    ------
    InputError
        Not a number, negative, or 2^63 nanoseconds or more.

    Examples
    --------
    >>> ns_from_ms("14.22181")
    14221810
    """
    text = str(milliseconds).strip()
    if not _NUMBER.fullmatch(text):
        point = ": write decimals with a point" if "," in text else ""
        raise InputError(f"must be a number of milliseconds, got '{shown(text)}'{point}")
    exact = Decimal(text)
    if exact < 0:
        raise InputError(f"must be >= 0 milliseconds, got {shown(text)}")
    if exact.adjusted() > 13 or (ns := _whole(exact, rounding)) > MAX_NS:
        raise InputError(f"must be below {MAX_NS // 10**6} milliseconds, got {shown(text)}")
    return ns


def budget_from_ms(milliseconds: str | float | Decimal) -> int:
    """Convert a budget to whole nanoseconds, rounded down: it is never exceeded."""
    return ns_from_ms(milliseconds, rounding=ROUND_FLOOR)


def format_ms(ns: int) -> str:
    """Write nanoseconds as exact decimal milliseconds.

    Examples
    --------
    >>> format_ms(14221810)
    '14.22181'
    """
    whole, rest = divmod(ns, 1_000_000)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def _whole(milliseconds: Decimal, rounding: str) -> int:
    if milliseconds.adjusted() < -13:
        milliseconds = Decimal(0)
    return int(milliseconds.scaleb(6, _ARITHMETIC).to_integral_value(rounding))
