"""Files that are written whole or not at all (no torch)."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file; a process that dies meanwhile leaves the one before, or none.

    What is no regular file, such as a pipe, is written to as it is.

    Raises
    ------
    OSError
        If it cannot be written; nothing is left behind.
    """
    file = path.resolve()  # a link stays one
    if file.exists() and not file.is_file():
        file.write_bytes(content)
        return
    unfinished = file.with_name(f"{file.name}.unfinished")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
