"""Solve one problem with a peer, in a process of its own: OR-tools and HiGHS clash in one.

python benchmarks/peers.py highs|cp_sat|numpy_dp|python_dp PROBLEM.npz BUDGET_NS LIMIT_SECONDS
prints a JSON object with the value, the seconds and whether it is proven optimal. The dynamic
programmes count in `BINS` bins of the budget, rounded up.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter

import numpy as np


def highs(tail, head, latency_ns, value, budget_ns, limit_seconds):
    import highspy

    last, arcs = int(head.max()), len(tail)
    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    model.setOptionValue("threads", 1)
    model.setOptionValue("time_limit", float(limit_seconds))
    model.setOptionValue("mip_rel_gap", 0.0)
    model.setOptionValue("mip_abs_gap", 1e-9)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = arcs, last + 2
    lp.col_cost_ = -value
    lp.col_lower_, lp.col_upper_ = np.zeros(arcs), np.ones(arcs)
    lp.integrality_ = [highspy.HighsVarType.kInteger] * arcs
    ends = np.zeros(last + 1)
    ends[0], ends[last] = 1, -1
    lp.row_lower_ = np.append(ends, -highspy.kHighsInf)
    lp.row_upper_ = np.append(ends, budget_ns / 1e6)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = 3 * np.arange(arcs + 1, dtype=np.int32)
    rows = np.column_stack([tail, head, np.full(arcs, last + 1)])
    lp.a_matrix_.index_ = rows.astype(np.int32).ravel()
    lp.a_matrix_.value_ = np.column_stack([np.ones(arcs), -np.ones(arcs), latency_ns / 1e6]).ravel()
    model.passModel(lp)
    began = perf_counter()
    model.run()
    seconds = perf_counter() - began
    proven = model.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return -model.getInfo().objective_function_value, seconds, proven


def cp_sat(tail, head, latency_ns, value, budget_ns, limit_seconds):
    from ortools.sat.python import cp_model

    scale = 10**9  # CP-SAT has integers only
    model = cp_model.CpModel()
    used = [model.new_bool_var("") for _ in tail]
    last = int(head.max())
    leaving = [[] for _ in range(last + 1)]
    entering = [[] for _ in range(last + 1)]
    for arc, (i, j) in enumerate(zip(tail.tolist(), head.tolist(), strict=True)):
        leaving[i].append(used[arc])
        entering[j].append(used[arc])
    for position in range(last + 1):
        flow = (position == 0) - (position == last)
        model.add(sum(leaving[position]) - sum(entering[position]) == flow)
    model.add(cp_model.LinearExpr.weighted_sum(used, latency_ns.tolist()) <= budget_ns)
    scaled = (value * scale).round().astype(np.int64).tolist()
    model.maximize(cp_model.LinearExpr.weighted_sum(used, scaled))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = float(limit_seconds)
    began = perf_counter()
    status = solver.solve(model)
    seconds = perf_counter() - began
    return solver.objective_value / scale, seconds, status == cp_model.OPTIMAL


BINS = {"numpy_dp": 10_000, "python_dp": 1_000}


def in_bins(latency_ns, budget_ns, bins):
    width_ns = max(1, budget_ns // bins)
    return -(-latency_ns // width_ns), budget_ns // width_ns + 1


def numpy_dp(tail, head, latency_ns, value, budget_ns, limit_seconds):
    """One vector operation for each arc."""
    began = perf_counter()
    needed, count = in_bins(latency_ns, budget_ns, BINS["numpy_dp"])
    best = np.full((int(head.max()) + 1, count), -np.inf)
    best[0] = 0
    for arc in np.argsort(head, kind="stable").tolist():
        row, before = best[head[arc]], best[tail[arc]]
        if needed[arc] < count:
            onwards = before[: count - needed[arc]] + value[arc]
            np.maximum(row[needed[arc] :], onwards, out=row[needed[arc] :])
    return float(best[-1, -1]), perf_counter() - began, False


def python_dp(tail, head, latency_ns, value, budget_ns, limit_seconds):
    """The recurrence as it is written, cell by cell."""
    began = perf_counter()
    needed, count = in_bins(latency_ns, budget_ns, BINS["python_dp"])
    arcs_into = [[] for _ in range(int(head.max()) + 1)]
    rows = (tail.tolist(), head.tolist(), needed.tolist(), value.tolist())
    for i, j, bins, worth in zip(*rows, strict=True):
        arcs_into[j].append((i, bins, worth))
    best = [[0.0] * count]
    for arcs in arcs_into[1:]:
        row = [float("-inf")] * count
        for t in range(count):
            for i, bins, worth in arcs:
                if bins <= t and best[i][t - bins] + worth > row[t]:
                    row[t] = best[i][t - bins] + worth
        best.append(row)
    return best[-1][-1], perf_counter() - began, False


PEERS = {"highs": highs, "cp_sat": cp_sat, "numpy_dp": numpy_dp, "python_dp": python_dp}


if __name__ == "__main__":
    name, path, budget_ns, limit_seconds = sys.argv[1:]
    columns = np.load(path)
    arrays = [columns[key] for key in ("tail", "head", "latency_ns", "value")]
    value, seconds, proven = PEERS[name](*arrays, int(budget_ns), float(limit_seconds))
    print(json.dumps({"value": value, "seconds": seconds, "proven": proven}))
