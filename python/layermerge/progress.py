"""What everything slow shows: a bar on a terminal, now and then a line elsewhere; stage times."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LOG_S = 30.0
"""Seconds between two lines where there is no terminal."""

_log = logging.getLogger(__name__)
_package_log = logging.getLogger("layermerge")


@contextmanager
def progress_bar(
    description: str, total: float, *, enabled: bool = True
) -> Iterator[Callable[[float], None]]:
    """Show a bar with the time that is left, while a block runs; log how far it is elsewhere.

    Parameters
    ----------
    description : str
        What is going on.
    total : float
        Amount of work.
    enabled : bool
        False shows nothing even on a terminal. So does a package logger that was set to warnings
        and worse.

    Yields
    ------
    callable
        ``show(completed)``: how much of `total` is done.
    """
    is_quiet = _package_log.level >= logging.WARNING
    if not enabled or is_quiet:
        yield lambda completed: None
        return
    if not sys.stderr.isatty():
        yield _logged(description, total)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total)
        yield lambda completed: progress.update(task, completed=completed)


def _logged(
    description: str, total: float, now: Callable[[], float] = time.monotonic
) -> Callable[[float], None]:
    last = now()

    def show(completed: float) -> None:
        nonlocal last
        if now() - last >= LOG_S:
            last = now()
            _log.info("%s: %.0f %%", description, 100 * completed / max(total, completed, 1e-9))

    return show


@dataclass
class Stages:
    """Times the stages of a run and announces them.

    Attributes
    ----------
    seconds : dict of str to float
        Wall-clock time of each stage that has ended.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a block as one stage."""
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 3)
        _log.info("%s: %.1f s", name, self.seconds[name])
