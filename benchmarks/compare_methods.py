"""Accuracy against measured latency: LayerMerge, its restrictions, channel pruning, random plans.

    python benchmarks/compare_methods.py FOLDER [--network resnet] [--seed 0] [--methods a,b,...]
    python benchmarks/compare_methods.py FOLDER --summary

For one seed: a base network is trained; every method makes a network for each latency budget; all
start from the base's weights and get the same fine-tune, with the base as teacher; all are measured
in turn, batch norm folded, in one run. What took time is kept in FOLDER, so that a run can be
continued.
`--network timm:NAME --pretrained --data imagefolder:DIR` does the same with your own.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import random
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

import layermerge as lm
from layermerge.candidates import Candidate
from layermerge.datasets import Dataset, load_digits, load_image_folder
from layermerge.demo import FULL, DigitsNet
from layermerge.finetuning import FinetuneSettings, finetune
from layermerge.importance.estimators import ShortFineTune
from layermerge.importance.proxies import ClosedForm
from layermerge.importance.search import SearchOptions
from layermerge.plan import plan_of
from layermerge.planning import predict_original_ns
from layermerge.recipes import Recipe, classification
from layermerge.seeding import seeded

PARTS = (0.8, 0.65, 0.5, 0.4)
"""Budgets, as parts of the base's latency."""

Points = dict[tuple[str, float], dict[str, tuple[float, float]]]
"""By method and budget, then by seed: part of the base's latency, accuracy in per cent."""

FURTHER = "base, fine-tuned 1"
"""The base after the fine-tune that every method's network gets: what that alone is worth."""

RATIOS = tuple(round(0.03 * step, 2) for step in range(1, 31))
"""Pruning ratios that are tried to meet the budgets."""


