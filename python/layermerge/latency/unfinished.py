"""Timings of units whose median is not known yet: a killed run goes on from them (no torch)."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence

from layermerge.errors import InputError
from layermerge.store import Study

EVERY_SECONDS = 5.0
"""Between two times that they are written."""


class Unfinished:
    """The latest timings of an environment, in a study.

    Parameters
    ----------
    study : Study
    environment : str
        Its fingerprint.
    """

    def __init__(self, study: Study, environment: str) -> None:
        self._study = study
        self._key = f"unfinished timings {environment}"
        self._written = time.monotonic()

    def of(self, subjects: Collection[str]) -> dict[str, list[int]]:
        """Timings of an earlier run, in nanoseconds, by subject."""
        content = self._study.artefact(self._key)
        if content is None:
            return {}
        try:
            found = json.loads(content)
            is_valid = all(type(ns) is int and ns >= 0 for each in found.values() for ns in each)
        except (ValueError, TypeError, AttributeError, RecursionError):
            is_valid = False
        if not is_valid:
            raise InputError(
                f"study {self._study.path} is damaged: it does not hold the timings of an "
                "unfinished run, but something else; delete it and start again"
            )
        return {subject: found[subject] for subject in subjects if subject in found}

    def keep(self, timings: Mapping[str, Sequence[int]]) -> None:
        """Write timings in place of those before, if that is long ago."""
        if time.monotonic() - self._written >= EVERY_SECONDS:
            self._study.add_artefact(self._key, json.dumps(timings).encode())
            self._written = time.monotonic()

    def forget(self) -> None:
        """Delete them: the run is complete."""
        self._study.remove_artefact(self._key)
