from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
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
EXPRESSIONS = st.recursive(
    st.sampled_from(["layer", "layer", "layer", "layer", "identity", "window"]),
    lambda inner: st.tuples(st.sampled_from(["series", "sum", "sum", "join"]), inner, inner),
    max_leaves=8,
)
CODES = {"series": -1, "sum": -2, "join": -3, "identity": -4}


@st.composite
def structures(draw):
    """An expression, its leaves numbered, and the layers that they name."""
    count = 0

    def number(tree):
        nonlocal count
        if isinstance(tree, tuple):
            return (tree[0], number(tree[1]), number(tree[2]))
        if tree == "identity":
            return (tree,)
        count += 1
        return (tree, count - 1)

    tree = number(draw(EXPRESSIONS))
    layers = draw(st.lists(LAYER, min_size=max(count, 1), max_size=max(count, 1)))
    return tree, layers


def program_of(tree):
    """Postfix: operands first, then what joins them."""
    if tree[0] == "layer":
        return [tree[1]]
    if tree[0] == "window":
        return [-5 - tree[1]]
    return [code for operand in tree[1:] for code in program_of(operand)] + [CODES[tree[0]]]


def chain_of(layers):
    tree = ("layer", 0)
    for layer in range(1, len(layers)):
        tree = ("series", tree, ("layer", layer))
    return tree


def entries(layers, **options):
    """Entries as a dictionary, and the order they came in."""
    growth_h, growth_w, norms, irreducible, depthwise = zip(*layers, strict=True)
    sizes, is_depthwise, weight_l1, kept = _core.kernel_sizes(
        np.array(growth_h, dtype=np.int32),
        np.array(growth_w, dtype=np.int32),
        np.array(norms, dtype=np.float64),
        np.array(irreducible, dtype=bool),
        np.array(depthwise, dtype=bool),
        **options,
    )
    keys = [
        (h, w, bool(mask.any()), d)
        for (h, w), mask, d in zip(sizes.tolist(), kept, is_depthwise.tolist(), strict=True)
    ]
    found = [
        (norm, tuple(np.flatnonzero(row).tolist()))
        for norm, row in zip(weight_l1.tolist(), kept, strict=True)
    ]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, found, strict=True)), keys


def entries_of(tree, layers, **limits):
    return entries(layers, program=np.array(program_of(tree), dtype=np.int32), **limits)


def brute_force(layers, tree=None):
    return best_kept(tree or chain_of(layers), *map(list, zip(*layers, strict=True)))


@given(SEGMENTS)
def test_sizes_sums_and_kept_layers_of_a_chain_equal_those_over_all_subsets(layers):
    found, keys = entries(layers)
    assert found == brute_force(layers)
    assert keys == sorted(found)


@settings(max_examples=400)
@given(structures())
def test_sizes_sums_and_kept_layers_of_branches_equal_those_over_all_subsets(drawn):
    tree, layers = drawn
    found, keys = entries_of(tree, layers)
    assert found == brute_force(layers, tree)
    assert keys == sorted(found)


@given(structures(), st.integers(1, 12), st.integers(1, 12))
def test_limits_leave_the_entries_of_branches_within_them(drawn, max_h, max_w):
    tree, layers = drawn
    found, _ = entries_of(tree, layers, max_kernel_h=max_h, max_kernel_w=max_w)
    within = {key: best for key, best in brute_force(layers, tree).items() if key[0] <= max_h}
    assert found == {key: best for key, best in within.items() if key[1] <= max_w}


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1e6)), min_size=1, max_size=8))
def test_any_norms_give_the_largest_sums(layers):
    chain = [(growth, growth, norm, False, False) for growth, norm in layers]
    found, _ = entries(chain)
    expected = brute_force(chain)
    assert found.keys() == expected.keys()
    for key, (norm, kept) in found.items():
        assert norm == pytest.approx(expected[key][0], rel=1e-14, abs=1e-12)
        assert norm == pytest.approx(sum(chain[layer][2] for layer in kept), rel=1e-14, abs=1e-12)


def test_of_parallel_branches_the_larger_growth_counts():
    layers = [(2, 0, 1.0, True, False), (0, 4, 1.0, True, False)]
    joined, _ = entries_of(("join", ("layer", 0), ("layer", 1)), layers)
    assert joined.keys() == {(3, 5, True, False)}
    # A branch of a sum may go even if its layer cannot be the identity; both may not.
    summed, _ = entries_of(("sum", ("layer", 0), ("layer", 1)), layers)
    assert {key: kept for key, (_, kept) in summed.items()} == {
        (1, 5, True, False): (1,),
        (3, 1, True, False): (0,),
        (3, 5, True, False): (0, 1),
    }


def test_a_window_grows_the_kernel_without_being_kept():
    layers = [(2, 2, 0.0, True, True), (4, 4, 1.0, False, False)]
    found, _ = entries_of(("sum", ("layer", 1), ("window", 0)), layers)
    assert found == {(3, 3, False, False): (0.0, ()), (5, 5, True, False): (1.0, (1,))}


def test_sums_that_are_equal_in_another_order_are_ties():
    norms = [0.1, 0.2, 0.3, 0.3, 0.2, 0.1]
    found, _ = entries([(1, 1, norm, False, False) for norm in norms])
    assert found[4, 4, True, False][1] == (1, 2, 3)


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


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ([2], r"program\[0\] must be the index l of one of 2 layers, -5 - l, or -1..-4, got 2"),
        ([0, 1, -7], r"program\[2\] must be .* got -7"),
        ([0, -1], r"program\[1\] joins two operands, but only 1 stand before it"),
        ([-2], r"program\[0\] joins two operands, but only 0 stand before it"),
        ([0, 1], "program must leave one operand, got 2"),
    ],
)
def test_programs_that_mean_nothing_are_refused(program, message):
    layers = [(0, 0, 1.0, False, False)] * 2
    with pytest.raises(InputError, match=message):
        entries(layers, program=np.array(program, dtype=np.int32))
