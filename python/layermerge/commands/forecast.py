"""What `compress --dry-run` prints: how much each stage has to do, and how long it takes."""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from layermerge.candidates import Candidate
from layermerge.commands.json_output import print_document
from layermerge.commands.options import search_space
from layermerge.commands.task import Task
from layermerge.importance.proxies import ClosedForm
from layermerge.network import Network
from layermerge.report.formats import format_seconds
from layermerge.tracing import trace
from layermerge.training import Batch, device_of

TRIALS = 3
"""Runs that a time is the mean, or the median, of."""


def forecast(arguments: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Count what there is to do, and time one step of training.

    Returns
    -------
    dict
        Counts, and seconds: of tracing, measured; of latency, at most; of ranking, estimated from
        a few candidates; of fine-tunes, from one step of the original network, scoring
        left out.
    """
    search = search_space(arguments)
    began = time.perf_counter()
    network = trace(task.model, task.example, remove=search.remove)
    space = search.enumerate(network)
    traced_s = time.perf_counter() - began
    step_s = seconds_of_a_step(task.model, task.recipe.calibration[0])
    replacements = [candidate for candidate in space.candidates if not candidate.is_original]
    count = 0 if arguments.no_ranking else len(replacements)
    ranking_s = count and count * seconds_to_rank(task, network, replacements)
    return {
        "layers": network.num_layers,
        "entries": len(space.listed),
        "left_out": sum(space.skipped.values()),
        "signatures": len(space.signatures),
        "barriers": len(network.barriers),
        "replacements": len(replacements),
        "trace_s": traced_s,
        "latency_s_at_most": arguments.max_seconds,
        "step_s": step_s,
        "probe_s": arguments.probe_steps * step_s,
        "ranking_s": ranking_s,
        "importance_s_at_most": len(replacements) * arguments.probe_steps * step_s,
        "epochs": arguments.epochs,
        "is_original_only": not replacements,
    }


def seconds_to_rank(task: Task, network: Network, candidates: Sequence[Candidate]) -> float:
    """Of the training-free score of a candidate: the mean over a few."""
    estimator, taken = ClosedForm(task.recipe.calibration), []
    for candidate in candidates[:: -(-len(candidates) // TRIALS)]:
        began = time.perf_counter()
        estimator.score(task.model, network, candidate)
        taken.append(time.perf_counter() - began)
    return statistics.mean(taken)


def seconds_of_a_step(model: nn.Module, batch: Batch) -> float:
    """Of a forward and a backward pass in training mode, once they are warm."""
    trained, (images, labels) = copy.deepcopy(model).train(), batch
    device = device_of(trained)
    taken = []
    for _ in range(1 + TRIALS):
        began = time.perf_counter()
        loss = F.cross_entropy(trained(images.to(device)), labels.to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def print_forecast(found: dict[str, Any], *, as_json: bool) -> None:
    """Print it as a list of stages, or as JSON."""
    if as_json:
        print_document(found)
        return
    print(
        f"1 trace       {found['layers']} layers, {found['entries']} entries "
        f"({found['left_out']} left out): {format_seconds(found['trace_s'])}\n"
        f"2 latency     {found['signatures']} distinct convolutions and {found['barriers']} fixed "
        f"parts: at most {format_seconds(found['latency_s_at_most'])} for each round\n"
        f"3 importance  a few of {found['replacements']} short fine-tunes of "
        f"{format_seconds(found['probe_s'])} each, and of a few whole plans; all would take "
        f"{format_seconds(found['importance_s_at_most'])}, and their scores{_ranking(found)}\n"
        "4 plan        an instant, and measuring the merged network\n"
        f"5 fine-tune   {found['epochs']} epochs, {format_seconds(found['step_s'])} a step"
    )
    if found["is_original_only"]:
        print("Nothing can merge in this model: see layermerge inspect.")


def _ranking(found: dict[str, Any]) -> str:
    if not found["ranking_s"]:
        return ""
    return (
        f"; ranking before takes about {format_seconds(found['ranking_s'])}, as long as "
        f"{found['ranking_s'] / found['probe_s']:.0f} of them (--no-ranking leaves it out)"
    )
