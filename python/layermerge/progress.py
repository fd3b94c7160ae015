"""The progress bar of everything slow: on a terminal's standard error, silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    description: str, total: float, *, enabled: bool = True
) -> Iterator[Callable[[float], None]]:
    """Show a bar with the time that is left, while a block runs.

    Parameters
    ----------
    description : str
        What is going on.
    total : float
        Amount of work.
    enabled : bool
        False hides the bar even on a terminal.

    Yields
    ------
    callable
        ``show(completed)``: how much of `total` is done.
    """
    if not enabled or not sys.stderr.isatty():
        yield lambda completed: None
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
