from __future__ import annotations

import json
import logging
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError
from layermerge.latency.exchange import origin_path, read_origin, write_profile
from layermerge.latency.measuring import import_table, measure_latency
from layermerge.latency.options import LatencyOptions, Roofline
from layermerge.solver import frontier, solve
from layermerge.store import Study
from layermerge.table_files import read_latency, write_latency
from layermerge.tables import Entries, ImportanceTable, LatencyTable
from layermerge.tracing import trace
from networks import ZOO, tiny_classifier

IMAGE = torch.zeros(2, 1, 8, 8)
HERE = LatencyOptions(backend="analytic", roofline=Roofline(1.0, 10.0))
ELSEWHERE = LatencyOptions(backend="analytic", roofline=Roofline(2.0, 30.0), batch=4)


@pytest.fixture(scope="module")
def traced():
    model = tiny_classifier()
    network = trace(model, IMAGE)
    return model, network, enumerate_candidates(network)


def measure(traced, options=HERE, study=None):
    return measure_latency(
        *traced, example_inputs=IMAGE, deployed=traced[0], options=options, study=study
    )


def bring(path, traced, study, options=HERE, **changed):
    return import_table(
        path, *traced, example_inputs=IMAGE, study=study, options=options, **changed
    )


@pytest.mark.parametrize("name", ["T.csv", "T.parquet"])
def test_a_table_that_is_imported_is_not_measured_again(traced, tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    profile = measure(traced)
    write_profile(profile, tmp_path / name)
    bring(tmp_path / name, traced, tmp_path / "run.db")
    again = measure(traced, study=tmp_path / "run.db")
    assert again.effort.num_known == again.effort.num_units > len(again.convolutions)
    assert {c.key: again.of(c) for c in traced[2].candidates} == {
        c.key: profile.of(c) for c in traced[2].candidates
    }
    assert again.fixed_ns == profile.fixed_ns
    assert again.calibration == profile.calibration


def test_the_columns_are_those_of_the_authors(traced, tmp_path):
    profile = measure(traced)
    count = write_profile(profile, tmp_path / "T.csv")
    header, *rows = (tmp_path / "T.csv").read_text().splitlines()
    assert header == "id,st,end,ker,str,is_dw,time,stdev"
    assert len(rows) == count
    table = read_latency(tmp_path / "T.csv")
    by_key = {(c.start, c.end, *c.kernel_size): profile.of(c) for c in traced[2].candidates}
    keys = ((start, end, h, w) for start, end, h, w, _ in table.entries.keys())  # noqa: SIM118
    assert dict(zip(keys, table.latency_ns.tolist(), strict=True)) == by_key


def test_a_foreign_table_is_refused_and_the_difference_is_named(traced, tmp_path):
    write_profile(measure(traced, ELSEWHERE), tmp_path / "T.csv")
    with Study(tmp_path / "run.db") as study:
        with pytest.raises(InputError) as caught:
            bring(tmp_path / "T.csv", traced, study)
        assert study._execute("SELECT * FROM measurements") == []
    message = str(caught.value)
    assert "device 'roofline 2 TFLOP/s, 30 GB/s' against 'roofline 1 TFLOP/s, 10 GB/s'" in message
    assert "batch 4 against 2" in message
    assert "--allow-foreign-table" in message


def test_a_foreign_table_is_taken_when_that_is_allowed(traced, tmp_path, caplog):
    there = measure(traced, ELSEWHERE)
    write_profile(there, tmp_path / "T.csv")
    with caplog.at_level(logging.WARNING):
        bring(tmp_path / "T.csv", traced, tmp_path / "run.db", allow_foreign=True)
    assert "is a foreign table" in caplog.text
    assert measure(traced, study=tmp_path / "run.db").original_ns == there.original_ns


def test_a_table_that_does_not_say_where_it_is_from_is_foreign(traced, tmp_path):
    write_profile(measure(traced), tmp_path / "T.csv")
    origin_path(tmp_path / "T.csv").unlink()
    with pytest.raises(InputError, match=r"does not say where .*no T\.csv\.origin\.json"):
        bring(tmp_path / "T.csv", traced, tmp_path / "run.db")


def test_the_origin_is_read_back(traced, tmp_path):
    profile = measure(traced)
    write_profile(profile, tmp_path / "T.csv")
    origin = read_origin(tmp_path / "T.csv")
    assert origin is not None
    assert origin.environment == profile.environment
    assert origin.barriers == profile.barriers
    assert origin.end_to_end == profile.end_to_end
    assert origin.network == traced[1].fingerprint


def test_a_table_of_another_network_is_refused(traced, tmp_path):
    other = ZOO["plain"]().eval()
    image = torch.zeros(1, 3, 8, 8)
    network = trace(other, image)
    space = enumerate_candidates(network)
    write_profile(measure(traced), tmp_path / "T.csv")
    table = read_latency(tmp_path / "T.csv")
    beyond = replace(
        table, entries=replace(table.entries, start=table.entries.start + 40,
                               end=table.entries.end + 40)
    )  # fmt: skip
    write_latency(beyond, tmp_path / "T.csv")
    with pytest.raises(InputError, match="has no entry that is a candidate of Sequential"):
        import_table(
            tmp_path / "T.csv",
            other,
            network,
            space,
            example_inputs=image,
            study=None,
            options=HERE,
        )


def test_latencies_that_differ_for_one_signature_count_by_their_median(traced, tmp_path):
    space = traced[2]
    rows = [(c.start, c.end, 1000 + 10 * place) for place, c in enumerate(space.original)]
    entries = Entries(
        start=[start for start, *_ in rows],
        end=[end for _, end, _ in rows],
        kernel_size=[c.kernel_size for c in space.original],
        stride=[(1, 1)] * len(rows),
        is_depthwise=[c.signature.is_depthwise for c in space.original],
    )
    table = LatencyTable(entries, [ns for *_, ns in rows], [0] * len(rows))
    write_latency(table, tmp_path / "T.csv")
    with Study() as study:
        bring(tmp_path / "T.csv", traced, study, allow_foreign=True)
        found = set(study._execute("SELECT median_ns, repeats FROM measurements"))
    assert {repeats for _, repeats in found} == {0}
    assert {ns for ns, _ in found} <= {ns for *_, ns in rows}


def test_a_table_of_two_units_is_refused(traced, tmp_path):
    path = tmp_path / "T.csv"
    write_profile(measure(traced), path)
    shared = Counter(c.signature for c in traced[2].candidates)
    other = next(c for c in traced[2].candidates if shared[c.signature] > 1)
    table = read_latency(path)
    segments = zip(table.entries.start.tolist(), table.entries.end.tolist(), strict=True)
    row = list(segments).index((other.start, other.end))
    latency_ns = table.latency_ns.copy()
    latency_ns[row] *= 1000
    write_latency(replace(table, latency_ns=latency_ns), path)
    with pytest.raises(InputError, match=r"compute the same .* is all of it in milliseconds"):
        bring(path, traced, None)


@pytest.mark.parametrize("wrong", ["-5", '"fast"', "NaN", "Infinity", str(10**400)])
def test_an_origin_with_a_latency_that_is_none_is_refused(traced, tmp_path, wrong):
    write_profile(measure(traced), tmp_path / "T.csv")
    origin = origin_path(tmp_path / "T.csv")
    changed, count = re.subn(r'("end_to_end":\s*\{\s*"median_ns":) \d+', rf"\1 {wrong}",
                             origin.read_text())  # fmt: skip
    assert count == 1
    origin.write_text(changed)
    with pytest.raises(InputError, match=r"T\.csv\.origin\.json is not a valid .* at least 0"):
        bring(tmp_path / "T.csv", traced, None)


def test_equal_barriers_are_measured_once_in_any_network():
    def network(channels):
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3, padding=1),
            torch.nn.MaxPool2d(2),
            torch.nn.Upsample(scale_factor=2),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(4, channels, 1),
        ).eval()

    with Study() as study:
        for channels, known in ((3, 0), (5, 3)):
            model = network(channels)
            found = trace(model, IMAGE)
            profile = measure_latency(
                model,
                found,
                enumerate_candidates(found),
                example_inputs=IMAGE,
                options=HERE,
                study=study,
            )
            assert len(profile.barriers) == 3
            assert profile.effort.num_known == known
            assert profile.effort.num_saved == 1


