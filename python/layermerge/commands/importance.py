"""`layermerge importance`: find plans for some budgets, or show how far a search is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from layermerge.commands.json_output import print_document
from layermerge.commands.options import (
    add_latency,
    add_model,
    add_space,
    announce_stages,
    latency_options,
    percentage,
    search_space,
)
from layermerge.commands.task import (
    add_search,
    add_training,
    executor_of,
    load_task,
    search_options,
)
from layermerge.errors import InputError
from layermerge.importance.status import Status, load_status
from layermerge.results import STUDY_FILE
from layermerge.store import Study

if TYPE_CHECKING:
    from torch import Tensor, nn

    from layermerge.latency.profile import LatencyProfile

IF_INTERRUPTED = ": the same command goes on where it was"
SUMMARY = "Find the best plans by few short fine-tunes, or show how far such a search has come."
EPILOG = """\
examples:
  layermerge importance timm:resnet18 --pretrained --data imagefolder:imagenet \\
    --latency 80% 65% 50% --study run.db
  layermerge importance --study run.db
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_model(parser, optional=True)
    parser.add_argument("--data", metavar="DATA", help="as for compress")
    parser.add_argument(
        "--study",
        required=True,
        metavar="FILE",
        help="keeps everything measured; without a model, where its search stands is shown",
    )
    parser.add_argument(
        "--latency",
        type=percentage,
        nargs="+",
        default=[],
        metavar="P%",
        help="budgets, as parts of the original latency, such as 80%% 65%% 50%%",
    )
    parser.add_argument("--out", metavar="DIR", help="write each plan to DIR/plan-P.json")
    add_latency(parser)
    add_training(parser)
    add_search(parser)
    add_space(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Search, if there is a model; show where the search stands."""
    path = Path(arguments.study)
    if path.is_dir():
        raise InputError(f"--study {path} is a folder: name a file, such as {path / STUDY_FILE}")
    if arguments.model is None and (arguments.data or arguments.latency or arguments.out):
        raise InputError("--data, --latency and --out are for a search, which needs a MODEL")
    if arguments.model is None and not (path.is_file() and path.stat().st_size):
        is_there = "is empty" if path.is_file() else "does not exist"
        raise InputError(f"--study {path} {is_there}: name the file of a search")
    with Study(arguments.study) as study:
        if arguments.model is not None:
            announce_stages()
            _search(arguments, study)
        _show(load_status(study), as_json=arguments.json)
    return 0


def _search(arguments: argparse.Namespace, study: Study) -> None:
    from layermerge.importance.estimators import ShortFineTune
    from layermerge.importance.proxies import ClosedForm
    from layermerge.importance.search import find_plans
    from layermerge.planning import Budget, check_reachable, predict_original_ns

    if arguments.data is None:
        raise InputError("a search needs --data to train and score on, such as --data digits")
    if not arguments.latency:
        raise InputError("a search needs at least one budget, such as --latency 65%")
    task = load_task(arguments)
    profile = _measure(arguments, task.model, task.example, study)
    budgets = [Budget(fraction=each) for each in sorted(arguments.latency, reverse=True)]
    for budget in budgets:
        check_reachable(profile, budget)
    ranking = ClosedForm(task.recipe.calibration, name=task.recipe.estimator)
    found = find_plans(
        task.model,
        profile,
        [budget.resolve(predict_original_ns(profile)) for budget in budgets],
        estimator=ShortFineTune(
            task.recipe.score_fn,
            task.recipe.train_fn,
            task.recipe.estimator,
            init=arguments.init,
            calibration=task.recipe.calibration,
        ),
        order_by=None if arguments.no_ranking else ranking,
        options=search_options(arguments),
        seed=arguments.seed,
        study=study,
        executor=executor_of(arguments),
    )
    if arguments.out is not None:
        folder = Path(arguments.out)
        folder.mkdir(parents=True, exist_ok=True)
        for budget, plan in zip(budgets, found.plans, strict=True):
            plan.save(folder / f"plan-{100 * (budget.fraction or 0):g}.json")


def _measure(
    arguments: argparse.Namespace, model: nn.Module, inputs: Tensor, study: Study
) -> LatencyProfile:
    from layermerge.latency.measuring import measure_latency
    from layermerge.merging import merge
    from layermerge.plan import original_plan
    from layermerge.rewriting import rewrite
    from layermerge.tracing import trace

    search = search_space(arguments)
    network = trace(model, inputs, remove=search.remove)
    space = search.enumerate(network)
    return measure_latency(
        model,
        network,
        space,
        example_inputs=inputs,
        deployed=merge(rewrite(model, original_plan(network))),
        options=latency_options(arguments),
        study=study,
    )


def _show(status: Status, *, as_json: bool) -> None:
    if as_json:
        print_document(status.document())
    else:
        print("\n".join(status.lines()))
