"""Random generators: seeded for a block, kept and put back."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch


def derive_seed(seed: int, *labels: object) -> int:
    """A seed for one part of the work, which does not depend on the order of the parts.

    Examples
    --------
    >>> derive_seed(0, "a")
    3542182797
    """
    text = "/".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def random_state() -> dict[str, Any]:
    """The state of the global generators on the CPU, of types that load without running code."""
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    own = numpy_state["state"]
    return {
        "python": random.getstate(),
        "numpy": (
            own["key"].tolist(),
            own["pos"],
            numpy_state["has_gauss"],
            numpy_state["gauss"],
        ),
        "torch": torch.get_rng_state(),
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators back to a `random_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    key, *rest = state["numpy"]
    np.random.set_state(("MT19937", np.array(key, np.uint32), *rest))
    torch.set_rng_state(state["torch"])


def generators_of(loader: object) -> list[torch.Generator]:
    """The generators of its own that a `DataLoader` draws from, instead of the global one."""
    holders = {id(loader): loader}
    new = [loader]
    while new:  # a batch sampler that is divided among processes holds another one
        inside = [
            getattr(each, name, None) for each in new for name in ("sampler", "batch_sampler")
        ]
        new = [each for each in inside if each is not None and id(each) not in holders]
        holders.update((id(each), each) for each in new)
    found = [getattr(holder, "generator", None) for holder in holders.values()]
    return [*{id(each): each for each in found if isinstance(each, torch.Generator)}.values()]


_attempt = ContextVar("attempt", default=0)


@contextmanager
def attempting(attempt: int) -> Iterator[None]:
    """Say, for a block, which attempt at one and the same thing it is, from 0."""
    token = _attempt.set(attempt)
    try:
        yield
    finally:
        _attempt.reset(token)


def seed_of_attempt(seed: int) -> int:
    """The seed, or for another attempt another one."""
    attempt = _attempt.get()
    return derive_seed(seed, "attempt", attempt) if attempt else seed


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch for a block, then put them back."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