DEPTH_TABLES = ["mbv2_1.0", "mbv2_1.4", "vgg19_no_trt"]


@pytest.mark.parametrize("name", DEPTH_TABLES)
def test_tables_that_the_authors_measured_load_solve_and_plot(name, tmp_path):
    from layermerge.frontier_plot import plot_frontier

    pytest.importorskip("matplotlib")
    latency = read_latency(f"tests/data/reference/depth_{name}_rtx2080ti.time.csv")
    entries = latency.entries
    length = entries.end - entries.start
    kept = tuple(
        tuple(range(start + 1, end + 1))
        for start, end in zip(entries.start.tolist(), entries.end.tolist(), strict=True)
    )
    importance = ImportanceTable(entries, 1.0 / length, kept)
    alone_ns = int(latency.latency_ns[length == 1].sum())
    selection = solve(latency, importance, budget_ns=alone_ns)
    assert selection.optimal
    assert selection.latency_ns <= alone_ns
    found = frontier(latency, importance)
    assert len(found) > 3
    plot_frontier(found, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 1000


def test_a_table_whose_origin_is_another_network_is_foreign(traced, tmp_path):
    write_profile(measure(traced), tmp_path / "T.csv")
    origin = json.loads(origin_path(tmp_path / "T.csv").read_text())
    origin["network"] = "0123456789abcdef"
    origin_path(tmp_path / "T.csv").write_text(json.dumps(origin))
    with pytest.raises(InputError, match=r"of another network.*0123456789abcdef instead of"):
        bring(tmp_path / "T.csv", traced, tmp_path / "run.db")
    assert bring(tmp_path / "T.csv", traced, tmp_path / "run.db", allow_foreign=True)


def gated():
    return torch.nn.Sequential(
        torch.nn.Conv2d(4, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3, padding=1),
        torch.nn.GroupNorm(2, 4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3, padding=1),
    ).eval()


def test_what_lies_behind_a_convolution_is_not_counted_twice(tmp_path):
    model, image = gated(), torch.zeros(1, 4, 8, 8)
    network = trace(model, image, remove=("activation", "norm"))
    space = enumerate_candidates(network)
    assert any(candidate.tail for candidate in space.candidates)
    profile = measure_latency(model, network, space, example_inputs=image, options=HERE)
    write_profile(profile, tmp_path / "T.csv")
    subject = model, network, space
    arguments = {"example_inputs": image, "study": tmp_path / "run.db", "options": HERE}
    import_table(tmp_path / "T.csv", *subject, **arguments)
    again = measure_latency(*subject, **arguments)
    assert {c.key: again.of(c) for c in space.candidates} == {
        c.key: profile.of(c) for c in space.candidates
    }


def test_what_the_study_holds_is_kept_unless_it_is_to_be_replaced(traced, tmp_path, caplog):
    profile = measure(traced, study=tmp_path / "run.db")
    slower = replace(
        profile,
        convolutions={
            signature: replace(latency, median_ns=2 * latency.median_ns)
            for signature, latency in profile.convolutions.items()
        },
    )
    write_profile(slower, tmp_path / "T.csv")
    bring(tmp_path / "T.csv", traced, tmp_path / "run.db")
    assert re.search(r"\d+ latencies of .*T\.csv are not taken, for study .*--replace", caplog.text)
    assert measure(traced, study=tmp_path / "run.db").convolutions == profile.convolutions
    bring(tmp_path / "T.csv", traced, tmp_path / "run.db", replace=True)
    again = measure(traced, study=tmp_path / "run.db")
    for signature, latency in slower.convolutions.items():
        assert again.convolutions[signature].median_ns == latency.median_ns


def test_a_table_that_was_edited_is_foreign(traced, tmp_path):
    write_profile(measure(traced), tmp_path / "T.csv")
    text = (tmp_path / "T.csv").read_text()
    (tmp_path / "T.csv").write_text(text.replace(",0.00", ",0.01"))
    with pytest.raises(InputError, match=r"T\.csv is a foreign table, it was changed since"):
        bring(tmp_path / "T.csv", traced, tmp_path / "run.db")


def test_a_convolution_takes_time(traced, tmp_path):
    write_profile(measure(traced), tmp_path / "T.csv")
    table = read_latency(tmp_path / "T.csv")
    write_latency(replace(table, latency_ns=0 * table.latency_ns), tmp_path / "T.csv")
    with pytest.raises(InputError, match=r"T\.csv says that .* takes 0 ms: is it in milliseconds"):
        bring(tmp_path / "T.csv", traced, tmp_path / "run.db", allow_foreign=True)


def test_an_export_that_fails_leaves_the_table_of_before(traced, tmp_path, monkeypatch):
    profile = measure(traced)
    write_profile(profile, tmp_path / "T.csv")
    before = (tmp_path / "T.csv").read_bytes()

    def fail(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(InputError, match=r"cannot write .*T\.csv: No space left on device"):
        write_profile(profile, tmp_path / "T.csv")
    assert (tmp_path / "T.csv").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["T.csv", "T.csv.origin.json"]


def test_entries_that_disagree_are_told(traced, tmp_path, caplog):
    path = tmp_path / "T.csv"
    write_profile(measure(traced), path)
    table = read_latency(path)
    places = {(c.signature, c.start, c.end) for c in traced[2].candidates}
    shared = Counter(signature for signature, _, _ in places)
    candidate = next(c for c in traced[2].candidates if shared[c.signature] > 1)
    segment = candidate.start, candidate.end, *candidate.kernel_size
    row = next(r for r, key in enumerate(table.entries.keys()) if key[:4] == segment)
    latency_ns = table.latency_ns.copy()
    latency_ns[row] *= 3
    write_latency(replace(table, latency_ns=latency_ns), path)
    with Study() as study, pytest.raises(InputError, match="it was changed since"):
        bring(path, traced, study)
    with Study() as study:
        bring(path, traced, study, allow_foreign=True)
    assert "1 convolutions with entries that compute the same and take up to 3.00 times" in (
        caplog.text
    )


def test_a_table_with_other_activations_behind_segments_is_foreign(tmp_path):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3, padding=1),
        torch.nn.Conv2d(4, 4, 3, padding=1),
    ).eval()
    network = trace(model, IMAGE)
    plain, bounded = (
        (model, network, enumerate_candidates(network, boundary_activation=added))
        for added in (False, True)
    )
    assert plain[2].signatures != bounded[2].signatures
    path = tmp_path / "T.csv"
    write_profile(measure(bounded), path)
    with Study() as study, pytest.raises(InputError, match=r"relu is added .* and nothing here"):
        bring(path, plain, study)
    with Study() as study:
        assert bring(path, bounded, study) == len(bounded[2].signatures)


def test_a_table_is_not_imported_into_memory_that_ends(traced, tmp_path):
    write_profile(measure(traced), tmp_path / "T.csv")
    for study in (None, ":memory:"):
        with pytest.raises(InputError, match="study must be a file, or a Study"):
            bring(tmp_path / "T.csv", traced, study)


@pytest.mark.parametrize("name", ["replace", "allow_foreign"])
def test_a_choice_is_true_or_false(traced, tmp_path, name):
    with pytest.raises(InputError, match=f"{name} must be True or False, got 'no'"):
        bring(tmp_path / "T.csv", traced, None, **{name: "no"})
