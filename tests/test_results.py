from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest

from layermerge.errors import InputError
from layermerge.results import load_result
from sample_results import SAMPLES, STEPS, make_result


def written(tmp_path, **changes):
    """A saved result, some of whose entries are replaced."""
    path = tmp_path / "result.json"
    make_result().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


SEARCH = json.loads(json.dumps(asdict(SAMPLES["searched"]().search)))


def with_segment(**changes):
    segment = {"start": 2, "end": 4, "num_entries": 1, "num_scored": 1, "delta": 0, "importance": 1}
    return {**SEARCH, "segments": [{**segment, **changes}]}


def with_point(**changes):
    first, *rest = SEARCH["frontier"]
    return {**SEARCH, "frontier": [{**first, **changes}, *rest]}


def with_step(**changes):
    return {**json.loads(json.dumps(asdict(STEPS[1]))), **changes}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_result_survives_being_saved(tmp_path, name):
    result = SAMPLES[name]()
    result.save(tmp_path / "result.json")
    assert load_result(tmp_path / "result.json") == result


def test_text_of_any_language_survives(tmp_path):
    result = make_result(name='réseau "neuf" 网络 </script>')
    result.save(tmp_path / "result.json")
    assert load_result(tmp_path / "result.json").name == result.name


def test_a_result_of_the_first_schema_is_read_without_a_search(tmp_path):
    path = written(tmp_path, schema_version=1)
    document = json.loads(path.read_text())
    del document["search"]
    path.write_text(json.dumps(document))
    assert load_result(path) == make_result()


def test_steps_without_figures_of_each_layer_survive(tmp_path):
    steps = tuple(replace(step, name_descriptions=(), name_ns=()) for step in STEPS)
    make_result(steps).save(tmp_path / "result.json")
    assert load_result(tmp_path / "result.json").steps == steps


def test_the_speedup_is_measured_not_predicted():
    result = make_result(measured_ns=1_000_000)
    assert result.speedup == result.base.latency_ns / 1_000_000


@pytest.mark.parametrize(("excess_ns", "kept"), [(-1, True), (0, True), (1, False)])
def test_the_budget_is_kept_up_to_the_last_nanosecond(excess_ns, kept):
    budget_ns = make_result().budget_ns
    assert make_result(measured_ns=budget_ns + excess_ns).is_within_budget is kept


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as a result"),
        ("{", "cannot be read as a result"),
        ("[]", "is not a LayerMerge result"),
        ('{"schema": "layermerge-plan"}', "is not a LayerMerge result"),
        ('{"schema": "layermerge-result", "schema_version": 3}', "schema version 3; .* install"),
        ('{"schema": "layermerge-result", "schema_version": 1}', "'name' is missing"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, content, message):
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        load_result(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("depth", [100, 200_000])
def test_what_is_nested_deeply_is_refused(tmp_path, depth):
    path = written(tmp_path)
    nested = "[" * depth + "]" * depth
    path.write_text(path.read_text().replace('"provenance": {', f'"provenance": {{"a": {nested},'))
    with pytest.raises(InputError, match="it is nested too deeply"):
        load_result(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json cannot be read as a result"):
        load_result(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": {}}, "missing 7 required"),
        ({"base": [1]}, "valid result"),
        ({"steps": "abc"}, "valid result"),
        ({"steps": 7}, "valid result"),
        ({"steps": [{"start": 0}]}, "missing 6 required"),
        ({"steps": []}, "steps must hold the whole network"),
        ({"budget_ns": "soon"}, "budget_ns must be a finite number of at least 1, got 'soon'"),
        ({"budget_ns": 10**400}, "valid result"),
        ({"calibration": math.nan}, "calibration must be a finite number"),
        ({"num_scored": -1}, "num_scored must be a finite number of at least 0, got -1"),
        ({"seconds": {"trace": None}}, r"seconds\['trace'\] must be a finite number"),
        ({"seconds": [1]}, "valid result"),
        ({"name": 3}, "name must be text, got 3"),
        ({"provenance": [1]}, "provenance must be an object"),
        ({"steps": [with_step(names=[])]}, "names must hold the layers of a step"),
        ({"steps": [with_step(names=[1])]}, "names must be a list of texts"),
        ({"steps": [with_step(description=None)]}, "description must be text"),
        ({"steps": [with_step(name_ns=[1, 2, 3.5])]}, r"name_ns\[2\] must be an integer, got 3.5"),
        ({"steps": [with_step(before_ns=10**25)]}, "before_ns must be at most 1e\\+20"),
        ({"search": 7}, "valid result"),
        ({"search": with_segment(kernel_size=[3])}, "kernel_size must be height and width"),
        ({"search": with_segment(kept="34")}, "kept must be a list of integers"),
        ({"search": with_point(segments=[1])}, "segments must be a list of texts"),
        ({"search": with_point(latency_ns=10**12)}, "by rising latency"),
        ({"search": {"objective": "delta"}}, "'base_score' is missing"),
        ({"search": {**SEARCH, "frontier": []}}, "exactly one point that is chosen"),
        ({"search": {**SEARCH, "base_score": math.nan}}, "base_score must be a finite number"),
        ({"search": {**SEARCH, "segments": [{"start": 2, "end": 2}]}}, "missing 1 required"),
        ({"search": with_segment(end=2)}, "end must be a finite number of at least 3"),
        ({"search": with_segment(num_scored=2)}, "the numbers of each kind must sum to"),
        ({"search": with_segment(delta=math.inf)}, "delta must be a finite number"),
    ],
)
def test_a_damaged_result_is_refused(tmp_path, changes, message):
    path = written(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_result(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("score", math.nan),
        ("score", math.inf),
        ("latency_ns", 0),
        ("latency_spread", math.inf),
        ("weight_range", 0.9),
    ],
)
def test_figures_are_finite_and_possible(figure, value):
    with pytest.raises(InputError, match=f"{figure} must be a finite number"):
        replace(make_result().base, **{figure: value})


def test_a_step_has_a_figure_for_each_of_its_layers_or_none():
    with pytest.raises(InputError, match="name_ns must have one entry for each of"):
        replace(STEPS[1], name_ns=(1, 2))
