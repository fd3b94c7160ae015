"""Files that are written whole or not at all (no torch)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to for the time of a block, whose file then takes the place of another.

    A block that raises leaves nothing behind, and a process that dies the file of before, or none.
    """
    file = path.resolve()  # a link stays one
    unfinished = file.with_name(f".unfinished.{os.getpid()}.{file.name}")
    try:
        yield unfinished
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by `replacing` it; what is no regular file, such as a pipe, as it is.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)
