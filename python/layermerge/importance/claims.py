"""Claims: which of the processes that share a study evaluates a candidate (no torch)."""

from __future__ import annotations

import hashlib
import os
from types import TracebackType

from layermerge.errors import InputError

try:
    import fcntl
except ImportError:  # no POSIX: each process evaluates what it wants
    fcntl = None  # type: ignore[assignment]


class Claims:
    """Locks of single bytes of a file beside the study, a byte for each evaluation.

    The system lets go of a lock when its process ends, however it ends: claims need neither clocks
    nor cleaning up. Within one process they exclude nobody.

    Parameters
    ----------
    study : path
        Of the study; one in memory is shared with nobody.

    Raises
    ------
    InputError
        If the file cannot be made.
    """

    def __init__(self, study: str) -> None:
        self._file: int | None = None
        if study == ":memory:" or fcntl is None:
            return
        path = f"{study}-claims"
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written: {error.strerror}; it tells other processes what this "
                "one evaluates, and its folder must be writable"
            ) from error

    def take(self, subject: str) -> bool:
        """Claim an evaluation; whether no other process has."""
        if self._file is None:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(subject))
        except (BlockingIOError, PermissionError):
            return False
        except OSError:  # a file system without locks: nobody can be told
            return True
        return True

    def release(self, subject: str) -> None:
        """Let go of a claim."""
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(subject))

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            os.close(self._file)


def _place(subject: str) -> int:
    """The byte that stands for it: two of them may share one by chance, and then wait in turn."""
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:7], "big")
