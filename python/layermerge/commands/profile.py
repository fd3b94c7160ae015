"""`layermerge profile MODEL`: what candidates and fixed parts cost, and how far to trust it."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layermerge.commands.inputs import example_for, explaining_input
from layermerge.commands.json_output import print_document
from layermerge.commands.options import (
    add_latency,
    add_model,
    add_space,
    announce_stages,
    at_least,
    latency_options,
    search_space,
)
from layermerge.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from layermerge.candidates import CandidateSpace
    from layermerge.graph import ExampleInputs
    from layermerge.latency.fidelity import Fidelity
    from layermerge.latency.options import LatencyOptions
    from layermerge.latency.profile import LatencyProfile
    from layermerge.network import Network

_log = logging.getLogger(__name__)

IF_INTERRUPTED = ": with --study, the same command goes on where it was"
SUMMARY = "Measure what a model's candidates and fixed parts cost, and check the predictions."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    add_model(parser)
    parser.add_argument(
        "--study", metavar="FILE.db", help="keep measurements here; what it holds is not repeated"
    )
    parser.add_argument(
        "--plans",
        type=at_least(0, 1000),
        default=5,
        metavar="N",
        help="random plans to measure whole, against their predictions; default: 5",
    )
    parser.add_argument(
        "--slowest", type=at_least(0), default=10, metavar="N", help="rows to show; default: 10"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="OUT",
        help="draw predicted against measured: .png, .svg, .pdf or .html",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the plans; default: 0")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    add_latency(parser)
    add_space(parser)


@dataclass(frozen=True)
class Subject:
    """A model to measure, and all that is derived from it."""

    model: nn.Module
    inputs: ExampleInputs
    network: Network
    space: CandidateSpace

    @cached_property
    def base(self) -> nn.Module:
        """The original network as deployed, batch norm folded."""
        from layermerge.merging import merge
        from layermerge.plan import original_plan
        from layermerge.rewriting import rewrite

        return merge(rewrite(self.model, original_plan(self.network)))

    def profile(self, options: LatencyOptions, study: str | None) -> LatencyProfile:
        """Measure it."""
        from layermerge.latency.measuring import measure_latency

        return measure_latency(
            self.model,
            self.network,
            self.space,
            example_inputs=self.inputs,
            deployed=self.base,
            options=options,
            study=study,
        )

    def fidelity(
        self, profile: LatencyProfile, options: LatencyOptions, arguments: argparse.Namespace
    ) -> Fidelity | None:
        """Measure the whole network, and random plans; None if there are none to try."""
        from layermerge.latency.fidelity import measured_part, random_plans
        from layermerge.latency.trials import try_plans

        space = measured_part(profile)
        if not arguments.plans:
            return None
        if all(candidate.is_original for candidate in space.candidates):
            _log.warning("no layer of this network can be merged: there are no plans to try")
            return None
        plans = random_plans(space, arguments.plans, arguments.seed)
        return try_plans(
            self.model,
            self.base,
            profile,
            {f"plan {number}": plan for number, plan in enumerate(plans, start=1)},
            example_inputs=self.inputs,
            options=options,
            study=arguments.study,
        )


def load_subject(arguments: argparse.Namespace) -> Subject:
    """Load the model that is named, and enumerate its candidates."""
    from layermerge.models import load_model_and_inputs
    from layermerge.tracing import trace

    search = search_space(arguments)
    model, inputs = load_model_and_inputs(
        arguments.model, weights=arguments.weights, pretrained=arguments.pretrained
    )
    inputs = example_for(model, arguments.input, inputs)
    with explaining_input(model, arguments.model):
        network = trace(model, inputs, remove=search.remove)
    return Subject(model, inputs, network, search.enumerate(network))


def run(arguments: argparse.Namespace) -> int:
    """Measure, try plans out, print, and draw if asked to."""
    from layermerge.latency.plot import check_plot_path, plot_fidelity

    if arguments.plot is not None:
        check_plot_path(arguments.plot)
        if not arguments.plans:
            raise InputError("--plot draws random plans: give --plans, at least 1")
    announce_stages()
    subject, options = load_subject(arguments), latency_options(arguments)
    profile = subject.profile(options, arguments.study)
    fidelity = subject.fidelity(profile, options, arguments)
    document = _document(profile, fidelity, options.target_rsd)
    if arguments.json:
        print_document(document)
    else:
        from layermerge.report.profile_tables import print_profile

        print_profile(document, arguments.slowest)
    if arguments.plot is not None and fidelity is not None:
        plot_fidelity(fidelity, arguments.plot)
    return 0


def _document(
    profile: LatencyProfile, fidelity: Fidelity | None, target_rsd: float
) -> dict[str, Any]:
    network = profile.space.network
    return {
        "model": network.name,
        "environment": asdict(profile.environment),
        "effort": {**asdict(profile.effort), "num_saved": profile.effort.num_saved},
        "original_ms": profile.original_ns / 1e6,
        "fixed_ms": profile.fixed_ns / 1e6,
        "calibration": float(profile.calibration),
        "imprecise": len(profile.imprecise(target_rsd)),
        "failures": {str(signature): reason for signature, reason in profile.failures.items()},
        "candidates": [
            {
                "candidate": candidate.key,
                "computes": str(candidate.signature),
                "latency_ms": profile.of(candidate) / 1e6,
                "spread": profile.measurement_of(candidate).spread,
                "replaces_ms": profile.replaced_ns(candidate) / 1e6,
            }
            for candidate in profile.space.candidates
            if profile.is_feasible(candidate)
        ],
        "fidelity": None if fidelity is None else _fidelity(fidelity),
    }


def _fidelity(fidelity: Fidelity) -> dict[str, Any]:
    return {
        "summary": str(fidelity),
        "calibration": fidelity.calibration,
        "rank_correlation": fidelity.rank_correlation,
        "trials": [
            {
                "name": trial.name,
                "layers": trial.layers,
                "predicted_ms": trial.predicted_ns * fidelity.calibration / 1e6,
                "measured_ms": trial.measured_ns / 1e6,
                "spread": trial.spread,
                "error": trial.error(fidelity.calibration),
                "raw_error": trial.error(),
            }
            for trial in fidelity.trials
        ],
    }
