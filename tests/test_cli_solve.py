from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from layermerge import solver
from layermerge.cli import main

REFERENCE = Path(__file__).parent / "data" / "reference"
KEYS = {
    "value",
    "latency_ms",
    "budget_ms",
    "feasible",
    "segments",
    "activations",
    "convolutions",
    "method",
    "seconds",
    "upper_bound",
    "optimal",
}


SOLUTIONS = [
    pytest.param(name, solution, id=f"{name}-{solution['budget_ms']}-{solution['prec']}")
    for name in ("mobilenetv2.s1", "resnet34.s1")
    for solution in json.loads((REFERENCE / f"{name}.expected.json").read_text())["solutions"]
]


def solve_command(name, *options):
    latency, importance = REFERENCE / f"{name}.time.csv", REFERENCE / f"{name}.importance.csv"
    return ["solve", f"--latency={latency}", f"--importance={importance}", *map(str, options)]


def run_json(capsys, *arguments):
    status = main([*arguments, "--json"])
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    return status, json.loads(output)


@pytest.mark.parametrize(("name", "expected"), SOLUTIONS)
def test_the_authors_programme_is_reproduced(capsys, name, expected):
    budget, bin_ms = expected["budget_ms"], 1 / expected["prec"]
    options = ("--budget-ms", budget, "--method", "binned", "--bin-ms", bin_ms)
    status, found = run_json(capsys, *solve_command(name, *options, "--rounding", "floor"))
    assert status == 0
    assert found["value"] == pytest.approx(expected["objective"], abs=1e-6)
    assert found["activations"] == expected["act"]
    assert found["convolutions"] == expected["conv"]
    assert found["latency_ms"] == pytest.approx(expected["latency_ms"], abs=1e-6)
    assert latency_in_bins(name, found["segments"], expected["prec"]) == expected["int_time"]


def table_rows(name):
    for line in (REFERENCE / f"{name}.time.csv").read_text().splitlines()[1:]:
        _, start, end, kernel, _, _, time_ms, _ = line.split(",")
        yield int(start), int(end), int(kernel), time_ms


def latency_in_bins(name, segments, prec):
    bins = {(i, j, k): int(float(time_ms) * prec) for i, j, k, time_ms in table_rows(name)}
    return sum(bins[each["start"], each["end"], each["kernel_size"]] for each in segments)


def least_latency_ms(name):
    least = {0: Decimal(0)}
    for start, end, _, time_ms in sorted(table_rows(name), key=lambda row: row[1]):
        through = least[start] + Decimal(time_ms)
        least[end] = min(least.get(end, through), through)
    return float(least[max(least)])


def test_rounding_up_keeps_the_budget_that_floor_exceeds(capsys):
    command = solve_command("mobilenetv2.s1", "--budget-ms", 15.01, "--bin-ms", 0.1)
    _, up = run_json(capsys, *command)
    _, floor = run_json(capsys, *command, "--rounding", "floor")
    assert up["latency_ms"] <= 15.01 < floor["latency_ms"]
    assert up.keys() == floor.keys() == KEYS


@pytest.mark.parametrize(("name", "expected"), SOLUTIONS)
def test_the_exact_method_is_never_worse_than_the_authors_in_their_latency(capsys, name, expected):
    command = solve_command(name, "--budget-ms", f"{expected['latency_ms']:.6f}")
    status, found = run_json(capsys, *command)
    assert (status, found["method"], found["optimal"]) == (0, "exact", True)
    assert found["upper_bound"] == found["value"] >= expected["objective"] - 1e-9
    assert found["latency_ms"] <= expected["latency_ms"] + 1e-6


def test_several_budgets_give_a_list(capsys):
    command = solve_command("resnet34.s1", "--budget-ms", 300, "--budget-ms", 200)
    _, found = run_json(capsys, *command)
    assert [each["budget_ms"] for each in found["solutions"]] == [300, 200]
    assert main([*command, "--budget-ms", "1", "--json"]) == 3
    solutions = json.loads(capsys.readouterr().out)["solutions"]
    assert [each["feasible"] for each in solutions] == [True, True, False]
    assert [each["budget_ms"] for each in solutions] == [300, 200, 1]
    assert main([*command, "--budget-ms", "1", "--budget-ms", "299", "--method=binned"]) == 3
    output = capsys.readouterr()
    assert output.out.count("budget kept") == 3
    assert "no plan meets the budget of 1 ms" in output.err


def test_a_speedup_is_a_budget(capsys):
    _, found = run_json(capsys, *solve_command("resnet34.s1", "--speedup", 1.5))
    alone = sum(
        max(ns for start, end, ns in unit_rows("resnet34.s1") if end == layer)
        for layer in range(1, 33)
    )
    assert found["latency_ms"] <= found["budget_ms"] <= float(alone) / 1.5


