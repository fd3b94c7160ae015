from __future__ import annotations

import numpy as np
import pytest

import layermerge as lm
from layermerge.latency.exchange import write_profile
from layermerge.results import load_result
from networks import images, zoo

X = images(2, 3, 16, 16)


@pytest.fixture(scope="module")
def model():
    return zoo("plain")


@pytest.fixture(scope="module")
def network(model):
    return lm.trace(model, X)


TRACE = r"trace\(model, example_inputs\) makes one"
ENUMERATE = r"SearchSpace\(\).enumerate\(network\) makes one"
MEASURE = r"measure_latency\(.*\) makes one"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, n: lm.SearchSpace().enumerate(m), f"network must be a Network, got .*{TRACE}"),
        (lambda m, n: lm.SearchSpace(space="paper").enumerate(m), TRACE),
        (lambda m, n: lm.original_plan(m), TRACE),
        (lambda m, n: lm.measure_latency(m, m, n, example_inputs=X), TRACE),
        (lambda m, n: lm.measure_latency(m, n, n, example_inputs=X), ENUMERATE),
        (
            lambda m, n: lm.measure_latency(
                m, n, lm.SearchSpace().enumerate(n), example_inputs=X, options={}
            ),
            "options must be a LatencyOptions, got dict",
        ),
        (lambda m, n: lm.measure_modules([m], X), "modules must be a Mapping, got list"),
        (lambda m, n: lm.measure_modules({"a": n}, X), r"modules\['a'\] must be a Module"),
        (lambda m, n: lm.estimate_importance(m, m, n), TRACE),
        (lambda m, n: lm.estimate_importance(m, n, n), ENUMERATE),
        (lambda m, n: lm.find_plans(m, n, [1]), MEASURE),
        (lambda m, n: lm.make_plan(n, n, 1), MEASURE),
        (lambda m, n: lm.merge_least_squares(m, n, n, [X]), "plan must be a Plan, got Network"),
        (lambda m, n: lm.trace(n, X), r"model must be a torch\.nn\.Module, got Network"),
        (lambda m, n: lm.rewrite(m, n), "plan must be a layermerge Plan, got Network"),
        (lambda m, n: lm.rewrite(n, lm.original_plan(n)), "model must be a torch"),
        (lambda m, n: lm.merge(m), "expected a network made by layermerge.rewrite"),
        (lambda m, n: lm.load(m), "directory must be a path, text or pathlib.Path, got "),
        (lambda m, n: lm.save(n, "anywhere"), "expected a network made by layermerge.rewrite"),
        (lambda m, n: lm.export_onnx(n, "x.onnx"), "expected a network made by layermerge.rewrite"),
    ],
)
def test_an_argument_of_another_type_is_told_where_one_comes_from(model, network, call, message):
    with pytest.raises(lm.InputError, match=message):
        call(model, network)


@pytest.mark.parametrize("path", [None, 3, b"bytes", ["list.csv"]])
@pytest.mark.parametrize(
    "call",
    [lm.read_latency, lm.read_importance, lm.load_plan, lm.load, load_result],
)
def test_what_is_no_path_is_refused(call, path):
    name = "directory" if call is lm.load else "path"
    message = f"{name} must be a path, text or pathlib.Path, got {type(path).__name__}"
    with pytest.raises(lm.InputError, match=message):
        call(path)


@pytest.mark.parametrize("point", [2, -3, 0.5, "0", None])
def test_a_point_that_a_frontier_lacks_is_refused(point):
    frontier = lm.frontier(np.array([1, 2, 3]), [1.0, 3.0, 2.0], start=[0, 0, 0], end=[1, 1, 1])
    assert frontier.selection(-1).value == frontier.value[1] == 3.0
    with pytest.raises(lm.InputError, match=r"point must be the index of one of 2 points, got "):
        frontier.selection(point)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lm.write_latency, "table must be a LatencyTable, got NoneType"),
        (lm.write_importance, "table must be an ImportanceTable, got NoneType"),
        (write_profile, "profile must be a LatencyProfile, got NoneType"),
    ],
)
def test_what_is_written_must_be_there(tmp_path, function, message):
    with pytest.raises(lm.InputError, match=message):
        function(None, tmp_path / "T.csv")
