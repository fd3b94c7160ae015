"""HTML and SVG elements whose text is escaped unless it is markup already."""

from __future__ import annotations

import re
from html import escape

VOID = frozenset({"img", "input", "meta"})
"""Elements that have no content and no end."""


class Markup(str):
    """Text that is HTML. Any other string is text, and is escaped when put into an element."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """An element with its children.

    Parameters
    ----------
    tag : str
    *children : str or Markup
    **attributes : object
        Names as in Python: ``class_`` is ``class``, ``aria_label`` is ``aria-label``; floats are
        rounded to 0.01.

    Examples
    --------
    >>> element("p", "1 < 2 ", element("b", "yes"), class_="note")
    '<p class="note">1 &lt; 2 <b>yes</b></p>'
    """
    written = "".join(f" {_name(name)}={_quoted(value)}" for name, value in attributes.items())
    end = "" if tag in VOID else f"</{tag}>"
    return Markup(f"<{tag}{written}>{join(*children)}{end}")


def join(*children: str) -> Markup:
    """Children without an element around them."""
    return Markup(
        "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    )


def typeset(text: str) -> str:
    r"""Spell our own texts as a page does: arrows, minus signs, units that stay with numbers.

    Examples
    --------
    >>> typeset("3x3, 16 -> 32, -1.5 %")
    '3x3, 16 → 32, −1.5\xa0%'
    """
    text = re.sub(r"(?<=\d) (?=%|ms\b)", "\xa0", text)
    return re.sub(r"(?<![^\s(])-(?=\d)", "−", text.replace("->", "→"))


def shorten(text: str, length: int) -> str:
    """Leave out the middle of a long name.

    Examples
    --------
    >>> shorten("layer1.0.downsample.conv", 15)
    'layer1.…le.conv'
    """
    head = (length - 1) // 2
    return text if len(text) <= length else f"{text[:head]}…{text[head + 1 - length :]}"


def _name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _quoted(value: object) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f'"{escape(text)}"'
