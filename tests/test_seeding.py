from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from layermerge.seeding import derive_seed, seeded


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


@given(st.integers(0, 9), st.text(max_size=5), st.text(max_size=5))
def test_another_label_gives_another_seed(seed, one, other):
    assert (derive_seed(seed, one) == derive_seed(seed, other)) == (one == other)
    assert 0 <= derive_seed(seed, one) < 2**32
