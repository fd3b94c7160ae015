from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from layermerge.errors import InputError
from layermerge.typed import check_types


@dataclass(frozen=True)
class Part:
    name: str
    sizes: tuple[int, int] = (1, 2)


@dataclass(frozen=True)
class Whole:
    count: int = 3
    ratio: float = 0.5
    budget: int | None = None
    parts: tuple[Part, ...] = (Part("a"), Part("b"))
    seconds: Mapping[str, float] = None
    anything: Any = None


GOOD = Whole(seconds={"trace": 1})


@pytest.mark.parametrize(
    "good",
    [
        GOOD,
        replace(GOOD, ratio=2, budget=7, parts=()),
        replace(GOOD, ratio=float("inf"), anything=[object()]),
    ],
)
def test_what_is_of_its_types_passes(good):
    check_types(good)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 1.0}, r"count must be whole numbers, got 1\.0"),
        ({"count": True}, "count must be whole numbers, got True"),
        ({"count": None}, "count must be whole numbers, got None"),
        ({"ratio": "0.5"}, "ratio must be numbers, got '0.5'"),
        ({"ratio": float("nan")}, "ratio must be numbers, got nan"),
        ({"ratio": 10**400}, "ratio must be numbers, got a number of 1329 bits"),
        ({"budget": "soon"}, "budget must be whole numbers or null, got 'soon'"),
        ({"parts": [Part("a")]}, "parts must be"),
        ({"parts": (Part("a"), "b")}, "parts must be"),
        ({"parts": (Part(7),)}, "name must be text, got 7"),
        ({"parts": (Part("\ud800"),)}, r"name must be text, got '\\ud800'"),
        ({"parts": (Part("a", (1,)),)}, "sizes must be"),
        ({"parts": (Part("a", (1, "2")),)}, "sizes must be whole numbers, got '2'"),
        ({"seconds": [1.0]}, "seconds must be an object"),
        ({"seconds": {"trace": []}}, r"seconds must be numbers, got \[\]"),
        ({"count": "9" * 500}, r"got '9{76}\.\.\.$"),
    ],
)
def test_what_is_not_is_named(change, message):
    with pytest.raises(InputError, match=message):
        check_types(replace(GOOD, **change))
