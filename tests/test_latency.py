from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from layermerge.candidates import CandidateSpace, Signature
from layermerge.enumeration import enumerate_candidates
from layermerge.errors import InputError, MeasurementError
from layermerge.graph import bind_inputs, capture, graph_arguments
from layermerge.latency import bench, protocol, rotation, units
from layermerge.latency.environment import Environment
from layermerge.latency.heap import heap_rule
from layermerge.latency.measuring import measure_latency
from layermerge.latency.options import LatencyOptions, Roofline
from layermerge.latency.placement import Placement
from layermerge.latency.profile import LatencyProfile, hopeless
from layermerge.latency.whole_networks import measure_modules
from layermerge.store import Measurement, Study
from layermerge.tracing import trace
from networks import ZOO, randomized, tiny_classifier, zoo

INPUT = torch.zeros(2, 1, 8, 8)
PLAIN = Signature(3, 5, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (8, 8), False, None)
SIGNATURES = [
    pytest.param(PLAIN, id="plain"),
    pytest.param(replace(PLAIN, kernel_size=(5, 3), padding=(1, 1, 2, 2)), id="oblong"),
    pytest.param(replace(PLAIN, stride=(2, 2), padding=(0, 1, 0, 1)), id="asymmetric"),
    pytest.param(replace(PLAIN, padding=(-1, -1, -1, -1)), id="cropped"),
    pytest.param(replace(PLAIN, dilation=(2, 2), padding=(2, 2, 2, 2)), id="dilated"),
    pytest.param(replace(PLAIN, in_channels=5, groups=5, is_sum=True), id="depthwise-sum"),
    pytest.param(replace(PLAIN, is_sum=True, activation="relu6"), id="sum-activation"),
]


@pytest.fixture(scope="module")
def traced():
    model = tiny_classifier()
    network = trace(model, INPUT)
    return model, network, enumerate_candidates(network)


@pytest.fixture
def measured_units(monkeypatch):
    """Names of the units that are really timed, in place of long rounds."""
    names: list[str] = []
    original = protocol.measure_units

    def spy(units, *, known, **options):
        names.extend(name for name in units if name not in known)
        return original(units, known=known, **options)

    monkeypatch.setattr(bench, "measure_units", spy)
    return names


def options(**changed):
    return LatencyOptions(**{"target_rsd": 0.5, "max_seconds": 0.5, "threads": 1, **changed})


def measure(model, network, space, *, example_inputs=INPUT, deployed=None, study=None, **changed):
    return measure_latency(
        model,
        network,
        space,
        example_inputs=example_inputs,
        deployed=deployed,
        study=study,
        options=options(**changed),
    )


def profile_of(space, latencies_ns):
    measurements = (Measurement(latency, 0.0, 1, 0.0) for latency in latencies_ns)
    environment = Environment("none", "1", "cpu", "", "fp32", "channels_first", 1, 1, "clock")
    return LatencyProfile(
        space, environment, dict(zip(space.signatures, measurements, strict=True)), {}
    )


@pytest.mark.parametrize("signature", SIGNATURES)
def test_a_unit_computes_a_tensor_of_the_size_that_the_signature_says(signature):
    placement = Placement(torch.device("cpu"), torch.float32, channels_last=False)
    inputs = units.Buffers([signature], 2, placement).inputs_of(signature)
    output = units.MergedConvolution(signature)(*inputs)
    assert output.shape == units.output_shape(signature, 2)


def test_a_unit_adds_the_residual_before_the_activation():
    signature = replace(PLAIN, is_sum=True, activation="relu")
    module = units.MergedConvolution(signature)
    value, residual = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 8, 8)
    expected = torch.relu(module.convolution(value) + residual)
    torch.testing.assert_close(module(value, residual), expected)


def test_an_asymmetric_padding_is_on_the_side_that_the_signature_says():
    signature = replace(PLAIN, padding=(2, 0, 1, 0))
    module = units.MergedConvolution(signature)
    value = torch.randn(1, 3, 8, 8)
    expected = torch.zeros(1, 3, 9, 10)
    expected[:, :, 1:, 2:] = value
    torch.testing.assert_close(module(value), module.convolution(expected))


