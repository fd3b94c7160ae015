from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from layermerge.seeding import (
    attempting,
    derive_seed,
    random_state,
    restore_random_state,
    seed_of_attempt,
    seeded,
)


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


@given(st.integers(0, 2**32 - 1))
def test_equal_seeds_draw_equal_numbers_from_each_generator(seed):
    with seeded(seed):
        first = draw()
    with seeded(seed):
        assert draw() == first


def test_a_block_leaves_the_generators_as_they_were():
    with seeded(1):
        draw()
        expected = draw()
    with seeded(1):
        draw()
        with seeded(2):
            draw()
        assert draw() == expected


@given(st.integers(0, 20), st.integers(0, 3))
def test_generators_go_on_from_a_state(drawn, normals):
    def draws():
        return [
            (*draw(), random.gauss(0, 1), np.random.normal(), torch.randn(1).item())
            for _ in range(3)
        ]

    with seeded(3):
        for _ in range(drawn):
            draw()
        for _ in range(normals):  # each second one is kept for the next call
            np.random.normal()
            random.gauss(0, 1)
        state = random_state()
        expected = draws()
        draws()
        restore_random_state(state)
        assert draws() == expected


def test_another_attempt_has_another_seed():
    assert seed_of_attempt(3) == 3
    with attempting(0):
        assert seed_of_attempt(3) == 3
    with attempting(1):
        assert seed_of_attempt(3) not in (3, seed_of_attempt(4))
    assert seed_of_attempt(3) == 3


@given(st.integers(0, 9), st.text(max_size=5), st.text(max_size=5))
def test_another_label_gives_another_seed(seed, one, other):
    assert (derive_seed(seed, one) == derive_seed(seed, other)) == (one == other)
    assert 0 <= derive_seed(seed, one) < 2**32
