"""Print the accuracy right after merging: composed weights against closed form. A Markdown table.

    python benchmarks/closed_form.py FOLDER

FOLDER holds, or will hold, the trained base of the demonstration. Plans are the best of the
demonstration's stored table, so that both ways merge the same networks.
"""

from __future__ import annotations

import copy
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from importance_tables import OBJECTIVES, demo_table
from layermerge.datasets import load_digits
from layermerge.demo import FULL, train_base
from layermerge.finetuning import finetune, score_classification
from layermerge.importance.closed_form import merge_least_squares
from layermerge.merging import merge
from layermerge.plan import Plan, PlannedSegment
from layermerge.rewriting import rewrite
from layermerge.tracing import trace

BATCHES, PARTS = 16, (0.9, 0.8, 0.65, 0.5)


def plan_of(network, table, rows):
    segments = (
        PlannedSegment(int(table.start[row]), int(table.end[row]), (0, 0), table.kept[row])
        for row in rows
    )
    return Plan(network.fingerprint, network.num_layers, network.inputs, tuple(segments))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    data = load_digits()
    model = train_base(folder, data, FULL.base, progress=False)
    network = trace(model, torch.zeros(64, 1, 32, 32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        calibration = list(itertools.islice(data.train, BATCHES))
    table = demo_table()
    base = score_classification(model, data.test)
    print(f"base {base:.2%}\n")
    print("| objective | budget | replaced | composed | closed form | recovered | ", end="")
    print("composed, 20 steps | closed form, 20 steps |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for objective, part in itertools.product(OBJECTIVES, PARTS):
        _, rows = table.best(part, objective)
        plan = plan_of(network, table, rows)
        rewritten = rewrite(model, plan)
        fitted = merge_least_squares(model, network, plan, calibration)
        before = score_classification(merge(rewritten), data.test)
        after = score_classification(fitted, data.test)
        trained = []
        for start in (rewritten, copy.deepcopy(fitted)):
            finetune(start, data.train, replace(FULL.probe), progress=False)
            trained.append(score_classification(start, data.test))
        replaced = sum(not segment.is_original for segment in plan.segments)
        recovered = (after - before) / max(base - before, 1e-9)
        cells = [f"{value:.2%}" for value in (before, after)]
        print(
            f"| {objective} | {part:.0%} | {replaced} | {' | '.join(cells)} | {recovered:.0%} | ",
            end="",
        )
        print(" | ".join(f"{value:.2%}" for value in trained), "|", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
