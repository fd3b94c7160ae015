from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layermerge import _core
from layermerge.errors import InputError
from oracles import best_kept

LAYER = st.tuples(
    st.sampled_from([0, 2, 2, 4, 6, 8]),
    st.sampled_from([0, 2, 2, 4]),
    # Multiples of 1/8, so that sums are exact and ties are frequent.
    st.integers(0, 16).map(lambda eighths: eighths / 8),
    st.sampled_from([False, False, False, True]),
    st.booleans(),
)
SEGMENTS = st.lists(LAYER, min_size=1, max_size=9)


def entries(layers, **limits):
    """Entries as a dictionary, and the order they came in."""
    growth_h, growth_w, norms, irreducible, depthwise = zip(*layers, strict=True)
    sizes, is_depthwise, weight_l1, kept = _core.kernel_sizes(
        np.array(growth_h, dtype=np.int32),
        np.array(growth_w, dtype=np.int32),
        np.array(norms, dtype=np.float64),
        np.array(irreducible, dtype=bool),
        np.array(depthwise, dtype=bool),
        **limits,
    )
    keys = [(h, w, d) for (h, w), d in zip(sizes.tolist(), is_depthwise.tolist(), strict=True)]
    found = [
        (norm, tuple(np.flatnonzero(row).tolist()))
        for norm, row in zip(weight_l1.tolist(), kept, strict=True)
    ]
    return dict(zip(keys, found, strict=True)), keys


def brute_force(layers):
    return best_kept(*(list(column) for column in zip(*layers, strict=True)))


@given(SEGMENTS)
def test_sizes_sums_and_kept_layers_equal_those_over_all_subsets(layers):
    found, keys = entries(layers)
    assert found == brute_force(layers)
    assert keys == sorted(found)


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1e6)), min_size=1, max_size=8))
def test_any_norms_give_the_largest_sums(layers):
    chain = [(growth, growth, norm, False, False) for growth, norm in layers]
    found, _ = entries(chain)
    expected = brute_force(chain)
    assert found.keys() == expected.keys()
    for key, (norm, kept) in found.items():
        assert norm == pytest.approx(expected[key][0], rel=1e-14, abs=1e-12)
        assert norm == pytest.approx(sum(chain[layer][2] for layer in kept), rel=1e-14, abs=1e-12)


@given(SEGMENTS, st.integers(1, 12), st.integers(1, 12))
def test_limits_leave_the_entries_within_them(layers, max_h, max_w):
    found, _ = entries(layers, max_kernel_h=max_h, max_kernel_w=max_w)
    within = {key: best for key, best in brute_force(layers).items() if key[0] <= max_h}
    assert found == {key: best for key, best in within.items() if key[1] <= max_w}


def test_sums_that_are_equal_in_another_order_are_ties():
    norms = [0.1, 0.2, 0.3, 0.3, 0.2, 0.1]
    found, _ = entries([(1, 1, norm, False, False) for norm in norms])
    assert found[4, 4, False][1] == (1, 2, 3)


def test_two_hundred_layers_need_no_enumeration_of_subsets():
    random = np.random.default_rng(0)
    layers = [
        (growth, growth, norm, False, depthwise)
        for growth, norm, depthwise in zip(
            random.choice([0, 2, 4, 6], 200).tolist(),
            random.uniform(1, 2, 200).tolist(),
            (random.random(200) < 0.5).tolist(),
            strict=True,
        )
    ]
    found, _ = entries(layers)
    assert max(key[0] for key in found) == 1 + sum(layer[0] for layer in layers)


def test_a_kernel_that_cannot_be_small_enough_has_no_entry():
    assert entries([(4, 4, 1.0, True, False)], max_kernel_h=3) == ({}, [])


@pytest.mark.parametrize(
    ("layer", "limits", "message"),
    [
        ((-1, 0, 1.0, False, False), {}, r"growth_h\[0\] must be >= 0, got -1"),
        ((0, 2**31 - 1, 1.0, False, False), {}, r"growth_w\[0\] = 2147483647 makes"),
        ((0, 0, np.nan, False, False), {}, r"weight_l1\[0\] must be finite and >= 0, got nan"),
        ((0, 0, np.inf, False, False), {}, r"weight_l1\[0\] must be finite and >= 0, got inf"),
        ((0, 0, 1.0, False, False), {"max_kernel_h": 0}, "max_kernel_h must be >= 1, got 0"),
    ],
)
def test_errors_name_argument_index_and_value(layer, limits, message):
    with pytest.raises(InputError, match=message):
        entries([layer], **limits)


def test_lengths_that_differ_are_refused():
    ints, flags = np.zeros(2, dtype=np.int32), np.zeros(2, dtype=bool)
    with pytest.raises(InputError, match="weight_l1 must have as many elements as growth_h = 2"):
        _core.kernel_sizes(ints, ints, np.zeros(3), flags, flags)
