"""Reading the authors' CSV tables at a million rows each: under two seconds is the aim."""

from __future__ import annotations

import pytest

from layermerge import read_importance, read_latency

ROWS = 1_000_000


@pytest.fixture(scope="module")
def latency_csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "latency.csv"
    lines = (
        f"{row},{row // 9},{row // 9 + 1},{row % 9},1,False,{row % 977 / 7:.6f},0.0"
        for row in range(ROWS)
    )
    path.write_text("\n".join(("id,st,end,ker,str,is_dw,time,stdev", *lines)) + "\n")
    return path


@pytest.fixture(scope="module")
def importance_csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "importance.csv"
    lines = (
        f'{row},{row // 9},{row // 9 + 1},{row % 9},1,False,"({row // 9 + 1},)",{row % 89 / 7}'
        for row in range(ROWS)
    )
    path.write_text("\n".join(("id,st,end,ker,str,is_dw,conv_comb,importance", *lines)) + "\n")
    return path


def test_a_million_latencies(benchmark, latency_csv):
    table = benchmark.pedantic(read_latency, (latency_csv,), rounds=3)
    assert len(table.entries) == ROWS
    assert table.latency_ns[978] == 142857


def test_a_million_importances(benchmark, importance_csv):
    table = benchmark.pedantic(read_importance, (importance_csv,), rounds=3)
    assert len(table.entries) == ROWS
    assert table.kept[17] == (2,)