def unit_rows(name):
    for start, end, _, time_ms in table_rows(name):
        if end == start + 1:
            yield start, end, Decimal(time_ms)


def test_options_of_binned_do_not_go_with_exact(capsys):
    command = solve_command("resnet34.s1", "--budget-ms", 300, "--method", "exact")
    assert main([*command, "--bin-ms", "0.1"]) == 2
    error = capsys.readouterr().err
    assert "--bin-ms and --rounding are options of method 'binned'" in error


@pytest.mark.parametrize("rounding", ["up", "floor"])
def test_an_infeasible_budget_exits_with_3_and_the_least_latency(capsys, rounding):
    command = solve_command("resnet34.s1", "--budget-ms", 10, "--rounding", rounding)
    assert main([*command, "--json"]) == 3
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert found.keys() == KEYS | {"least_latency_ms"}
    assert found["feasible"] is False
    assert f"the least achievable latency is {found['least_latency_ms']} ms" in output.err
    assert found["least_latency_ms"] == least_latency_ms("resnet34.s1")


def test_the_table_shows_every_segment(capsys):
    assert main(solve_command("resnet34.s1", "--budget-ms", 293.046)) == 0
    output = capsys.readouterr().out
    assert "16..24" in output
    assert "budget kept" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["solve"], "the following arguments are required"),
        (["merge"], "invalid choice: 'merge'"),
        ([], "required: COMMAND"),
        (solve_command("resnet34.s1", "--budget-ms", "soon"), "got 'soon'"),
        (solve_command("resnet34.s1", "--speedup=nan"), "'nan' is not a number greater than 0"),
        (solve_command("resnet34.s1", "--budget-ms=1", "--gap=-1"), "a number of at least 0"),
        (solve_command("resnet34.s1", "--budget-ms=1", "--gap=1.5"), "not a share of the optimum"),
        (
            solve_command("resnet34.s1", "--budget-ms=1", "--memory-limit=big"),
            "'big' is not a size such as 500MB, 4GB or 2GiB",
        ),
        (
            solve_command("resnet34.s1", "--budget-ms=1", "--memory-limit=9999999TB"),
            "more memory than there is",
        ),
        (solve_command("resnet34.s1", "--budget-ms=-1"), "must be >= 0 milliseconds"),
        (solve_command("resnet34.s1", "--budget-ms", 1, "--rounding", "down"), "invalid choice"),
    ],
)
def test_bad_usage_exits_with_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("st,end,ker,is_dw,time\n0,1,3,False,-1\n", "line 2, column 'time': must be >= 0"),
        ("st,end,ker,is_dw,time\n0,1,3,False,1\n2,3,3,False,1\n", "not in"),
    ],
)
def test_bad_tables_exit_with_2(capsys, tmp_path, content, message):
    path = tmp_path / "latency.csv"
    path.write_text(content)
    command = solve_command("resnet34.s1", "--budget-ms", 300, "--json")
    assert main([*command, f"--latency={path}"]) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.out == ""


def test_a_gap_in_the_positions_exits_with_2(capsys, tmp_path):
    rows = [(0, 1), (1, 2), (3, 4)]
    for name, column in (("latency", "time"), ("importance", "importance")):
        lines = [f"st,end,{column}", *(f"{start},{end},1" for start, end in rows)]
        (tmp_path / name).write_text("\n".join(lines))
    files = (f"--latency={tmp_path / 'latency'}", f"--importance={tmp_path / 'importance'}")
    assert main(["solve", *files, "--budget-ms", "9"]) == 2
    assert "position 3 is the first that cannot be reached" in capsys.readouterr().err


def test_too_small_a_bin_exits_with_2_and_says_the_size(capsys):
    command = solve_command("resnet34.s1", "--budget-ms", 300, "--bin-ms", "0.000001")
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "above the memory limit of 2147.48 MB" in error
    assert "times as wide (--bin-ms; now 0.000001 ms), or raise --memory-limit" in error
    assert main([*command, "--bin-ms=0.001", "--memory-limit=1kB"]) == 2
    assert "above the memory limit of 0.001 MB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "expected"),
    [("500MB", 500 * 10**6), ("4GB", 4 * 10**9), ("2 GiB", 2**31), ("1.5k", 1500), ("0", 0)],
)
def test_a_memory_limit_has_a_unit(monkeypatch, capsys, size, expected):
    limits = []

    original = solver.solve_many

    def solve_many(*tables, memory_limit_bytes, **options):
        limits.append(memory_limit_bytes)
        return original(*tables, **options)

    monkeypatch.setattr("layermerge.solver.solve_many", solve_many)
    command = solve_command("resnet34.s1", "--budget-ms", 300, "--memory-limit", size)
    assert main(command) == 0
    assert limits == [expected]
