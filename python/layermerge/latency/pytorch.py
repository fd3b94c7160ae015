"""Measure latency in eager PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from layermerge.candidates import CandidateSpace
from layermerge.errors import InputError
from layermerge.graph import (
    ExampleInputs,
    bind_inputs,
    capture,
    graph_arguments,
)
from layermerge.latency.clocks import (
    clock_name,
    clock_of,
    inference,
    processor_name,
    reference_call,
    resolve_device,
)
from layermerge.latency.profile import Environment, LatencyProfile, hopeless
from layermerge.latency.protocol import Call, Precision, measure_units
from layermerge.latency.units import (
    barrier_calls,
    convolution_calls,
    subject_of,
    subject_of_barrier,
    subject_of_network,
)
from layermerge.model_checks import check_evaluation_mode
from layermerge.network import Network
from layermerge.progress import progress_bar
from layermerge.store import Measurement, StudyLike, opened


def measure_latency(
    model: nn.Module,
    network: Network,
    space: CandidateSpace,
    *,
    example_inputs: ExampleInputs,
    deployed: nn.Module | None = None,
    device: str | torch.device | None = None,
    threads: int | None = None,
    target_rsd: float = 0.02,
    max_seconds: float = 120.0,
    study: StudyLike = None,
    progress: bool = True,
) -> LatencyProfile:
    """Measure what every candidate and every fixed part of a network costs.

    Each distinct signature is measured once, as it will run: convolution with bias, residual
    addition, activation, at its real input size, in float32. All units run in turn, so that the
    caches are as cold as in the network (see `layermerge.latency.protocol`). A convolution that is
    more than twice as slow as all that it could replace is timed a few times only.

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
    device : str or torch.device, optional
        Where to measure, by default where model and inputs are.
    threads : int, optional
        Threads within an operation on the CPU, by default torch's setting.
    target_rsd : float
        Relative half-width of the median's 95 % confidence interval at which a unit is done.
    max_seconds : float
        Time for all units together, after which fewer timings must do (at least six).
    study : Study or path, optional
        Keeps results as they arrive; what it holds for this environment is not measured again.
    progress : bool
        Show a progress bar on a terminal.

    Returns
    -------
    LatencyProfile

    Raises
    ------
    InputError
        If the arguments do not fit together, or the device cannot be used.
    """
    precision = Precision(target_rsd, max_seconds)
    placed = _place(model, example_inputs, device)
    batch = _check_inputs(network, placed)
    with inference(threads), opened(study) as store:
        units = _units(network, space, placed, batch)
        if deployed is not None:
            call = _checked_call(_place(deployed, example_inputs, placed.device), "deployed")
            units[subject_of_network(network)] = call
        environment = _environment(placed.device, batch)
        known = store.measurements(environment.fingerprint)
        results = _measure(
            units,
            placed.device,
            precision,
            partial(_hopeless, space),
            known,
            partial(store.add_measurements, environment.fingerprint),
            progress,
        )
    return LatencyProfile(
        space,
        environment,
        {signature: results[subject_of(signature)] for signature in space.signatures},
        {
            barrier.name: results[subject_of_barrier(network, barrier.name)]
            for barrier in network.barriers
        },
        results.get(subject_of_network(network)),
        len(known.keys() & units.keys()),
    )


def measure_modules(
    modules: Mapping[str, nn.Module],
    example_inputs: ExampleInputs,
    *,
    device: str | torch.device | None = None,
    threads: int | None = None,
    target_rsd: float = 0.02,
    max_seconds: float = 120.0,
    progress: bool = True,
) -> dict[str, Measurement]:
    """Measure whole networks against each other, in turn, end to end.

    Parameters
    ----------
    modules : mapping of str to torch.nn.Module
        In evaluation mode. Left as they are.
    example_inputs : tensor, tuple or dict
        What each of them is called with.
    device, threads, target_rsd, max_seconds, progress
        As in `measure_latency`.

    Returns
    -------
    dict of str to Measurement
    """
    precision = Precision(target_rsd, max_seconds)
    placed = {name: _place(module, example_inputs, device) for name, module in modules.items()}
    if len({place.device for place in placed.values()}) != 1:
        raise InputError("modules must hold at least one network, and all on the same device")
    (place,) = {place.device for place in placed.values()}
    with inference(threads):
        units = {name: _checked_call(module, name) for name, module in placed.items()}
        return _measure(
            units, place, precision, lambda estimates_ns: (), {}, lambda final: None, progress
        )


@dataclass(frozen=True)
class _Placed:
    """A model and its named inputs, on the device where they are measured."""

    model: nn.Module
    inputs: dict[str, Any]
    device: torch.device


def _place(
    model: nn.Module, example_inputs: ExampleInputs, device: str | torch.device | None
) -> _Placed:
    check_evaluation_mode(model)
    inputs = bind_inputs(model, example_inputs)
    if device is not None:
        place = resolve_device(device)
        model = copy.deepcopy(model).to(place)
        inputs = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(place), inputs)
    tensors = [value for value in inputs.values() if isinstance(value, Tensor)]
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device != tensors[0].device:
            raise InputError(
                f"{name} of the model is on {tensor.device}, the example input on "
                f"{tensors[0].device}: move one to the other's device, or name a `device`"
            )
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise InputError(
                f"{name} of the model is {tensor.dtype}, and latency is measured in float32: "
                "give model.float() and float32 inputs"
            )
    return _Placed(model, inputs, resolve_device(tensors[0].device))


def _check_inputs(network: Network, placed: _Placed) -> int:
    """Compare the inputs with those that were traced; return the batch size."""
    for spec in network.inputs:
        value = placed.inputs.get(spec.name)
        if not isinstance(value, Tensor) or tuple(value.shape[1:]) != spec.shape[1:]:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"example input {spec.name!r} is {got}, but the network was traced with "
                f"{spec.shape}: only the batch size may differ"
            )
    return int(placed.inputs[network.inputs[0].name].shape[0])


def _units(network: Network, space: CandidateSpace, placed: _Placed, batch: int) -> dict[str, Call]:
    signatures = space.signatures
    calls = convolution_calls(signatures, batch, placed.device)
    units = dict(zip(map(subject_of, signatures), calls, strict=True))
    captured = capture(placed.model, placed.inputs)
    names = [barrier.name for barrier in network.barriers]
    fixed = barrier_calls(captured, names, graph_arguments(captured, placed.inputs))
    return units | {subject_of_barrier(network, name): call for name, call in fixed.items()}


def _checked_call(placed: _Placed, name: str) -> Call:
    """A call of a whole network, after one that shows that it runs."""
    try:
        placed.model(**placed.inputs)
    except Exception as error:
        raise InputError(f"network {name!r} does not run on the example inputs: {error}") from error
    return partial(placed.model, **placed.inputs)


def _environment(device: torch.device, batch: int) -> Environment:
    return Environment(
        backend=f"torch-eager {torch.__version__}",
        device=processor_name(device),
        dtype="float32",
        batch=batch,
        threads=torch.get_num_threads() if device.type == "cpu" else 0,
        clock=clock_name(device),
    )


def _hopeless(space: CandidateSpace, estimates_ns: Mapping[str, int]) -> frozenset[str]:
    """`hopeless`, in terms of the names of a study."""
    estimates = {signature: estimates_ns[subject_of(signature)] for signature in space.signatures}
    return frozenset(map(subject_of, hopeless(space, estimates)))


def _measure(
    units: Mapping[str, Call],
    device: torch.device,
    precision: Precision,
    give_up: Callable[[Mapping[str, int]], Collection[str]],
    known: Mapping[str, Measurement],
    keep: Callable[[dict[str, Measurement]], None],
    progress: bool,
) -> dict[str, Measurement]:
    with progress_bar("Measuring latency", len(units), enabled=progress) as show:
        return measure_units(
            units,
            reference=reference_call(device),
            clock=clock_of(device),
            precision=precision,
            give_up=give_up,
            known=known,
            keep=keep,
            show=show,
        )