def test_each_barrier_is_called_with_the_inputs_that_it_gets_in_the_network(traced):
    model, network, _ = traced
    image = torch.randn(2, 1, 8, 8)
    captured = capture(model, image)
    names = [barrier.name for barrier in network.barriers]
    arguments = graph_arguments(captured, bind_inputs(model, image))
    cut_out = units.barrier_units(captured, names, arguments)
    assert list(cut_out) == names
    head = next(b.name for b in network.barriers if b.kind.lower() == "linear")
    torch.testing.assert_close(cut_out[head].module(*cut_out[head].inputs), model(image))


def test_a_barrier_that_the_model_does_not_have_is_refused(traced):
    captured = capture(traced[0], INPUT)
    with pytest.raises(InputError, match="barrier 'attention', which the model does not have"):
        units.barrier_units(captured, ["attention"], (INPUT,))


def test_a_profile_knows_every_candidate_and_barrier(traced):
    model, network, space = traced
    profile = measure(model, network, space)
    assert all(profile.of(candidate) > 0 for candidate in space.candidates)
    assert profile.barriers.keys() == {barrier.name for barrier in network.barriers}
    assert profile.fixed_ns == sum(m.median_ns for m in profile.barriers.values()) > 0
    assert profile.original_ns == profile.fixed_ns + sum(map(profile.of, space.original))


def test_each_signature_and_barrier_is_measured_once(traced, measured_units):
    model, network, space = traced
    measure(model, network, space)
    assert len(measured_units) == len(space.signatures) + len(network.barriers)
    assert len(space.signatures) < len(space.candidates)


def test_no_convolution_is_timed_for_a_dropped_segment(measured_units):
    dropped = Signature(4, 4, (0, 0), (1, 1), (0,) * 4, (1, 1), 1, (8, 8), False, None)
    followed = replace(dropped, is_sum=True, activation="relu")
    assert units.is_free(dropped)
    assert not units.is_free(followed)
    module = units.MergedConvolution(followed)
    assert not list(module.parameters())
    value, residual = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(module(value, residual), torch.relu(value + residual))

    model = randomized(ZOO["basic"]())
    image = torch.zeros(1, 3, 16, 16)
    network = trace(model, image)
    space = enumerate_candidates(network)
    signatures = {c.signature for c in space.candidates if not c.kept}
    assert signatures
    assert all(signature.is_identity for signature in signatures)
    profile = measure(model, network, space, example_inputs=image)
    timed = {units.subject_of(s) for s in signatures} & set(measured_units)
    assert timed == {units.subject_of(s) for s in signatures if not units.is_free(s)}
    assert all(
        profile.measurement_of(c).median_ns == 0
        for c in space.candidates
        if units.is_free(c.signature)
    )


def test_what_a_study_holds_is_not_measured_again(traced, measured_units, tmp_path):
    model, network, space = traced
    first = measure(model, network, space, study=tmp_path / "run.db", deployed=model)
    count = len(measured_units)
    second = measure(model, network, space, study=tmp_path / "run.db", deployed=model)
    assert len(measured_units) == count == second.effort.num_known
    assert second.convolutions == first.convolutions
    assert second.barriers == first.barriers
    assert second.end_to_end == first.end_to_end


def test_a_killed_measurement_keeps_what_was_final(traced, measured_units, monkeypatch):
    model, network, space = traced
    study = Study()
    keep = study.add_measurements

    def interrupted(environment, measurements):
        keep(environment, dict(list(measurements.items())[:2]))
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "add_measurements", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(model, network, space, study=study)
    monkeypatch.undo()
    assert measure(model, network, space, study=study).effort.num_known == 2
    study.close()


@pytest.mark.parametrize("change", [{"threads": 2}, {"example_inputs": torch.zeros(3, 1, 8, 8)}])
def test_another_environment_is_measured_anew(traced, change):
    model, network, space = traced
    with Study() as study:
        measure(model, network, space, study=study)
        assert measure(model, network, space, study=study, **change).effort.num_known == 0


def test_the_environment_says_what_was_measured(traced):
    environment = measure(*traced, threads=1).environment
    assert (environment.batch, environment.threads, environment.dtype) == (2, 1, "fp32")
    assert environment.backend == "eager"
    assert torch.__version__ in environment.version
    assert environment.device.startswith("cpu ")


