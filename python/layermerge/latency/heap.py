"""The C library's heap while latencies are measured: it keeps what is freed (no torch).

Where a freed block goes back to the system, the next call pays for its pages again. Whether glibc
gives it back depends on what else was allocated before, so that a convolution which rearranges
38 MB of weights in each call takes 24 ms in one process and 47 ms in another. Latencies that are to
add up need one rule, and this one has a steady state without page faults.

One case escapes it: a thread whose allocation failed once goes on in an arena whose heaps hold
64 MB (glibc, malloc/arena.c), and larger blocks come anew from the system there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

KEPT = "keeps what is freed"

# From glibc's malloc.h; its manual, "Malloc Tunable Parameters", has the defaults.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = -1  # as a size, the largest
_DEFAULT_MMAP_MAX = 65_536
_LARGEST_DYNAMIC_THRESHOLD = 32 << 20


@contextmanager
def kept_heap() -> Iterator[None]:
    """Run a block in which no freed memory goes back to the system, where the C library is glibc.

    What was kept is given back at the end. The thresholds stay fixed then, where glibc would have
    moved them at most: setting them ends its adjusting them, in this process.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_DYNAMIC_THRESHOLD)
        library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_DYNAMIC_THRESHOLD)
        library.malloc_trim(0)


def heap_rule() -> str:
    """What `kept_heap` makes of this process's heap, for the environment of measurements."""
    return KEPT if _glibc() is not None else ""


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows names no library of the whole process
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None
