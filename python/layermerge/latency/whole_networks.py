"""Measure whole networks against each other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from layermerge.arguments import check_argument
from layermerge.errors import InputError, MeasurementError
from layermerge.graph import ExampleInputs, bind_inputs
from layermerge.latency.bench import Bench
from layermerge.latency.options import DEFAULT_OPTIONS, LatencyOptions
from layermerge.latency.placement import inference, with_batch
from layermerge.latency.units import subject_of_whole
from layermerge.store import Measurement, StudyLike, opened


def measure_modules(
    modules: Mapping[str, nn.Module],
    example_inputs: ExampleInputs,
    *,
    options: LatencyOptions = DEFAULT_OPTIONS,
    study: StudyLike = None,
    subjects: Mapping[str, str] | None = None,
) -> dict[str, Measurement]:
    """Measure whole networks against each other, in turn, end to end.

    Parameters
    ----------
    modules : mapping of str to torch.nn.Module
        In evaluation mode. Left as they are.
    example_inputs : tensor, tuple or dict
        What each of them is called with.
    options : LatencyOptions
    study : Study or path, optional
        Has the pace of the device when the study began, to which latencies are scaled.
    subjects : mapping of str to str, optional
        The name of each network in the study, which keeps its latency by that, its structure and
        the shapes of its inputs, and does not measure it again. Without them results are not kept.

    Returns
    -------
    dict of str to Measurement

    Raises
    ------
    InputError
        If there are no networks.
    MeasurementError
        If one of them does not run.
    """
    check_argument("modules", modules, Mapping)
    if not modules:
        raise InputError("modules must hold at least one network")
    for name, module in modules.items():
        check_argument(f"modules[{name!r}]", module, nn.Module)
    check_argument("options", options, LatencyOptions)
    if subjects is not None:
        check_argument("subjects", subjects, Mapping)
        if subjects.keys() != modules.keys():
            raise InputError(
                f"subjects must name each of the modules {[*modules]}, got {[*subjects]}"
            )
        for name, subject in subjects.items():
            check_argument(f"subjects[{name!r}]", subject, str)
    inputs = {
        name: with_batch(bind_inputs(module, example_inputs), options.batch)
        for name, module in modules.items()
    }
    example = next(v for v in next(iter(inputs.values())).values() if isinstance(v, Tensor))
    if not len(example):
        raise InputError("example_inputs hold no images: give some")
    with inference(options.threads), opened(study) as store:
        bench = Bench(options, example, len(example), store)
        named = {
            name: subject_of_whole((subjects or {}).get(name, name), modules[name], inputs[name])
            for name in modules
        }
        outcome, _ = bench.measure(
            {named[name]: partial(bench.network, modules[name], inputs[name]) for name in modules},
            keeps=subjects is not None,
        )
    for name in modules:
        if reason := outcome.failures.get(named[name]):
            raise MeasurementError(f"network {name!r} does not run on the example inputs: {reason}")
    return {name: outcome.measurements[named[name]] for name in modules}