def test_the_whole_network_calibrates_the_prediction(traced):
    profile = measure(*traced, deployed=traced[0])
    assert profile.end_to_end is not None
    assert profile.calibration * profile.original_ns == profile.end_to_end.median_ns
    assert measure(*traced).calibration == 1


class Slow(nn.Module):
    """A network, and much that is in none of its parts."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input):
        for _ in range(5):
            output = self.model(input)
        return output


def test_a_whole_that_is_far_from_its_parts_is_doubted(traced, caplog):
    profile = measure(*traced, deployed=Slow(traced[0]).eval())
    assert profile.doubt is not None
    assert f"{float(profile.calibration):.2f} times the sum of its parts" in profile.doubt
    assert profile.doubt in caplog.messages
    agreed = replace(profile, end_to_end=Measurement(profile.original_ns, 0.0, 1, 0.0))
    assert agreed.doubt is None


def test_what_was_measured_on_another_heap_is_another_environment(traced):
    environment = measure(*traced, threads=1).environment
    assert environment.heap == heap_rule()
    elsewhere = replace(environment, heap="another")
    assert elsewhere.fingerprint != environment.fingerprint
    assert "heap" in environment.difference(elsewhere)


def test_measuring_changes_neither_model_nor_threads_nor_random_state(traced):
    model, network, space = traced
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    measure(model, network, space, threads=threads + 1)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_num_threads() == threads


def test_a_larger_convolution_takes_longer():
    small, large = (nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU()).eval() for c in (4, 64))
    model = nn.Sequential(nn.Conv2d(4, 64, 1), large, nn.Conv2d(64, 4, 1), small).eval()
    image = torch.zeros(1, 4, 32, 32)
    network = trace(model, image)
    space = enumerate_candidates(network)
    profile = measure(model, network, space, example_inputs=image, target_rsd=0.05)
    layers = {c.end: profile.of(c) for c in space.original}
    assert layers[2] > 3 * layers[4]


def test_networks_are_measured_against_each_other():
    small, large = (nn.Sequential(nn.Conv2d(1, c, 3), nn.Conv2d(c, c, 3)).eval() for c in (4, 64))
    measured = measure_modules(
        {"small": small, "large": large}, torch.zeros(1, 1, 32, 32), options=options(max_seconds=2)
    )
    assert list(measured) == ["small", "large"]
    assert measured["small"].median_ns < measured["large"].median_ns
    assert measured["small"].repeats >= rotation.MIN_REPEATS


def test_a_candidate_that_is_no_faster_than_its_layers_cannot_pay(traced):
    space = traced[2]
    cheap = {candidate.signature for candidate in space.original}
    equal = profile_of(space, [1000 for _ in space.signatures])
    slow = profile_of(space, [1000 if s in cheap else 10**6 for s in space.signatures])
    costly = {candidate for candidate in space.candidates if candidate.signature not in cheap}
    assert equal.unprofitable() == frozenset()
    assert slow.unprofitable() == costly != set()


def test_hopeless_is_what_is_far_slower_than_all_it_could_replace(traced):
    space = traced[2]
    cheap = {candidate.signature for candidate in space.original}
    costly = set(space.signatures) - cheap
    assert hopeless(space, dict.fromkeys(space.signatures, 1000)) == frozenset()
    assert hopeless(space, {s: 1000 if s in cheap else 10**6 for s in space.signatures}) == costly
    assert hopeless(space, {s: 10**6 if s in cheap else 1000 for s in space.signatures}) == set()


def test_replaced_latency_is_that_of_the_original_layers(traced):
    space = traced[2]
    profile = profile_of(space, range(1, 1 + len(space.signatures)))
    whole = next(c for c in space.candidates if (c.start, c.end) == (1, 3))
    assert profile.replaced_ns(whole) == sum(profile.of(c) for c in space.original if c.end > 1)


def test_a_candidate_of_another_space_is_refused(traced):
    profile = profile_of(CandidateSpace(traced[1], (), "layermerge"), [])
    with pytest.raises(InputError, match="another candidate space"):
        profile.of(traced[2].candidates[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_cuda_is_refused_where_there_is_none(traced):
    with pytest.raises(InputError, match=r"'cuda' was asked for.*choose device='cpu'"):
        measure(*traced, device="cuda")


@pytest.mark.parametrize("device", ["meta", "gpu", "cpu:x"])
def test_a_device_that_cannot_measure_is_refused(traced, device):
    with pytest.raises(InputError, match="device must be"):
        measure(*traced, device=device)


def test_a_model_on_another_device_than_the_input_is_refused(traced):
    with pytest.raises(InputError, match="the model is on the device meta"):
        measure(tiny_classifier().to("meta"), *traced[1:])


def test_candidates_of_another_network_are_refused(traced):
    model, network, _ = traced
    other = enumerate_candidates(trace(zoo("basic"), torch.zeros(2, 3, 16, 16)))
    with pytest.raises(InputError, match="space is of another network"):
        measure(model, network, other)


@pytest.mark.parametrize("batch", [10**12, 10**30])
def test_a_batch_that_no_memory_holds_is_refused(traced, batch):
    with pytest.raises(InputError, match=f"a batch of {batch} of the example inputs cannot be"):
        measure(*traced, batch=batch)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, 10**6])
def test_a_number_of_threads_that_is_none_is_refused(traced, threads):
    with pytest.raises(InputError, match=f"threads must be .*got {threads}"):
        measure(*traced, threads=threads)


def test_an_input_of_another_size_is_refused(traced):
    with pytest.raises(InputError, match=r"is \(2, 1, 9, 9\), but .* traced with \(2, 1, 8, 8\)"):
        measure(*traced, example_inputs=torch.zeros(2, 1, 9, 9))


def test_a_model_in_double_precision_is_measured_in_the_precision_that_was_asked_for(traced):
    double = tiny_classifier().double()
    profile = measure(double, *traced[1:], example_inputs=INPUT.double(), deployed=double)
    assert profile.environment.dtype == "fp32"
    assert next(double.parameters()).dtype == torch.float64


def test_batch_norm_in_training_mode_is_refused(traced):
    with pytest.raises(InputError, match="training mode"):
        measure(tiny_classifier().train(), *traced[1:])


def test_a_network_that_does_not_run_is_named():
    networks = {"base": nn.Linear(3, 1).eval()}
    with pytest.raises(
        MeasurementError, match="'base' does not run on the example inputs: Runtime"
    ):
        measure_modules(networks, torch.zeros(1, 4))


def test_no_networks_are_refused():
    with pytest.raises(InputError, match="at least one network"):
        measure_modules({}, INPUT)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_profile_is_measured_on_cuda(traced):
    profile = measure(*traced, threads=None, device="cuda", deployed=traced[0])
    assert profile.environment.device.startswith("cuda ")
    assert profile.original_ns > 0
    assert profile.end_to_end is not None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"channels_last": "no"}, "channels_last must be True or False, got 'no'"),
        ({"refine": 1}, "refine must be True or False, got 1"),
        ({"progress": "x"}, "progress must be True or False, got 'x'"),
        ({"device": ""}, "device must be like 'cpu' or 'cuda:0'; got an empty text"),
        ({"batch": 2.0}, "batch must be a whole number, at least 1; got 2.0"),
        ({"threads": True}, "threads must be a whole number, at least 1; got True"),
    ],
)
def test_options_that_are_none_are_named(changed, message):
    with pytest.raises(InputError, match=re.escape(message)):
        LatencyOptions(**changed)


def test_a_device_of_torch_is_a_device():
    assert LatencyOptions(device=torch.device("cpu")) == LatencyOptions(device="cpu")


def test_a_layer_that_has_two_names_is_found():
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), shared, nn.ReLU())
    model.same = shared
    model.eval()
    network = trace(model, torch.zeros(1, 3, 8, 8))
    space = enumerate_candidates(network)
    options = LatencyOptions(max_seconds=0.2)
    image = torch.zeros(1, 3, 8, 8)
    assert measure_latency(model, network, space, example_inputs=image, options=options).fixed_ns


def test_numbers_of_numpy_are_numbers():
    options = LatencyOptions(batch=np.int64(2), threads=np.int32(1))
    assert (type(options.batch), type(options.threads)) == (int, int)


def test_a_model_that_the_network_is_not_of_is_refused():
    network = trace(tiny_classifier(), torch.zeros(1, 1, 8, 8))
    space = enumerate_candidates(network)
    other = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3))
    with pytest.raises(InputError, match=r"model is not what .* was traced from: layer '0' has w"):
        measure_latency(other, network, space, example_inputs=torch.zeros(1, 1, 8, 8))


def test_what_a_study_holds_is_refined_only_if_asked(tmp_path):
    model, image = tiny_classifier(), torch.zeros(1, 1, 8, 8)
    network = trace(model, image)
    space = enumerate_candidates(network)

    def measure(**changed):
        options = LatencyOptions(threads=1, max_seconds=0.3, **changed)
        return measure_latency(
            model, network, space, example_inputs=image, options=options, study=tmp_path / "run.db"
        )

    rough = measure(target_rsd=0.9)
    assert measure(target_rsd=1e-9).convolutions == rough.convolutions
    refined = measure(target_rsd=1e-9, refine=True)
    # What is too slow to be of use is timed a few times only, whatever the precision.
    imprecise = {*rough.imprecise(1e-9)}
    needed = [c.signature for c in space.original if str(c.signature) in imprecise]
    pairs = [(refined.convolutions[s], rough.convolutions[s]) for s in needed]
    assert any(new.repeats > old.repeats for new, old in pairs)
    assert all(new == old or new.spread < old.spread for new, old in pairs)
    for signature, latency in rough.convolutions.items():
        if latency.spread <= 1e-9:
            assert refined.convolutions[signature] == latency
    assert measure(target_rsd=0.9, refine=True).convolutions == refined.convolutions


def test_what_is_too_slow_to_matter_need_not_be_precise():
    network = trace(tiny_classifier(), torch.zeros(1, 1, 8, 8))
    space = enumerate_candidates(network)
    originals = {candidate.signature for candidate in space.original}
    slow = {s: 100_000 for s in space.signatures if s not in originals}
    environment = Environment("eager", "1", "cpu", "", "fp32", "channels_first", 1, 1, "clock")
    medians = slow | dict.fromkeys(originals, 1000)
    latencies = {s: Measurement(ns, 0.5, 3, 0.0) for s, ns in medians.items()}
    rough = Measurement(1000, 0.5, 3, 0.0)
    profile = LatencyProfile(space, environment, latencies, {"pool": rough}, rough)
    fixed = {"barrier pool", "the whole network"}
    assert {*profile.imprecise(0.02)} == {str(s) for s in originals} | fixed
    assert profile.imprecise(0.5) == ()


@pytest.mark.parametrize(("whole_ns", "told"), [(3, "0.001 times"), (30_000, "10.00 times")])
def test_a_doubt_says_what_may_be_the_matter(traced, whole_ns, told):
    space = traced[2]
    environment = Environment("eager", "1", "cpu", "", "fp32", "channels_first", 1, 1, "clock")
    latencies = dict.fromkeys(space.signatures, Measurement(1000, 0.0, 6, 0.0))
    whole = Measurement(whole_ns, 0.0, 6, 0.0)
    profile = LatencyProfile(space, environment, latencies, {}, whole)
    assert profile.original_ns == 1000 * len(space.original)
    assert f"takes {told} the sum of its parts" in profile.doubt
    is_slower = whole_ns > profile.original_ns
    assert ("a backend that starts operations faster" in profile.doubt) == is_slower
    assert ("If a table was imported, check it" in profile.doubt) != is_slower


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"example_inputs": torch.zeros(0, 3, 8, 8)}, "example_inputs hold no images: give some"),
        (
            {"subjects": {"b": "name"}},
            r"subjects must name each of the modules \['a'\], got \['b'\]",
        ),
    ],
)
def test_modules_are_measured_on_images_and_all_named(changed, message):
    given = {"example_inputs": torch.zeros(1, 3, 8, 8), **changed}
    with pytest.raises(InputError, match=message):
        measure_modules({"a": nn.Conv2d(3, 3, 3).eval()}, **given)


def test_what_is_deployed_is_a_module(traced):
    with pytest.raises(InputError, match="deployed must be a Module, got str"):
        measure(*traced, deployed="resnet")


def test_refining_never_makes_a_result_worse(traced, monkeypatch):
    model, network, space = traced
    good = Measurement(1000, 0.03, 100, 0.1)

    def measured_as(measurement):
        def measure(units, *, keep, **options):
            found = dict.fromkeys(units, measurement)
            keep(found)
            return protocol.Outcome(found)

        monkeypatch.setattr(bench, "measure_units", measure)
        options = LatencyOptions(threads=1, refine=True)
        profile = measure_latency(
            model, network, space, example_inputs=INPUT, options=options, study=study
        )
        return {*profile.convolutions.values()}

    with Study() as study:
        assert measured_as(good) == {good}
        assert measured_as(Measurement(2000, 0.5, 6, 0.1)) == {good}  # and so the study says
        better = Measurement(1100, 0.025, 50, 0.1)
        assert measured_as(better) == {better}
        final = Measurement(1200, 0.02, 50, 0.1)
        assert measured_as(final) == {final}


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_layout_is_that_which_is_named(channels_last):
    placement = Placement(torch.device("cpu"), torch.float32, channels_last)
    expected = torch.channels_last if channels_last else torch.contiguous_format
    for format in (torch.channels_last, torch.contiguous_format):
        image = torch.zeros(2, 3, 8, 8).to(memory_format=format)
        assert placement.values({"image": image})["image"].is_contiguous(memory_format=expected)
        layer = nn.Conv2d(3, 4, 3).eval().to(memory_format=format)
        weight = placement.copy(layer).weight
        assert weight.is_contiguous(memory_format=expected)
        assert layer.weight.is_contiguous(memory_format=format)


ANALYTIC = LatencyOptions(backend="analytic", roofline=Roofline(0.01, 1.0))


def test_another_network_is_deployed_and_not_taken_for_the_first(traced):
    model, network, space = traced
    wide = nn.Sequential(model, nn.Linear(3, 4000)).eval()
    with Study() as study:
        found = [
            measure_latency(
                model,
                network,
                space,
                example_inputs=INPUT,
                deployed=deployed,
                options=ANALYTIC,
                study=study,
            )
            for deployed in (model, wide, model)
        ]
    first, second, third = (profile.end_to_end.median_ns for profile in found)
    assert first == third < second
    assert found[2].effort.num_known == found[2].effort.num_units


def test_networks_of_one_name_and_other_inputs_are_measured_anew():
    layer = nn.Conv2d(1, 1, 3)
    names = {"net": "mine", "same": "mine"}
    with Study() as study:
        sizes = [
            measure_modules(
                {"net": layer, "same": nn.Conv2d(1, 64, 3)},
                torch.zeros(1, 1, size, size),
                options=ANALYTIC,
                study=study,
                subjects=names,
            )
            for size in (8, 64, 8)
        ]
    assert sizes[0] == sizes[2]
    assert sizes[0]["net"].median_ns < sizes[1]["net"].median_ns
    assert sizes[0]["net"].median_ns < sizes[0]["same"].median_ns


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"options": None}, "options must be a LatencyOptions, got NoneType"),
        ({"subjects": "abc"}, "subjects must be a Mapping, got str"),
        ({"subjects": {"net": None}}, r"subjects\['net'\] must be a str, got NoneType"),
        (
            {"subjects": {1: "a", "b": "c"}},
            r"must name each .* \['net'\], got \[1, 'b'",
        ),
    ],
)
def test_arguments_of_measuring_modules_are_named(changed, message):
    with pytest.raises(InputError, match=message):
        measure_modules({"net": nn.Conv2d(1, 1, 3)}, INPUT, **changed)


def test_a_latency_of_nothing_is_damage(traced):
    model, network, space = traced
    with Study() as study:
        profile = measure_latency(
            model, network, space, example_inputs=INPUT, options=ANALYTIC, study=study
        )
        key = profile.environment.fingerprint
        nothing = dict.fromkeys(study.measurements(key), Measurement(0, 0.0, 1, 0.0))
        study.add_measurements(key, nothing)
        with pytest.raises(InputError, match=r"is damaged: .* takes 0 ns"):
            measure_latency(
                model, network, space, example_inputs=INPUT, options=ANALYTIC, study=study
            )


def test_statistics_that_are_not_finite_are_named_before_anything_is_measured():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)).eval()
    model[1].running_var[2] = float("nan")
    with pytest.raises(InputError, match=r"batch norm '1' of the model holds NaN .* running_var"):
        trace(model, INPUT)


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")  # of the switch itself
def test_other_kernels_are_another_environment(traced):
    environment = measure(*traced).environment
    with torch.backends.mkldnn.flags(enabled=False):
        other = measure(*traced).environment
    assert other.version == f"{environment.version}, oneDNN off"
