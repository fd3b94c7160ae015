"""Files with random damage: refused with a sentence, or read as a valid value; never a crash.

Each case damages a good file in one of several ways, drawn from a seed of its own, which a failure
names.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from layermerge.documents import write_document
from layermerge.errors import InputError, LayerMergeError
from layermerge.exporting import PLAN_FILE, WEIGHTS_FILE, load, save
from layermerge.latency.environment import Environment
from layermerge.latency.exchange import SCHEMA_VERSION, origin_path, read_origin
from layermerge.plan import load_plan
from layermerge.report.comparison import compare, headline, notes
from layermerge.results import load_result
from layermerge.store import Measurement, Score, ScoreKey, Study
from layermerge.table_files import read_importance, read_latency, write_importance, write_latency
from layermerge.tables import Entries, ImportanceTable, LatencyTable
from layermerge.typed import check_types
from sample_results import make_result
from test_exporting import chain, chain_plan, compressed
from test_plan import PLAN

pytestmark = pytest.mark.slow

FIRST_SEED = int(os.environ.get("LAYERMERGE_FUZZ_SEED", "0"))
"""Another one tries other damage."""

ODD_BYTES = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"\xc3",
    b"NaN",
    b"-1",
    b"1e999",
    b"9" * 400,
    b'"',
    b"{",
    b"]",
)
ODD_VALUES = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "x", "\ud800", "\0", "9" * 5000, [], {}, [[]], {"a": 1}),
    *([1, 2, 3], ["a"], [None]),
)


def flip(generator, content):
    damaged = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 8))):
        if damaged:
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
    return bytes(damaged)


def truncate(generator, content):
    return content[: generator.randrange(len(content))]


def cut(generator, content):
    start = generator.randrange(len(content))
    return content[:start] + content[start + generator.randrange(64) :]


def insert(generator, content):
    place = generator.randrange(len(content) + 1)
    return content[:place] + generator.choice(ODD_BYTES) + content[place:]


def repeat(generator, content):
    start = generator.randrange(len(content))
    end = start + generator.randrange(1, 200)
    return content[:end] + content[start:end] + content[end:]


def exchange_lines(generator, content):
    lines = content.split(b"\n")
    one, other = generator.randrange(len(lines)), generator.randrange(len(lines))
    if generator.random() < 0.5:
        lines[one], lines[other] = lines[other], lines[one]
    else:
        lines.insert(one, lines[other])
    return b"\n".join(lines)


def recode(generator, content):
    encoding = generator.choice(("utf-16", "utf-32", "utf-8-sig", "cp037"))
    return content.decode("latin-1").encode(encoding)


def overwrite(generator, content):
    start = generator.randrange(len(content))
    noise = generator.randbytes(generator.randrange(1, 40))
    return content[:start] + noise + content[start + len(noise) :]


BYTES = (flip, truncate, cut, insert, repeat, exchange_lines, overwrite)


def damage_json(generator, content):
    """Exchange values, their types or their nesting; what comes out is JSON."""
    document = json.loads(content)
    places = list(walk(document))
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        owner, key = generator.choice(places)
        what = generator.randrange(6)
        if what == 0:
            other, place = generator.choice(places)
            value = other[place] if place in range_of(other) else None
            owner[key] = json.loads(json.dumps(value))
        elif what == 1 and isinstance(owner, dict):
            owner.pop(key, None)
        elif what == 2 and isinstance(owner, dict):
            owner[key + generator.choice(("", "_", "2"))] = generator.choice(ODD_VALUES)
        elif what == 3 and isinstance(owner, list):
            owner.append(generator.choice(ODD_VALUES))
        elif what == 4:
            owner[key] = nested(generator.choice((5, 40, 400)))
        else:
            owner[key] = generator.choice(ODD_VALUES)
        places = list(walk(document))
        if not places:
            break
    return json.dumps(document, indent=generator.choice((None, 1))).encode()


def walk(value, levels=20):
    if isinstance(value, (dict, list)) and levels:
        for key in list(range_of(value)):
            yield value, key
            yield from walk(value[key], levels - 1)


def range_of(value):
    return value.keys() if isinstance(value, dict) else range(len(value))


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


def deepen(generator, content):
    """Nest so deeply that recursion would end."""
    depth = generator.choice((10, 1000, 200_000))
    opening, closing = generator.choice(((b"[", b"]"), (b'{"a":', b"}")))
    middle = generator.choice((b"1", content))
    return opening * depth + middle + closing * generator.choice((depth, 0))


DOCUMENTS = (*BYTES, recode, *[damage_json] * 8)


def attempt(path, content, seed, kinds, read):
    """What is read of a damaged file, or None where it was refused in one paragraph."""
    generator = random.Random(seed)
    kind = generator.choice(kinds)
    path.write_bytes(kind(generator, content))
    try:
        return read()
    except LayerMergeError as error:
        refusal = str(error)
    except Exception as error:
        raise AssertionError(f"seed {seed}, {kind.__name__}: {error!r}") from error
    assert "\n" not in refusal.strip(), f"seed {seed}, {kind.__name__}: {refusal}"
    assert len(refusal) < 1500, f"seed {seed}, {kind.__name__}: {refusal}"
    return None


def cases(count, path, content, kinds, read, check):
    """Damage a file `count` times; both outcomes must occur."""
    accepted = 0
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        value = attempt(path, content, seed, kinds, read)
        if value is not None:
            accepted += 1
            check(value)
    assert 0 < accepted < count


def as_text(value):
    return json.dumps(asdict(value), sort_keys=True)


def test_damaged_plans(tmp_path):
    path, again = tmp_path / "plan.json", tmp_path / "again.json"
    PLAN.save(path)

    def check(plan):
        check_types(plan)
        assert plan.segments[-1].end == plan.num_layers == plan.activations[-1]
        plan.explain()
        plan.save(again)
        assert as_text(load_plan(again)) == as_text(plan)

    cases(4000, path, path.read_bytes(), DOCUMENTS, lambda: load_plan(path), check)


def test_damaged_results(tmp_path):
    path, again = tmp_path / "result.json", tmp_path / "again.json"
    make_result().save(path)

    def check(result):
        check_types(result)
        assert result.base.latency_ns >= 1
        assert [headline(result), *notes(result), *compare(result)]
        result.save(again)
        assert as_text(load_result(again)) == as_text(result)

    cases(4000, path, path.read_bytes(), DOCUMENTS, lambda: load_result(path), check)


ORIGIN_HERE = Environment("eager", "2.9", "cpu x", "", "fp32", "channels_first", 1, 1, "clock")


def test_damaged_origins_of_tables(tmp_path):
    table = tmp_path / "table.csv"
    path = origin_path(table)
    measured = asdict(Measurement(1200, 0.01, 40, 5e-5))
    values = {
        "environment": asdict(ORIGIN_HERE),
        "network": "0123456789abcdef",
        "barriers": {"pool": measured, "fc": measured},
        "end_to_end": measured,
        "deployed": "base",
        "activations": ["relu"],
        "subjects": {"pool": "barrier pool", "fc": "barrier fc"},
        "table_sha256": "0" * 64,
    }
    write_document(path, "table-origin", SCHEMA_VERSION, values)

    def check(origin):
        check_types(origin)
        origin.environment.difference(ORIGIN_HERE)

    cases(1500, path, path.read_bytes(), DOCUMENTS, lambda: read_origin(table), check)


@pytest.mark.parametrize("read", [load_plan, load_result])
def test_documents_nested_deeply_are_refused(tmp_path, read):
    path = tmp_path / "deep.json"
    for seed in range(30):
        assert attempt(path, b'{"schema": 1}', seed, (deepen,), lambda: read(path)) is None


def entries():
    return Entries(
        start=np.array([0, 0, 1, 2], dtype=np.int32),
        end=np.array([1, 3, 2, 3], dtype=np.int32),
        kernel_size=np.array([[3, 3], [7, 5], [3, 3], [1, 1]], dtype=np.int32),
        stride=np.ones((4, 2), dtype=np.int32),
        is_depthwise=np.array([False, True, False, False]),
    )


def check_entries(found):
    assert (found.start >= 0).all()
    assert (found.end > found.start).all()
    assert (found.kernel_size >= 0).all()
    assert len(set(found.keys())) == len(found)


def check_latency(table):
    check_entries(table.entries)
    assert (table.latency_ns >= 0).all()
    assert (table.stdev_ns >= 0).all()


def check_importance(table):
    check_entries(table.entries)
    assert np.isfinite(table.importance).all()
    for start, end, kept in zip(table.entries.start, table.entries.end, table.kept, strict=True):
        assert all(start < layer <= end for layer in kept)


def write_tables(latency, importance):
    times = np.array([1200, 3_400_000, 5, 0])
    write_latency(LatencyTable(entries(), times, times // 7, source="here"), latency)
    values = np.array([0.5, -1.25, 1e-12, 3.0])
    kept = ((1,), (1, 3), (2,), ())
    write_importance(ImportanceTable(entries(), values, kept, source="here"), importance)


def test_damaged_tables(tmp_path):
    latency, importance = tmp_path / "latency.csv", tmp_path / "importance.csv"
    write_tables(latency, importance)
    kinds = (*BYTES, recode)
    cases(3000, latency, latency.read_bytes(), kinds, lambda: read_latency(latency), check_latency)
    read = lambda: read_importance(importance)  # noqa: E731
    cases(3000, importance, importance.read_bytes(), kinds, read, check_importance)


def test_damaged_parquet_tables(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    latency, importance = tmp_path / "latency.parquet", tmp_path / "importance.parquet"
    write_tables(latency, importance)
    cases(800, latency, latency.read_bytes(), BYTES, lambda: read_latency(latency), check_latency)
    read = lambda: read_importance(importance)  # noqa: E731
    cases(800, importance, importance.read_bytes(), BYTES, read, check_importance)


KEY = ScoreKey("network", "weights", "0-2:3x3:1,2", "estimator")


def write_study(path):
    with Study(path) as study:
        for place in range(20):
            study.add_measurements("cpu", {f"conv {place}": Measurement(1200, 0.01, 40, 5e-5)})
        study.add_score(KEY, Score(0.9, None, 2.0))
        study.add_score(replace(KEY, candidate="other"), Score(None, "diverged", 2.0))
        study.add_artefact("weights", b"content" * 1000)


def exchange_value(generator, content):
    """Put a value of another type into a table; what comes out is a sound SQLite file."""
    damaged = sqlite3.connect(":memory:")
    damaged.deserialize(content[:18] + b"\1\1" + content[20:])  # not in write-ahead-log mode
    table, column = generator.choice(
        [
            *(("measurements", name) for name in ("subject", "median_ns", "spread", "repeats")),
            *(("scores", name) for name in ("score", "seconds")),
            ("artefacts", "content"),
            ("meta", "value"),
        ]
    )
    value = generator.choice(["x", b"\xff", 7, 0.5, -3, float("inf"), "9" * 500])
    damaged.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
    damaged.commit()
    return damaged.serialize()


def test_damaged_studies(tmp_path):
    path = tmp_path / "study.db"
    write_study(path)
    content = path.read_bytes()

    def read():
        for beside in tmp_path.glob("study.db-*"):
            beside.unlink()
        with Study(path) as study:
            found = study.measurements("cpu")
            scores = [study.score(KEY), study.score(replace(KEY, candidate="other"))]
            artefact = study.artefact("weights")
            study.add_measurements("cpu", {"new": Measurement(1, 0.0, 1, 0.0)})
            return found, scores, artefact

    def check(found):
        measurements, scores, artefact = found
        for subject, measurement in measurements.items():
            assert isinstance(subject, str)
            check_types(measurement)
            assert measurement.median_ns >= 0
        for score in scores:
            if score is not None:
                check_types(score)
                assert (score.score is None) != (score.failure is None)
        assert artefact is None or isinstance(artefact, bytes)

    kinds = (flip, truncate, cut, insert, repeat, overwrite, exchange_value)
    cases(2000, path, content, kinds, read, check)


def test_damaged_weights(tmp_path):
    merged = compressed(chain(), chain_plan(1, 3))
    save(merged, tmp_path)
    path, model = tmp_path / WEIGHTS_FILE, chain()
    expected = merged.state_dict()

    def check(loaded):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())
        assert loaded.keys() == expected.keys()

    content = path.read_bytes()
    for seed in range(FIRST_SEED, FIRST_SEED + 3000):
        found = attempt(path, content, seed, BYTES, lambda: load(tmp_path, model).state_dict())
        if found is not None:
            check(found)


def test_a_damaged_plan_never_goes_with_weights(tmp_path):
    merged = compressed(chain(), chain_plan(1, 3))
    save(merged, tmp_path)
    path, model = tmp_path / PLAN_FILE, chain()
    content, plan = path.read_bytes(), load_plan(path)

    def read():
        load(tmp_path, model)
        return load_plan(path)

    for seed in range(FIRST_SEED, FIRST_SEED + 500):
        found = attempt(path, content, seed, DOCUMENTS, read)
        assert found is None or as_text(found) == as_text(plan)


def test_the_damage_is_noticed_by_the_checks_of_this_file():
    with pytest.raises(InputError, match="budget_ns must be whole numbers or null, got 'soon'"):
        check_types(replace(PLAN, budget_ns="soon"))
