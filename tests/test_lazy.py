from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layermerge.errors import InfeasibleError
from layermerge.importance.bounds import Bounds, Margins, removals
from layermerge.importance.lazy import Choices, search
from layermerge.solver import solve

WIDE = Margins(gain=10.0, order=10.0, prediction=math.inf)
"""Margins so wide that every bound holds, whatever the scores."""
OBJECTIVES = {"exp_delta": np.exp, "delta": lambda delta: delta}


class Table:
    """Entries of a chain with the truth about them; counts what is asked."""

    def __init__(self, seed, *, num_layers=7, noise=0.0, failing=0.0):
        generator = np.random.default_rng(seed)
        found = [
            (start, end, tuple(kept))
            for start in range(num_layers)
            for end in range(start + 1, min(num_layers, start + 3) + 1)
            for kept in self._kept_sets(start, end, generator)
        ]
        start, end, self.kept = zip(*found, strict=True)
        self.start, self.end = np.array(start), np.array(end)
        gone = removals(self.start, self.end, self.kept)
        self.is_original = gone.sum(1) == 0
        cost = generator.gamma(1.0, 0.02, gone.shape[1])
        self.delta = -(gone @ cost) + noise * generator.normal(size=len(found))
        self.delta[generator.random(len(found)) < failing] = -np.inf
        self.delta[self.is_original] = 0
        full = np.array([len(kept) for kept in self.kept]) + 0.3
        self.latency_ns = np.round(1000 * full * generator.uniform(0.8, 1.2, len(found))).astype(
            int
        )
        self.base_ns = int(self.latency_ns[self.is_original].sum())
        self.asked = []

    @staticmethod
    def _kept_sets(start, end, generator):
        layers = range(start + 1, end + 1)
        yield tuple(layers)
        if end - start > 1:
            yield tuple(layer for layer in layers if generator.random() < 0.5)

    def evaluate(self, rows, per_round=1):
        self.asked.append(list(rows[:per_round]))
        return {row: float(self.delta[row]) for row in rows[:per_round]}

    def search(self, budgets_ns, *, margins=WIDE, objective=np.exp, per_round=1, **options):
        bounds = Bounds(self.start, self.end, self.kept, margins=margins)
        choices = Choices(self.start, self.end, self.latency_ns, bounds)
        known = np.where(self.is_original, 0.0, np.nan)
        evaluate = partial(self.evaluate, per_round=per_round)
        return search(choices, known, budgets_ns, evaluate, objective=objective, **options)

    def best(self, budget_ns, objective=np.exp):
        """The optimum of the full table."""
        rows = np.flatnonzero(self.delta > -np.inf)
        return solve(
            self.latency_ns[rows],
            objective(self.delta[rows]),
            start=self.start[rows],
            end=self.end[rows],
            budget_ns=budget_ns,
        ).value


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(OBJECTIVES)),
    st.floats(0.45, 1.0),
    st.integers(1, 5),
    st.floats(0, 0.3),
)
def test_if_the_bounds_hold_the_plan_is_optimal_for_the_full_table(
    seed, name, part, per_round, failing
):
    table = Table(seed, noise=0.05, failing=failing)
    budget_ns, objective = int(table.base_ns * part), OBJECTIVES[name]
    try:
        optimum = table.best(budget_ns, objective)
    except InfeasibleError:
        with pytest.raises(InfeasibleError):
            table.search([budget_ns], objective=objective, per_round=per_round)
        return
    _, state = table.search([budget_ns], objective=objective, per_round=per_round)
    (rows,) = state.rows
    assert objective(table.delta[list(rows)]).sum() == pytest.approx(optimum, rel=1e-8)
    assert table.latency_ns[list(rows)].sum() <= budget_ns
    assert state.value[0] == pytest.approx(optimum, rel=1e-8)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("part", [0.8, 0.65, 0.5])
def test_damage_that_adds_up_needs_few_evaluations_and_costs_nothing(name, part):
    for seed in range(4):
        table = Table(seed, num_layers=20)
        budget_ns, objective = int(table.base_ns * part), OBJECTIVES[name]
        margins = Margins(prediction=math.inf)
        _, state = table.search([budget_ns], margins=margins, objective=objective)
        assert state.value[0] == pytest.approx(table.best(budget_ns, objective), rel=1e-9)
        assert state.evaluated < (0.5 if name == "exp_delta" else 0.75) * state.total


def test_nothing_is_evaluated_twice_and_originals_never():
    table = Table(3)
    table.search([int(table.base_ns * 0.6)], per_round=3)
    asked = [row for rows in table.asked for row in rows]
    assert len(asked) == len(set(asked)) > 0
    assert not table.is_original[asked].any()


def test_a_round_asks_for_as_many_as_it_may():
    table = Table(5)
    states = []
    table.search([int(table.base_ns * 0.55)], per_round=3, on_round=states.append)
    assert max(map(len, table.asked)) == 3
    assert [min(3, state.wanted) for state in states[:-1]] == list(map(len, table.asked))
    assert [state.number for state in states] == list(range(1, len(states) + 1))
    assert [state.is_last for state in states] == [False] * (len(states) - 1) + [True]


def test_the_bound_never_rises_and_the_value_never_falls():
    table = Table(11, noise=0.01)
    states = []
    table.search([int(table.base_ns * 0.6)], on_round=states.append)
    bounds = [state.bound[0] for state in states]
    values = [state.value[0] for state in states]
    assert bounds == sorted(bounds, reverse=True)
    assert values == sorted(values)
    assert values[-1] == pytest.approx(bounds[-1], rel=1e-8)


