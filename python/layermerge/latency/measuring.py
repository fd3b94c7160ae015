"""Measure a network's candidates, its fixed parts and whole networks, by any backend."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn

from layermerge.arguments import check_argument
from layermerge.candidates import CandidateSpace, check_space
from layermerge.checks import check_truth
from layermerge.errors import InputError, LayerMergeError, MeasurementError
from layermerge.graph import ExampleInputs, bind_inputs, capture, graph_arguments
from layermerge.latency.bench import Bench, Builder
from layermerge.latency.environment import Environment
from layermerge.latency.exchange import check_origin, origin_path, read_origin, signature_latencies
from layermerge.latency.options import DEFAULT_OPTIONS, LatencyOptions
from layermerge.latency.placement import inference, with_batch
from layermerge.latency.profile import MAX_WORK, Effort, LatencyProfile, hopeless, overworked
from layermerge.latency.protocol import Outcome
from layermerge.latency.rotation import reason_of
from layermerge.latency.units import (
    BarrierUnit,
    Buffers,
    MergedConvolution,
    barrier_units,
    is_free,
    subject_of,
    subject_of_whole,
)
from layermerge.network import Network
from layermerge.store import MEMORY, Measurement, StudyLike, opened

_log = logging.getLogger(__name__)

FREE = Measurement(0, 0.0, 0, 0.0)
_TOO_MUCH_WORK = f"not worth running: more than {MAX_WORK:g} times the FLOPs of what it replaces"


def measure_latency(
    model: nn.Module,
    network: Network,
    space: CandidateSpace,
    *,
    example_inputs: ExampleInputs,
    deployed: nn.Module | None = None,
    options: LatencyOptions = DEFAULT_OPTIONS,
    study: StudyLike = None,
) -> LatencyProfile:
    """Measure what every candidate and every fixed part of a network costs.

    Each distinct signature is measured once, as it will run: convolution with bias, residual
    addition, activation, at its real input size. All units run in turn, so that the caches are as
    cold as in the network (see `layermerge.latency.protocol`). A convolution that is more than
    twice as slow as all that it could replace is timed a few times only, one with 16 times the
    FLOPs not at all. A candidate that the device cannot run is given up, with the reason.

    Parameters
    ----------
    model : torch.nn.Module
        The model that `network` was traced from, in evaluation mode. Left as it is.
    network : Network
    space : CandidateSpace
    example_inputs : tensor, tuple or dict
        Of the shapes that were traced; the batch size may be another, and is measured at.
    deployed : torch.nn.Module, optional
        The original network as it would be deployed, batch norm folded. Measured as a whole along
        with its parts, it calibrates the prediction.
    options : LatencyOptions
    study : Study or path, optional
        Keeps results as they arrive; what it holds for this environment is not measured again.

    Returns
    -------
    LatencyProfile

    Raises
    ------
    InputError
        If the arguments do not fit together, or the device cannot be used.
    MeasurementError
        If a part of the original network cannot be run.
    """
    began = time.monotonic()
    check_space(network, space)
    check_argument("options", options, LatencyOptions)
    if deployed is not None:
        check_argument("deployed", deployed, nn.Module)
    captured = _captured(model, network, example_inputs)
    inputs = with_batch(bind_inputs(model, example_inputs), options.batch)
    example = _check_inputs(network, inputs)
    with inference(options.threads), opened(study) as store:
        bench = Bench(options, example, len(example), store)
        barriers = _barriers(bench, captured, network, inputs)
        builders = _builders(bench, space, barriers, len(example))
        whole = None
        if deployed is not None:
            whole = subject_of_whole(f"deployed {network.fingerprint}", deployed, inputs)
            builders[whole] = partial(bench.network, deployed, inputs)
        outcome, num_known = bench.measure(builders, partial(_hopeless, space))
    _check_original(space, barriers, whole, outcome)
    profile = _profile(space, bench.environment, barriers, whole, outcome, num_known, began)
    if profile.doubt:
        _log.warning("%s", profile.doubt)
    return profile


def import_table(
    path: str | Path,
    model: nn.Module,
    network: Network,
    space: CandidateSpace,
    *,
    example_inputs: ExampleInputs,
    study: StudyLike,
    options: LatencyOptions = DEFAULT_OPTIONS,
    allow_foreign: bool = False,
    replace: bool = False,
) -> int:
    """Put a table that was measured before into a study, so that it is not measured again.

    Parameters
    ----------
    path : path
        CSV or Parquet, in the columns of the authors' programs, with its origin beside it if
        `write_profile` wrote it.
    model, network, space, example_inputs, options
        As for `measure_latency`.
    study : Study or path
    allow_foreign : bool
        Take a table that was measured elsewhere, or that does not say where, as if it had been
        measured here.
    replace : bool
        Whether its latencies take the place of those that the study holds already.

    Returns
    -------
    int
        Number of distinct signatures that the table has a latency for.

    Raises
    ------
    InputError
        If the table is of another network, or foreign and that is not allowed.
    """
    check_space(network, space)
    check_argument("options", options, LatencyOptions)
    for name, value in (("allow_foreign", allow_foreign), ("replace", replace)):
        check_truth(name, value)
    captured = _captured(model, network, example_inputs)
    inputs = with_batch(bind_inputs(model, example_inputs), options.batch)
    example = _check_inputs(network, inputs)
    origin = read_origin(path)
    latencies = signature_latencies(path, space, origin.barriers if origin else {})
    for signature, measurement in latencies.items():
        if not (measurement.median_ns or is_free(signature)):
            raise InputError(f"{path} says that {signature} takes 0 ms: is it in milliseconds?")
    if study is None or str(study) == MEMORY:
        raise InputError("study must be a file, or a Study: one in memory ends with this call")
    found = {subject_of(signature): latency for signature, latency in latencies.items()}
    with inference(options.threads), opened(study) as store:
        bench = Bench(options, example, len(example), store)
        barriers = _barriers(bench, captured, network, inputs)
        subjects = {name: unit.subject for name, unit in barriers.items()}
        check_origin(path, origin, bench.environment, space, subjects, allow_foreign=allow_foreign)
        if origin is not None and origin.network == network.fingerprint:
            if unknown := sorted(origin.barriers.keys() - subjects.keys()):
                raise InputError(
                    f"{origin_path(path)} has a latency of {unknown[0]!r}, which this network has "
                    "not: it was changed; export the table again"
                )
            found |= {subjects[name]: m for name, m in origin.barriers.items() if m != FREE}
            if origin.end_to_end is not None:
                found[origin.deployed] = origin.end_to_end
        held = store.measurements(bench.environment.fingerprint).keys() & found.keys()
        if held and not replace:
            _log.warning(
                "%d latencies of %s are not taken, for study %s holds them already: replace=True, "
                "or --replace on the command line, takes those of the table",
                len(held),
                path,
                store.path,
            )
            found = {subject: found[subject] for subject in found.keys() - held}
        store.add_measurements(bench.environment.fingerprint, found)
    return len(latencies)


def _captured(model: nn.Module, network: Network, example_inputs: ExampleInputs) -> fx.GraphModule:
    """Capture the model, which must have the layers of the network."""
    captured = capture(model, example_inputs, borrow_weights=True)
    modules = dict(captured.named_modules(remove_duplicate=False))
    for layer in network.layers:
        weight = getattr(modules.get(layer.name), "weight", None)
        channels = layer.out_channels, layer.in_channels // layer.groups
        if weight is None or weight.shape[:2] != channels:
            found = "has none" if weight is None else f"has one of shape {tuple(weight.shape)}"
            raise InputError(
                f"model is not what {network.name} was traced from: layer {layer.name!r} has "
                f"weights for {channels[1]} to {channels[0]} channels there, and the model {found}"
            )
    return captured


def _check_inputs(network: Network, inputs: Mapping[str, Any]) -> Tensor:
    """Compare the inputs with those that were traced; return the first.

    Raises
    ------
    InputError
    """
    examples = network.inputs[0].shape[:1]
    for spec in network.inputs:
        value = inputs.get(spec.name)
        fixed = 1 if spec.shape[:1] == examples else 0  # from which dimension on
        if (
            not isinstance(value, Tensor)
            or value.ndim != len(spec.shape)
            or tuple(value.shape[fixed:]) != spec.shape[fixed:]
        ):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"example input {spec.name!r} is {got}, but the network was traced with "
                f"{spec.shape}: only the batch size may differ"
            )
    first: Tensor = inputs[network.inputs[0].name]
    if not len(first):
        raise InputError(f"example input {network.inputs[0].name!r} holds no images: give some")
    return first


def _barriers(
    bench: Bench, captured: fx.GraphModule, network: Network, inputs: Mapping[str, Any]
) -> dict[str, BarrierUnit]:
    placed = bench.placement.copy(captured)
    assert isinstance(placed, fx.GraphModule)
    arguments = graph_arguments(placed, bench.placement.values(inputs))
    try:
        return barrier_units(placed, [barrier.name for barrier in network.barriers], arguments)
    except LayerMergeError:
        raise
    except Exception as error:
        batch, traced = bench.environment.batch, network.inputs[0].shape[0]
        advice = "Try a smaller batch, or another dtype"
        if batch != traced:
            advice = f"It was traced at batch {traced}: its code may be bound to that"
        raise MeasurementError(
            f"the network does not run on {bench.environment.device} in {bench.options.dtype} at "
            f"batch {batch}: {reason_of(error)}. {advice}"
        ) from error


def _builders(
    bench: Bench, space: CandidateSpace, barriers: Mapping[str, BarrierUnit], batch: int
) -> dict[str, Builder]:
    screened = overworked(space)
    signatures = [s for s in space.signatures if s not in screened and not is_free(s)]
    buffers = Buffers(signatures, batch, bench.placement)
    builders: dict[str, Builder] = {
        subject_of(s): partial(
            bench.operation, partial(MergedConvolution, s), partial(buffers.inputs_of, s)
        )
        for s in signatures
    }
    for unit in barriers.values():
        if unit.does_compute or bench.options.backend == "eager":
            builders[unit.subject] = partial(bench.operation, unit.make, unit.get_inputs)
    return builders


def _profile(
    space: CandidateSpace,
    environment: Environment,
    barriers: Mapping[str, BarrierUnit],
    whole: str | None,
    outcome: Outcome,
    num_known: int,
    began: float,
) -> LatencyProfile:
    found = outcome.measurements
    subjects = {signature: subject_of(signature) for signature in space.signatures}
    convolutions = {s: found.get(n, FREE) for s, n in subjects.items() if is_free(s) or n in found}
    fixed = {name: found.get(unit.subject, FREE) for name, unit in barriers.items()}
    effort = Effort(
        num_entries=sum(c.signature in convolutions for c in space.candidates)
        + len(fixed)
        + (whole is not None),
        num_units=len(found),
        num_known=num_known,
        seconds=time.monotonic() - began,
        disturbed=outcome.disturbed,
        drift=outcome.drift,
    )
    failures = {
        signature: outcome.failures.get(subject, _TOO_MUCH_WORK)
        for signature, subject in subjects.items()
        if signature not in convolutions
    }
    return LatencyProfile(
        space,
        environment,
        convolutions,
        fixed,
        None if whole is None else found[whole],
        failures,
        effort,
        whole or "",
        {name: unit.subject for name, unit in barriers.items()},
    )


def _hopeless(space: CandidateSpace, estimates_ns: Mapping[str, int]) -> frozenset[str]:
    """`hopeless`, in terms of the names of a study."""
    subjects = {signature: subject_of(signature) for signature in space.signatures}
    estimates = {s: estimates_ns[name] for s, name in subjects.items() if name in estimates_ns}
    return frozenset(subjects[signature] for signature in hopeless(space, estimates))


def _check_original(
    space: CandidateSpace,
    barriers: Mapping[str, BarrierUnit],
    deployed: str | None,
    outcome: Outcome,
) -> None:
    """Refuse to go on without a part that every prediction needs."""
    layers = {
        f"layer {layer.index} ({layer.name})": subject_of(candidate.signature)
        for layer, candidate in zip(space.network.layers, space.original, strict=True)
    }
    fixed = {f"barrier {name}": unit.subject for name, unit in barriers.items()}
    whole = {} if deployed is None else {"the whole network": deployed}
    for part, subject in (layers | fixed | whole).items():
        if reason := outcome.failures.get(subject):
            advice = "Try a smaller batch, or another device, dtype or backend"
            if "C++ compiler" in reason:
                advice = "Install a C++ compiler, such as g++, or choose another backend"
            raise MeasurementError(f"{part} cannot be measured: {reason}. {advice}")