class Inverted(nn.Module):
    """An inverted residual block, as MobileNetV2 has it."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = in_channels * expansion
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU6(),
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU6(),
            nn.Conv2d(middle, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x) if self.is_residual else self.branch(x)


def mobilenet() -> nn.Module:
    """Ten inverted residual blocks for 32x32 grey images of ten classes."""
    stem = [nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    widths = (
        (8, 1),
        (8, 1),
        (16, 2),
        (16, 1),
        (16, 1),
        (24, 1),
        (24, 1),
        (32, 2),
        (32, 1),
        (32, 1),
    )
    channels, blocks = 8, []
    for width, stride in widths:
        blocks.append(Inverted(channels, width, stride, 4))
        channels = width
    head = [nn.Conv2d(32, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU6()]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*stem, *blocks, *head, *pool)


NETWORKS = {"resnet": DigitsNet, "mobilenet": mobilenet}


@dataclass
class Made:
    """A network that a method made for a budget, not yet fine-tuned."""

    start: nn.Module
    merge: Callable[[nn.Module], nn.Module]
    key: str
    note: str = ""
    is_distilled: bool = True
    is_pruned: bool = False


@dataclass
class Bench:
    """A base network, its data, and what is known of it."""

    name: str
    seed: int
    model: nn.Module
    images: torch.Tensor
    dataset: Dataset
    recipe: Recipe
    final: FinetuneSettings
    study: lm.Study
    options: lm.LatencyOptions
    progress: bool = False
    profiles: dict[str, lm.LatencyProfile] = field(default_factory=dict)

    def profile(self, method: str = "layermerge") -> lm.LatencyProfile:
        if method not in self.profiles:
            network = lm.trace(self.model, self.images)
            self.profiles[method] = lm.measure_latency(
                self.model,
                network,
                lm.SearchSpace(method=method, max_kernel=7).enumerate(network),
                example_inputs=self.images,
                deployed=self.deployed(),
                options=self.options,
                study=self.study,
            )
        return self.profiles[method]

    def budgets_ns(self) -> list[int]:
        original_ns = predict_original_ns(self.profile())
        return [int(part * original_ns) for part in PARTS]

    def deployed(self) -> nn.Module:
        return fold(self.model, self.images)


def fold(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """The network with its batch norms folded, as it would be deployed."""
    return lm.merge(lm.rewrite(model, lm.original_plan(lm.trace(model, images))))


def planned(bench: Bench, plan: lm.Plan, init: str, note: str, is_distilled: bool = True) -> Made:
    if init == "least_squares":
        network = bench.profile().space.network
        start = lm.merge_least_squares(bench.model, network, plan, bench.recipe.calibration)
        return Made(
            start, lambda trained: trained, f"{plan.fingerprint} {init}", note, is_distilled
        )
    return Made(lm.rewrite(bench.model, plan), lm.merge, plan.fingerprint, note, is_distilled)


def searched(
    bench: Bench,
    *,
    method: str = "layermerge",
    objective: str = "exp_delta",
    init: str = "composed",
    is_full: bool = False,
    is_distilled: bool = True,
    contest: bool = True,
) -> list[Made | None]:
    """LayerMerge and its restrictions."""
    recipe = bench.recipe
    profile = bench.profile(method)
    estimator = ShortFineTune(
        recipe.score_fn,
        recipe.train_fn,
        recipe.estimator,
        init=init,
        calibration=recipe.calibration,
    )
    find = partial(
        lm.find_plans,
        bench.model,
        profile,
        estimator=estimator,
        order_by=ClosedForm(recipe.calibration) if init == "least_squares" else None,
        options=SearchOptions(objective=objective, full=is_full, contest=contest),
        seed=bench.seed,
        study=bench.study,
        progress=bench.progress,
    )
    made: list[Made | None] = []
    for budget_ns in bench.budgets_ns():
        try:
            (plan,) = find([budget_ns]).plans
        except lm.InfeasibleError:
            made.append(None)
        else:
            made.append(planned(bench, plan, init, plan.certificate, is_distilled))
    return made


def at_random(bench: Bench) -> list[Made | None]:
    """Of 2,000 random plans, that which comes closest to each budget from below."""
    profile = bench.profile()
    generator = random.Random(bench.seed)
    drawn = [random_plan(profile.space, generator.random(), generator) for _ in range(2000)]
    predicted = [
        int(profile.calibration * (profile.fixed_ns + sum(map(profile.of, plan)))) for plan in drawn
    ]
    made: list[Made | None] = []
    for budget_ns in bench.budgets_ns():
        within = [place for place, latency in enumerate(predicted) if latency <= budget_ns]
        plan = drawn[max(within, key=predicted.__getitem__)]
        made.append(planned(bench, plan_of(profile.space.network, plan), "composed", "random"))
    return made


def random_plan(space: lm.CandidateSpace, kept: float, generator: random.Random) -> list[Candidate]:
    """A random path that leaves about a part `kept` of its steps as they are."""
    path: list[Candidate] = []
    position = 0
    while position < space.network.num_layers:
        here = [c for c in space.candidates if c.start == position]
        originals = [c for c in here if c.is_original]
        path.append(generator.choice(originals if generator.random() < kept else here))
        position = path[-1].end
    return path


def pruned(bench: Bench, kind: str) -> list[Made | None]:
    """Channel pruning with Torch-Pruning, over the whole network at once."""
    networks = {ratio: prune(bench, kind, ratio) for ratio in RATIOS}
    folded = {str(ratio): fold(model, bench.images) for ratio, model in networks.items()}
    measured = lm.measure_modules(
        {"base": bench.deployed(), **folded},
        bench.images,
        options=replace(bench.options, target_rsd=0.02),
    )
    made: list[Made | None] = []
    for part in PARTS:
        budget_ns = part * measured["base"].median_ns
        within = [r for r in RATIOS if measured[str(r)].median_ns <= budget_ns]
        if not within:
            made.append(None)
            continue
        ratio = min(within)
        merge = partial(fold, images=bench.images)
        note = f"pruning ratio {ratio}"
        made.append(Made(networks[ratio], merge, f"{kind} {ratio}", note, is_pruned=True))
    return made


def prune(bench: Bench, kind: str, ratio: float) -> nn.Module:
    import torch_pruning as tp

    model = copy.deepcopy(bench.model)
    importance = {
        "l1": partial(tp.importance.MagnitudeImportance, p=1),
        "taylor": tp.importance.TaylorImportance,
    }
    head = [part for part in model.modules() if isinstance(part, nn.Linear)][-1:]
    pruner = tp.pruner.BasePruner(
        model,
        bench.images[:1],
        importance[kind](),
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=0.9,
        ignored_layers=head,
    )
    if kind == "taylor":
        for images, labels in bench.recipe.calibration:
            F.cross_entropy(model(images), labels).backward()
    pruner.step()
    model.zero_grad()
    return model.eval()


METHODS: Mapping[str, Callable[[Bench], list[Made | None]]] = {
    "layermerge": searched,
    "depth": partial(searched, method="depth", contest=False),
    "layer_only": partial(searched, method="layer_only", contest=False),
    "random": at_random,
    "pruning-l1": partial(pruned, kind="l1"),
    "pruning-taylor": partial(pruned, kind="taylor"),
    "layermerge, no contest": partial(searched, contest=False),
    "layermerge, no contest, all entries": partial(searched, contest=False, is_full=True),
    "layermerge, no contest, sum of delta": partial(searched, contest=False, objective="delta"),
    "layermerge, closed form": partial(searched, init="least_squares"),
    "layermerge, no distillation": partial(searched, is_distilled=False),
}


def accuracy(bench: Bench, made: Made) -> float:
    """Fine-tune and score, unless the study knows the result."""
    key = json.dumps([made.key, made.is_distilled, bench.recipe.finetuner, bench.seed, "accuracy"])
    known = bench.study.artefact(key)
    if known is not None:
        return float(known)
    network = copy.deepcopy(made.start)
    teacher = bench.model if made.is_distilled else None
    if not made.is_pruned:  # whose odd numbers of channels make torch 2.14 write past its arrays
        network.to(memory_format=torch.channels_last)  # which trains faster
    finetune(network, bench.dataset.train, bench.final, teacher=teacher, progress=bench.progress)
    score = bench.recipe.evaluate_fn(made.merge(network.eval()))
    bench.study.add_artefact(key, repr(score).encode())
    return score


def compare(bench: Bench, methods: Iterable[str], path: Path) -> None:
    networks: dict[str, nn.Module] = {"base 1": bench.deployed()}
    scores = {"base 1": bench.recipe.evaluate_fn(networks["base 1"])}
    notes = {"base 1": ""}
    further = Made(bench.model, partial(fold, images=bench.images), "base", "the same fine-tune")
    scores[FURTHER] = accuracy(bench, further)
    notes[FURTHER], networks[FURTHER] = further.note, networks["base 1"]
    for method in methods:
        for part, made in zip(PARTS, METHODS[method](bench), strict=True):
            name = f"{method} {part}"
            if made is None:
                print(f"{bench.name} seed {bench.seed}: {name}: no plan is fast enough", flush=True)
                continue
            scores[name], notes[name] = accuracy(bench, made), made.note
            networks[name] = made.merge(copy.deepcopy(made.start).eval())
            print(
                f"{bench.name} seed {bench.seed}: {name}: {scores[name]:.4f} ({made.note})",
                flush=True,
            )
    measured = lm.measure_modules(
        networks, bench.images, options=replace(bench.options, target_rsd=0.01, max_seconds=240)
    )
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "network",
                "seed",
                "method",
                "part",
                "accuracy",
                "latency_ns",
                "spread",
                "convolutions",
                "note",
            ]
        )
        for name, network in networks.items():
            method, _, part = name.rpartition(" ")
            found = measured[name]
            layers = sum(isinstance(module, nn.Conv2d) for module in network.modules())
            writer.writerow(
                [
                    bench.name,
                    bench.seed,
                    method,
                    part,
                    f"{scores[name]:.5f}",
                    found.median_ns,
                    f"{found.spread:.4f}",
                    layers,
                    notes[name],
                ]
            )


def prepare(arguments: argparse.Namespace, folder: Path) -> Bench:
    seed = arguments.seed
    if arguments.data:
        dataset = load_image_folder(arguments.data.removeprefix("imagefolder:"))
        final, probe = (
            FinetuneSettings(epochs=20, seed=seed),
            FinetuneSettings(steps=100, seed=seed),
        )
        model = lm.load_model(arguments.network, pretrained=arguments.pretrained)
        images = torch.randn(arguments.batch, 3, 224, 224)
    else:
        dataset = load_digits()
        final, probe = replace(FULL.final, epochs=30, seed=seed), replace(FULL.probe, seed=seed)
        model = trained_base(arguments.network, dataset, replace(FULL.base, seed=seed), folder)
        images = torch.randn(
            arguments.batch, 1, 32, 32, generator=torch.Generator().manual_seed(seed)
        )
    recipe = classification(model, dataset, probe=probe, final=final)
    options = lm.LatencyOptions(threads=1, target_rsd=0.02, max_seconds=60, progress=False)
    study = lm.Study(folder / f"{slug(arguments.network)}-{seed}.db")
    return Bench(arguments.network, seed, model, images, dataset, recipe, final, study, options)


def trained_base(
    name: str, dataset: Dataset, settings: FinetuneSettings, folder: Path
) -> nn.Module:
    path = folder / f"{name}-{settings.seed}.safetensors"
    with seeded(settings.seed):
        model = NETWORKS[name]()
    if path.exists():
        model.load_state_dict(safetensors.torch.load_file(path))
    else:
        finetune(model, dataset.train, settings, progress=False)
        safetensors.torch.save_file(model.state_dict(), path)
    return model.eval()


def slug(name: str) -> str:
    return name.replace(":", "-").replace("/", "-")


def rows_of(folder: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            rows += csv.DictReader(file)
    return rows


def summarise(folder: Path) -> None:
    """Print a table for each network, mean and spread over seeds, and draw it."""
    rows = rows_of(folder)
    for network in sorted({row["network"] for row in rows}):
        own = [row for row in rows if row["network"] == network]
        base_ns = {r["seed"]: int(r["latency_ns"]) for r in own if r["method"] == "base"}
        points: Points = {}
        for row in own:
            part = int(row["latency_ns"]) / base_ns[row["seed"]]
            found = points.setdefault((row["method"], float(row["part"])), {})
            found[row["seed"]] = part, 100 * float(row["accuracy"])
        print(f"\n### {network}, {len(base_ns)} seeds\n")
        print("| method | asked | measured | accuracy | seeds |\n|---|---:|---:|---:|---:|")
        for (method, part), found in points.items():
            latency, score = mean_point(found)
            spread = statistics.stdev(s for _, s in found.values()) if len(found) > 1 else 0.0
            print(
                f"| {method} | {part:.0%} | {latency:.1%} | {score:.2f} ± {spread:.2f} % | "
                f"{len(found)} |"
            )
        print("\n| method | hypervolume |\n|---|---:|")
        for method in dict.fromkeys(method for method, _ in points):
            print(f"| {method} | {hypervolume(points, base_ns, method):.2f} |")
        draw(points, folder / f"{slug(network)}.svg")


def mean_point(found: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """Mean over seeds."""
    latency, score = (statistics.mean(values) for values in zip(*found.values(), strict=True))
    return latency, score


def hypervolume(points: Points, seeds: Iterable[str], method: str) -> float:
    """Mean over seeds of the area that a method's networks and the base dominate.

    In units of part of the latency times percentage points, above the base's accuracy less 10.
    """
    areas = []
    for seed in seeds:
        floor = points["base", 1.0][seed][1] - 10
        mine = (values for (name, _), values in points.items() if name in (method, "base"))
        frontier = sorted(values[seed] for values in mine if seed in values)
        area, best = 0.0, floor
        for here, (latency, score) in enumerate(frontier):
            best = max(best, score)
            after = frontier[here + 1][0] if here + 1 < len(frontier) else max(1.0, latency)
            area += (after - latency) * (best - floor)
        areas.append(area)
    return statistics.mean(areas)


def draw(points: Points, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5))
    axes = figure.add_subplot()
    for method in dict.fromkeys(method for method, _ in points):
        own = sorted(mean_point(found) for (m, _), found in points.items() if m == method)
        is_variant = method.startswith("layermerge,")
        axes.plot(*zip(*own, strict=True), marker="o", ls=":" if is_variant else "-", label=method)
    axes.set_xlabel("measured latency, part of the base's")
    axes.set_ylabel("test accuracy in %")
    axes.legend(fontsize="small")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--network", default="resnet", help="resnet, mobilenet, or a model's name")
    parser.add_argument("--data", help="imagefolder:DIR; default: digits")
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by semicolons")
    parser.add_argument("--summary", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.summary:
        summarise(arguments.folder)
        return
    torch.set_num_threads(1)
    name = f"{slug(arguments.network)}-{arguments.seed}.csv"
    bench = prepare(arguments, arguments.folder)
    compare(bench, arguments.methods.split(";"), arguments.folder / name)


if __name__ == "__main__":
    main()
