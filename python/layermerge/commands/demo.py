"""`layermerge demo`: the whole method on a small network and real data, with the proof."""

from __future__ import annotations

import argparse
from functools import partial

from layermerge.checks import MAX_SEED
from layermerge.commands.options import announce_stages, at_least, speedup
from layermerge.latency.options import MOST_THREADS

IF_INTERRUPTED = ": the same command goes on where it was"
SUMMARY = "Train a small network on handwritten digits, make it faster, and show the evidence."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="default: runs/demo")
    parser.add_argument(
        "--speedup", type=speedup, default=1.5, metavar="S", help="end to end; default: 1.5"
    )
    parser.add_argument("--seed", type=at_least(0, MAX_SEED), default=0, help="default: 0")
    parser.add_argument(
        "--fast", action="store_true", help="a quick look: less training, worse accuracy"
    )
    parser.add_argument(
        "--threads",
        type=at_least(1, MOST_THREADS),
        metavar="N",
        help="default: one fewer than there are processors",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration and print its result."""
    from layermerge.commands.outcome import compress_to
    from layermerge.demo import FAST, FULL, run_demo
    from layermerge.models import DEMO_MODEL

    announce_stages()
    compress_to(
        arguments.out,
        partial(
            run_demo,
            speedup=arguments.speedup,
            seed=arguments.seed,
            settings=FAST if arguments.fast else FULL,
            threads=arguments.threads,
        ),
        model_name=DEMO_MODEL,
        as_json=arguments.json,
    )
    return 0