def test_a_loose_budget_needs_no_evaluation():
    table = Table(0)
    _, state = table.search([table.base_ns], margins=Margins())
    assert state.evaluated == 0
    assert state.rows[0] == tuple(np.flatnonzero(table.is_original))


def test_several_budgets_are_refined_together_and_share_what_is_learnt():
    budgets = [int(Table(7).base_ns * part) for part in (0.9, 0.75, 0.6)]
    together = Table(7)
    _, state = together.search(budgets)
    for place, budget_ns in enumerate(budgets):
        assert state.value[place] == pytest.approx(together.best(budget_ns), rel=1e-8)
    alone = []
    for budget_ns in budgets:
        table = Table(7)
        table.search([budget_ns])
        alone.append(sum(map(len, table.asked)))
    assert max(alone) <= sum(map(len, together.asked)) <= sum(alone)


def test_what_is_known_already_is_not_asked_again():
    table = Table(2)
    budget_ns = int(table.base_ns * 0.6)
    delta, state = table.search([budget_ns])
    table.asked.clear()
    bounds = Bounds(table.start, table.end, table.kept, margins=WIDE)
    choices = Choices(table.start, table.end, table.latency_ns, bounds)
    _, again = search(choices, delta, [budget_ns], table.evaluate)
    assert table.asked == []
    assert (again.rows, again.value) == (state.rows, state.value)


@pytest.mark.parametrize("margins", [WIDE, Margins()])
def test_the_certificate_counts_what_was_evaluated(margins):
    table = Table(4)
    bounds = Bounds(table.start, table.end, table.kept, margins=margins)
    choices = Choices(table.start, table.end, table.latency_ns, bounds)
    delta = np.where(table.is_original, 0.0, np.nan)
    _, state = search(choices, delta, [int(table.base_ns * 0.7)], table.evaluate)
    asked = [row for rows in table.asked for row in rows]
    total = int((~table.is_original).sum())
    assert (state.evaluated, state.total) == (len(asked), total)
    surprises = table.delta[asked] > margins.gain
    assert state.surprises == surprises.sum()
    if len(asked) == total:
        assert state.certificate == f"optimal: all {total} entries evaluated"
    else:
        assert state.certificate.startswith(
            "optimal for the full table if no unknown entry exceeds its bound; "
            f"{len(asked)} of {total} entries evaluated"
        )
        assert ("it was raised to" in state.certificate) == surprises.any()


def test_gains_that_are_seen_raise_the_bound_on_those_that_are_not():
    """As when every fine-tune improves on an original network that was not trained to the end."""
    start, end = np.array([0, 1, 2, 0, 1, 0]), np.array([1, 2, 3, 2, 3, 3])
    kept = [(1,), (2,), (3,), (1,), (2,), (1,)]
    bounds = Bounds(start, end, kept, margins=Margins(order=9.0, prediction=np.inf))
    choices = Choices(start, end, np.array([5, 5, 5, 6, 6, 7]), bounds)
    truth = {3: 0.2, 4: 0.19, 5: 0.1}
    delta = np.array([0.0, 0.0, 0.0, np.nan, np.nan, np.nan])
    _, state = search(choices, delta, [11], lambda rows: {row: truth[row] for row in rows})
    assert state.rows == ((3, 2),)
    assert state.surprises >= 1
    assert state.gain == 0.4
    assert "gained more than the bound first assumed" in state.certificate


@pytest.mark.parametrize("objective", OBJECTIVES.values())
def test_of_equal_plans_the_fastest_is_found(objective):
    for seed in range(6):
        table = Table(seed)
        table.delta = np.where(table.is_original, 0, np.round(table.delta / 0.05) * 0.05)
        budget_ns = int(table.base_ns * 0.7)
        margins = Margins(prediction=math.inf)
        _, state = table.search([budget_ns], objective=objective, margins=margins)
        best = solve(
            table.latency_ns,
            objective(table.delta),
            start=table.start,
            end=table.end,
            budget_ns=budget_ns,
        )
        assert state.value[0] == pytest.approx(best.value, rel=1e-9)
        assert table.latency_ns[list(state.rows[0])].sum() == best.latency_ns


def test_a_faster_plan_that_may_be_as_good_is_tried():
    """Merging both pairs may be as good as merging the first, and is faster."""
    start, end = np.array([0, 1, 2, 3, 0, 2]), np.array([1, 2, 3, 4, 2, 4])
    bounds = Bounds(start, end, [(1,), (2,), (3,), (4,), (2,), (4,)])
    choices = Choices(start, end, np.array([5, 5, 5, 5, 8, 6]), bounds)
    delta = np.array([0.0, 0.0, 0.0, 0.0, 0.0, np.nan])
    for truth, rows in ((0.0, (4, 5)), (-0.2, (4, 2, 3))):
        _, state = search(
            choices, delta, [18], lambda rows, truth=truth: {5: truth}, objective=lambda d: d
        )
        assert state.rows == (rows,)
        assert state.evaluated == 2


def test_failed_entries_are_never_chosen():
    table = Table(9, failing=0.5)
    budget_ns = int(table.base_ns * 0.8)
    delta, state = table.search([budget_ns])
    assert np.isfinite(table.delta[list(state.rows[0])]).all()
    assert (delta == -np.inf).any()


def test_a_budget_that_no_plan_meets_is_refused_before_any_evaluation():
    table = Table(1)
    with pytest.raises(InfeasibleError):
        table.search([1])
    assert table.asked == []
