"""Which third-party CNNs can be traced, what can merge in them, and is every merge exact?

    python benchmarks/coverage.py RESULTS.csv [--only REGEX] [--seconds 120] [--jobs 1]

runs over the image models of torchvision and timm that have at most 100 million parameters and at
least four convolutions with kernels larger than 1x1. Weights are random: these are questions of
structure. Each model is tried in a process of its own, and its row is written when it is done, so
that a run can be continued; what took too long is tried again.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import layermerge as lm
from layermerge.dataflow import REMOVABLE
from layermerge.errors import LayerMergeError, TrainingError
from layermerge.latency.fidelity import random_plans
from layermerge.plan import plan_of
from layermerge.verification import verification
from networks import conditioned

MAX_PARAMETERS = 100_000_000
NUM_PLANS = 3
MAX_WEIGHTS = 1 << 19
"""Of the convolutions in the plans, for a try to take seconds: composing kernels of 10^8 weights is
the same arithmetic, longer."""
SHORT = 4
"""Layers in a segment of a plan that is tried where longer ones overflow."""
SIZES = (64, 96, 128, 224, 256, 299, 384)
LIBRARIES = ("torchvision", "timm")


@dataclass
class Row:
    """What is known of one model. `outcome` is "exact" where all went well, else what happened."""

    library: str
    name: str
    parameters: int = 0
    size: int = 0
    outcome: str = "building"
    layers: int = 0
    merging: int = 0  # layers in some segment of two or more, when activations may go
    merging_all: int = 0  # the same when gates and norms may go, too
    entries: int = 0
    signatures: int = 0
    skipped: str = ""
    stops: str = ""
    opaque: str = ""
    plans: int = 0
    float64_error: float = 0.0
    float32_error: float = 0.0
    trace_s: float = 0.0
    total_s: float = 0.0


def image_models() -> Iterator[tuple[str, str]]:
    """Library and name of every model that makes something of one image, families in turn."""
    names = [n for n in torchvision.models.list_models() if not n.startswith(("raft", "quantized"))]
    families = [[("timm", n) for n in timm.list_models(module=m)] for m in timm.list_modules()]
    families += [[("torchvision", name)] for name in names]
    for turn in range(max(map(len, families))):
        for family in families:
            yield from family[turn : turn + 1]


def build(library: str, name: str) -> nn.Module:
    if library == "timm":
        return timm.create_model(name)
    options: dict[str, Any] = {"weights": None}
    module = torchvision.models.get_model_builder(name).__module__
    if ".segmentation." in module or ".detection." in module:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    model = torchvision.models.get_model(name, **options)
    return model.backbone if ".detection." in module else model


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def is_convolutional(model: nn.Module) -> bool:
    """At least four convolutions that see more than one pixel: more than a patch embedding."""
    kernels = [part.kernel_size for part in model.modules() if isinstance(part, nn.Conv2d)]
    return sum(max(kernel) > 1 for kernel in kernels) >= 4


def sized(model: nn.Module, config: dict[str, Any]) -> torch.Tensor:
    """An image of the least size that the model takes."""
    sizes = [config["input_size"][-1]] if config.get("fixed_input_size") else [*SIZES]
    if "input_size" in config and config["input_size"][-1] not in sizes:
        sizes.append(config["input_size"][-1])
    for size in sizes:
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
        try:
            with torch.no_grad():
                model(image)
        except Exception:
            if size == sizes[-1]:
                raise
        else:
            return image
    raise AssertionError


def merging_layers(network: lm.Network) -> int:
    long = [segment.indices for segment in network.segments if segment.end - segment.start > 1]
    return len(set().union(*long))


def examine(row: Row, tell: Callable[[Row], None]) -> None:
    torch.manual_seed(0)
    started = time.perf_counter()
    try:
        with torch.device("meta"):
            sketch = build(row.library, row.name)
    except NotImplementedError:  # it computes with its weights as it is built
        sketch = build(row.library, row.name)
    row.parameters = num_parameters(sketch)
    if row.parameters > MAX_PARAMETERS or not is_convolutional(sketch):
        row.outcome = "out of scope"
        return
    model = build(row.library, row.name).eval()
    image = sized(model, getattr(model, "default_cfg", None) or {})
    row.size = image.shape[-1]
    conditioned(model, image)
    row.outcome = "tracing"
    tell(row)
    clock = time.perf_counter()
    network = lm.trace(model, image)
    row.trace_s = time.perf_counter() - clock
    row.layers, row.merging = network.num_layers, merging_layers(network)
    stops = Counter(barrier.kind for barrier in network.barriers if barrier.reason)
    row.stops = "; ".join(f"{kind} {count}" for kind, count in stops.most_common(6))
    row.opaque = "; ".join(
        sorted({b.reason for b in network.barriers if b.kind == "opaque" or "opaque" in b.reason})
    )[:300]
    row.outcome = "tracing with every removal"
    tell(row)
    network = lm.trace(model, image, remove=REMOVABLE)
    row.merging_all = merging_layers(network)
    row.outcome = "enumerating"
    tell(row)
    space = lm.SearchSpace(remove=REMOVABLE).enumerate(network)
    row.entries, row.signatures = len(space.listed), len(space.signatures)
    row.skipped = "; ".join(f"{count} {reason}" for reason, count in space.skipped.items())
    light = [c for c in space.candidates if c.is_original or c.signature.num_weights <= MAX_WEIGHTS]
    if all(candidate.is_original for candidate in light):
        row.outcome = "nothing merges"
        return
    plans = random_plans(replace(space, candidates=tuple(light)), NUM_PLANS)
    short = [c for c in light if c.is_original or c.end - c.start <= SHORT]
    for number, plan in enumerate(plans):
        row.outcome = f"rewriting and merging plan {number}"
        tell(row)
        try:
            merged = lm.merge(lm.rewrite(model, plan_of(network, plan)))
        except TrainingError:
            # Values overflow where the norms of many layers go at once, and weights are random.
            (plan,) = random_plans(replace(space, candidates=tuple(short)), 1, seed=number)
            merged = lm.merge(lm.rewrite(model, plan_of(network, plan)))
        found = verification(merged)
        row.plans += 1
        row.float64_error = max(row.float64_error, found.float64_error)
        row.float32_error = max(row.float32_error, found.error)
        row.total_s = time.perf_counter() - started
    row.outcome = "exact"


def work(row: Row, results: Connection) -> None:
    warnings.simplefilter("ignore")
    try:
        examine(row, results.send)
    except LayerMergeError as error:
        row.outcome = f"refused while {row.outcome}: {error}"
    except Exception as error:
        row.outcome = f"FAILED while {row.outcome}: {type(error).__name__}: {error}"
    row.outcome = " ".join(row.outcome.split())[:400]
    results.send(row)


def attempt(row: Row, seconds: float) -> Row:
    """Examine a model in a process of its own, which may die or take too long."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(row, sender), daemon=True)
    process.start()
    sender.close()
    deadline = time.monotonic() + seconds
    try:
        while receiver.poll(max(0.0, deadline - time.monotonic())):
            row = receiver.recv()
        row.outcome = f"longer than {seconds:.0f} s while {row.outcome}"
    except EOFError:
        process.join()
        if process.exitcode:
            row.outcome = f"FAILED while {row.outcome}: the process died ({process.exitcode})"
    process.kill()
    process.join()
    return row


