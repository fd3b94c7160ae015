"""Try plans out: merge each, measure it whole, and set it against the sum of its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import fx, nn

from layermerge.candidates import Candidate
from layermerge.graph import ExampleInputs
from layermerge.latency.fidelity import Fidelity, Trial
from layermerge.latency.options import LatencyOptions
from layermerge.latency.profile import LatencyProfile
from layermerge.latency.whole_networks import measure_modules
from layermerge.merging import merge_unverified
from layermerge.network import Network
from layermerge.plan import plan_of
from layermerge.rewriting import rewrite
from layermerge.store import StudyLike

ORIGINAL = "original"


def try_plans(
    model: nn.Module,
    deployed: nn.Module,
    profile: LatencyProfile,
    plans: Mapping[str, tuple[Candidate, ...]],
    *,
    example_inputs: ExampleInputs,
    options: LatencyOptions,
    study: StudyLike = None,
) -> Fidelity:
    """Measure the original network and plans, in turn, and compare with what was predicted.

    Parameters
    ----------
    model : torch.nn.Module
        The model that the profile is of.
    deployed : torch.nn.Module
        The original network as it would be deployed.
    profile : LatencyProfile
    plans : mapping of str to tuple of Candidate
        Each covers the network.
    example_inputs, options, study
        As for the profile.

    Returns
    -------
    Fidelity
    """
    parts = {ORIGINAL: profile.space.original, **plans}
    modules = {ORIGINAL: deployed} | {
        name: merged_network(model, profile.space.network, plan) for name, plan in plans.items()
    }
    subjects = {
        name: f"trial of plan {plan_of(profile.space.network, plan).fingerprint}"
        for name, plan in parts.items()
    }
    measured = measure_modules(
        modules, example_inputs, options=options, study=study, subjects=subjects
    )
    trials = tuple(
        Trial(
            name,
            len(plan),
            profile.fixed_ns + sum(map(profile.of, plan)),
            measured[name].median_ns,
            measured[name].spread,
        )
        for name, plan in parts.items()
    )
    return Fidelity(trials, float(profile.calibration))


def merged_network(model: nn.Module, network: Network, plan: Iterable[Candidate]) -> fx.GraphModule:
    """The network that a plan makes, with whatever weights come of it."""
    return merge_unverified(rewrite(model, plan_of(network, plan)))
