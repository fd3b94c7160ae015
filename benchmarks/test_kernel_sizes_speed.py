"""Kernel sizes of one long segment: 200 layers with square kernels up to 7x7."""

from __future__ import annotations

import numpy as np

from layermerge import _core

LAYERS = 200


def test_kernel_sizes_of_200_layers(benchmark):
    random = np.random.default_rng(0)
    growth = random.choice(np.array([0, 2, 4, 6], np.int32), LAYERS)
    weight_l1 = random.uniform(1, 2, LAYERS)
    irreducible = np.zeros(LAYERS, np.bool_)
    depthwise = random.random(LAYERS) < 0.5
    sizes, _, _, kept = benchmark(
        _core.kernel_sizes, growth, growth, weight_l1, irreducible, depthwise
    )
    assert sizes[-1].tolist() == [1 + growth.sum()] * 2
    assert ((kept * growth).sum(1) + 1 == sizes[:, 0]).all()
