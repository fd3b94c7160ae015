from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError
from layermerge.network import InputSpec
from layermerge.plan import (
    Plan,
    PlannedSegment,
    load_plan,
    original_plan,
    replace_segment,
)
from layermerge.tracing import trace
from networks import images, zoo

SPEC = (InputSpec("x", (2, 3, 16, 16), "float32"),)
PLAN = Plan(
    "0123456789abcdef",
    5,
    SPEC,
    (
        PlannedSegment(0, 1, (3, 3), (1,), 10, 0.5),
        PlannedSegment(1, 4, (5, 3), (2, 4), 20, 0.25),
        PlannedSegment(4, 5, (1, 1), (5,), 5, 1.0),
    ),
    budget_ns=50,
    latency_ns=35,
    importance=1.75,
    certificate="optimal",
    provenance={"device": "cpu", "seeds": [1, 2]},
)


def segment(start, end, *kept):
    return PlannedSegment(start, end, (1, 1), kept)


def network():
    return trace(zoo("plain"), images(2, 3, 16, 16))


@st.composite
def random_plans(draw):
    segments, position = [], 0
    for _ in range(draw(st.integers(1, 5))):
        end = position + draw(st.integers(1, 4))
        kept = draw(st.sets(st.integers(position + 1, end)))
        size = (draw(st.integers(1, 21)), draw(st.integers(1, 21)))
        latency_ns, importance = draw(st.integers(0, 2**62)), draw(st.floats(allow_nan=False))
        added = draw(st.sampled_from([(None, None), ("relu", None), (None, "norm"), ("silu", "n")]))
        segments.append(
            PlannedSegment(position, end, size, tuple(sorted(kept)), latency_ns, importance, *added)
        )
        position = end
    remove = draw(st.sampled_from([("activation",), ("activation", "gate", "norm"), ()]))
    budget_ns = draw(st.none() | st.integers(0))
    return Plan(
        draw(st.text()), position, SPEC, tuple(segments), budget_ns=budget_ns, remove=remove
    )


@settings(deadline=None)
@given(plan=random_plans())
def test_a_saved_plan_is_read_back_as_it_was(tmp_path_factory, plan):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan.save(path)
    assert load_plan(path) == plan


def test_a_plan_knows_what_stays():
    assert PLAN.activations == (1, 4, 5)
    assert PLAN.convolutions == (1, 2, 4, 5)
    assert [planned.is_original for planned in PLAN.segments] == [True, False, True]


def test_a_plan_explains_each_segment():
    lines = PLAN.explain().splitlines()
    assert len(lines) == 3
    assert "as it is" in lines[0]
    assert "2..4" in lines[1]
    assert "one 5x3 convolution from layers 2, 4; 1 removed" in lines[1]


def test_a_plan_explains_what_is_dropped_and_what_is_added():
    dropped = PlannedSegment(0, 2, (1, 1), ())
    added = PlannedSegment(2, 4, (3, 3), (3,), activation="relu", norm="norm_2")
    lines = Plan("f", 4, SPEC, (dropped, added)).explain().splitlines()
    assert "1..2     -> nothing: its input passes through" in lines[0]
    assert "from layer 3; 1 removed; then norm_2; then relu" in lines[1]


def test_the_original_plan_keeps_everything():
    plan = original_plan(network())
    assert plan.activations == plan.convolutions == (1, 2, 3, 4)
    assert all(planned.is_original for planned in plan.segments)
    candidates = enumerate_candidates(network()).original
    assert [s.kernel_size for s in plan.segments] == [c.kernel_size for c in candidates]


def test_replacing_a_segment_keeps_the_rest():
    traced = network()
    candidate = next(
        c for c in enumerate_candidates(traced).candidates if (c.start, c.end) == (1, 3)
    )
    plan = replace_segment(traced, candidate)
    assert plan.activations == (1, 3, 4)
    assert plan.convolutions == (1, *candidate.kept, 4)
    assert plan.network_fingerprint == traced.fingerprint
    assert plan.segments[1].kernel_size == candidate.kernel_size


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([segment(0, 1, 1), segment(2, 3, 3)], r"\(2, 3\] does not continue .* at position 1"),
        ([segment(0, 2, 1), segment(1, 3, 3)], r"\(1, 3\] does not continue .* at position 2"),
        ([segment(0, 1, 1)], r"covers positions 0\.\.1; expected 0\.\.3"),
        ([], r"covers positions 0\.\.0; expected 0\.\.3"),
        ([segment(0, 4, 1)], r"covers positions 0\.\.4; expected 0\.\.3"),
        ([segment(0, 0, 1), segment(0, 3, 1)], r"\(0, 0\] does not continue"),
        ([segment(0, 3, 4)], r"keeps \[4\]: expected layers of 1\.\.3, in order"),
        ([segment(0, 1, 1), segment(1, 3, 1)], r"keeps \[1\]: expected layers of 2\.\.3"),
        ([segment(0, 3, 2, 1)], r"keeps \[2, 1\]: expected .* in order"),
        ([segment(0, 3, 1, 1)], r"keeps \[1, 1\]: expected .* in order"),
    ],
)
def test_segments_must_cover_the_axis_and_keep_their_own_layers(segments, message):
    with pytest.raises(InputError, match=message):
        Plan("f", 3, SPEC, tuple(segments))


def test_a_plan_of_no_layers_is_refused():
    with pytest.raises(InputError, match="num_layers must be at least 1, got 0"):
        replace(PLAN, num_layers=0, segments=())


def damaged(change):
    """JSON text of `PLAN` after `change` was applied to the document."""

    def text(path):
        PLAN.save(path)
        found = json.loads(path.read_text())
        change(found)
        return json.dumps(found)

    return text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lambda path: "{", "cannot be read as a plan"),
        (lambda path: "", "cannot be read as a plan"),
        (lambda path: "[1, 2]", 'is not a LayerMerge plan: it has no "schema": "layermerge-plan"'),
        (lambda path: '{"segments": []}', "is not a LayerMerge plan"),
        (damaged(lambda d: d.update(schema_version=3)), "version 3; .* reads version 2: install"),
        (damaged(lambda d: d.pop("inputs")), "is not a valid plan: 'inputs' is missing"),
        (damaged(lambda d: d["segments"][1].pop("kept")), "not a valid plan: 'kept' is missing"),
        (damaged(lambda d: d.update(colour="red")), "is not a valid plan: .*colour"),
        (damaged(lambda d: d.update(segments=None)), "is not a valid plan"),
        (damaged(lambda d: d["segments"].pop(1)), r"is not a valid plan: .*does not continue"),
        (damaged(lambda d: d["segments"][1].update(kept=[9])), r"not a valid plan: .*keeps \[9\]"),
        (damaged(lambda d: d.update(remove=["foo"])), "remove must be of activation, gate, norm"),
        (damaged(lambda d: d["segments"][1].update(kept=["2"])), "not a valid plan: .*integers"),
        (damaged(lambda d: d["segments"][1].update(end=4.0)), "not a valid plan: .*integers"),
        (damaged(lambda d: d.update(num_layers=True)), "not a valid plan: .*integer"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "broken.json"
    path.write_text(text(path))
    with pytest.raises(InputError, match=rf"broken\.json.*{message}") as caught:
        load_plan(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json cannot be read as a plan: .*No such file"):
        load_plan(tmp_path / "nowhere.json")
