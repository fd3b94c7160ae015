"""`layermerge compress MODEL`: from a model and data to a faster network, with the evidence."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from layermerge.commands.options import (
    add_latency,
    add_model,
    add_space,
    announce_stages,
    latency_options,
    percentage,
    positive,
    search_space,
    speedup,
)
from layermerge.commands.task import (
    add_search,
    add_training,
    executor_of,
    load_task,
    search_options,
)
from layermerge.results import STUDY_FILE

if TYPE_CHECKING:
    from layermerge.pipeline import Compression

IF_INTERRUPTED = ": the same command goes on where it was"
SUMMARY = "Make a model faster: measure, search, fine-tune, merge, verify."
EPILOG = """\
data:
  digits                 scikit-learn's digits, 1x32x32 images, 10 classes
  imagefolder:DIR        DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg
  hf:PATH, hf:PATH#LABEL a Hugging Face data set of labelled images, the column of labels named
                         where there are several
  FILE.py:FUNCTION       a function that returns a layermerge.datasets.Dataset

example:
  layermerge compress timm:resnet18 --pretrained --data imagefolder:imagenet --speedup 1.5
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_model(parser)
    parser.add_argument("--data", required=True, metavar="DATA", help="see below")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--speedup", type=speedup, metavar="S", help="end to end, such as 1.5")
    budget.add_argument("--latency-ms", type=positive, metavar="B", help="end to end, in ms")
    budget.add_argument(
        "--latency", type=percentage, metavar="P%", help="of the original latency, such as 60%%"
    )
    parser.add_argument(
        "--out", default="runs/compress", metavar="DIR", help="default: runs/compress"
    )
    add_latency(parser)
    add_training(parser)
    add_search(parser)
    add_space(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what there is to do and how long it takes"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Compress and print the result."""
    from layermerge.commands.outcome import compress_to

    if arguments.dry_run:
        from layermerge.commands.forecast import forecast, print_forecast

        print_forecast(forecast(arguments, load_task(arguments)), as_json=arguments.json)
        return 0
    announce_stages()
    compress_to(
        arguments.out,
        partial(_compress, arguments),
        model_name=arguments.model,
        as_json=arguments.json,
    )
    return 0


def _compress(arguments: argparse.Namespace, out: Path) -> Compression:
    from layermerge.options import Options
    from layermerge.pipeline import compress

    task = load_task(arguments, out)
    return compress(
        task.model,
        task.example,
        speedup=arguments.speedup,
        latency_ms=arguments.latency_ms,
        fraction=arguments.latency,
        score_fn=task.recipe.score_fn,
        train_fn=task.recipe.train_fn,
        finetune_fn=task.recipe.finetune_fn,
        evaluate_fn=task.recipe.evaluate_fn,
        calibration=task.recipe.calibration,
        study=out / STUDY_FILE,
        options=Options(
            space=search_space(arguments),
            search=search_options(arguments),
            executor=executor_of(arguments),
            init=arguments.init,
            is_ranked=not arguments.no_ranking,
            latency=latency_options(arguments),
            estimator=task.recipe.estimator,
            finetuner=task.recipe.finetuner,
            score_name=task.recipe.score_name,
            seed=arguments.seed,
        ),
    )