def run(path: Path, only: str, seconds: float, part: tuple[int, int]) -> None:
    done = {k for k, row in read(path).items() if not row["outcome"].startswith("longer than")}
    names = [field.name for field in fields(Row)]
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, names)
        if not file.tell():
            writer.writeheader()
        for library, name in list(image_models())[part[0] :: part[1]]:
            if (library, name) in done or not re.search(only, f"{library}:{name}"):
                continue
            row = attempt(Row(library, name), seconds)
            writer.writerow(
                {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in asdict(row).items()}
            )
            file.flush()
            if row.outcome != "out of scope":
                print(
                    f"{library}:{name}",
                    row.outcome,
                    row.layers,
                    row.merging,
                    row.merging_all,
                    flush=True,
                )


def read(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The last row of each model; those that took too long are tried again by a later run."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {(row["library"], row["name"]): row for row in csv.DictReader(file)}


def table(path: Path) -> Iterator[str]:
    """The rows as docs/models.md shows them."""
    rows = [row for row in read(path).values() if row["outcome"] != "out of scope"]
    outcomes = Counter(row["outcome"].split(" while ")[0].split(":")[0] for row in rows)
    yield f"{len(rows)} models: {', '.join(f'{n} {what}' for what, n in outcomes.most_common())}."
    for library in LIBRARIES:
        yield f"\n## {library}\n"
        yield "| model | weights | layers | merge | all | entries | measured | errors |"
        yield "|---|---:|---:|---:|---:|---:|---:|---|"
        for row in sorted(rows, key=lambda row: row["name"]):
            if row["library"] == library:
                yield table_row(row)


def table_row(row: dict[str, str]) -> str:
    size = f"{int(row['parameters']) / 1e6:.1f} M"
    outcome = row["outcome"]
    if outcome == "exact":
        errors = (float(row[name]) for name in ("float64_error", "float32_error"))
        outcome = " / ".join(f"{error:.0e}" for error in errors)
    counts = [row[name] for name in ("layers", "merging", "merging_all", "entries", "signatures")]
    return f"| {' | '.join([row['name'], size, *counts, outcome])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--table", action="store_true", help="print what was found, as Markdown")
    parser.add_argument("--only", default="", metavar="REGEX")
    parser.add_argument("--seconds", type=float, default=120.0, help="at most, for each model")
    parser.add_argument("--part", default="0/1", help="I/N: every N-th model from the I-th on")
    arguments = parser.parse_args()
    if arguments.table:
        print("\n".join(table(arguments.results)))
        return
    torch.set_num_threads(1)
    first, count = arguments.part.split("/")
    run(arguments.results, arguments.only, arguments.seconds, (int(first), int(count)))


if __name__ == "__main__":
    main()
