"""Claims: which of the processes that share a study does what is to be done once (no torch)."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from layermerge.errors import InputError

try:
    import fcntl
except ImportError:  # no POSIX: each process does what it wants
    fcntl = None  # type: ignore[assignment]

POLL_S = 0.2
"""Seconds between two tries to claim what another process has claimed."""

_log = logging.getLogger(__name__)


class Claims:
    """Locks of single bytes of a file beside the study, a byte for each piece of work.

    The system lets go of a lock when its process ends, however it ends: claims need neither clocks
    nor cleaning up. Within one process they exclude nobody, and end when any claims on the same
    study are closed.

    Parameters
    ----------
    study : path
        Of the study; one in memory is shared with nobody.
    """

    def __init__(self, study: str) -> None:
        self._path = (
            None if study == ":memory:" or fcntl is None else f"{os.path.realpath(study)}-claims"
        )
        self._file: int | None = None

    def take(self, subject: str) -> bool:
        """Claim a piece of work; whether no other process has.

        Raises
        ------
        InputError
            If the file cannot be made.
        """
        if self._path is None:
            return True
        if self._file is None:
            self._file = _opened(self._path)
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

    @contextmanager
    def held(self, subject: str, waiting: str) -> Iterator[None]:
        """Claim a piece of work for the time of a block; wait, and say so, while another has it."""
        if not self.take(subject):
            _log.info("%s", waiting)
            while not self.take(subject):
                time.sleep(POLL_S)
        try:
            yield
        finally:
            self.release(subject)

    def close(self) -> None:
        """Let go of everything."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}; it tells other processes what this one "
            "does, and its folder must be writable"
        ) from error


def _place(subject: str) -> int:
    """The byte that stands for it: two of them may share one by chance, and then wait in turn."""
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:7], "big")
