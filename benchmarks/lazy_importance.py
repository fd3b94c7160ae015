"""Print how much of an importance table lazy search needs, and what it costs: Markdown tables.

    python benchmarks/lazy_importance.py

Everything comes from the tables in tests/data; nothing is trained.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from importance_tables import BUDGETS, OBJECTIVES, demo_table, synthetic_table
from layermerge.importance.bounds import Bounds, Margins

SEEDS = (0, 1, 2)
GUESSES = (None, "no_training", "closed_form_error", "closed_form_score")
NO_PREDICTION = Margins(prediction=np.inf)


def row(*cells: object) -> None:
    print("|", " | ".join(map(str, cells)), "|")


def header(*cells: str) -> None:
    row(*cells)
    row(*(["---"] + ["---:"] * (len(cells) - 1)))


def lazily(table, part, objective, **options):
    """Share of the full table that is evaluated, and what is lost of its optimum."""
    best, _ = table.best(part, objective)
    state = table.lazily(part, objective, **options)
    return state.evaluated / table.num_replacements, best - state.value[0]


def summary(found):
    shares, losses = np.array(found).T
    same = f"{int((losses < 1e-9).sum())} of {len(losses)}"
    return (
        f"{shares.mean():.1%}",
        f"{shares.max():.1%}",
        same,
        f"{losses.mean():.4f}",
        f"{losses.max():.4f}",
    )


def demo_by_budget() -> None:
    print("\n### Demonstration, seed 0, by budget (ordered by closed-form error)\n")
    header("space", "objective", "budget", "evaluated", "share", "loss")
    for max_kernel, objective, part in product((5, 9), OBJECTIVES, BUDGETS):
        table = demo_table(max_kernel=max_kernel)
        share, loss = lazily(table, part, objective, guess="closed_form_error")
        count = round(share * table.num_replacements)
        of = f"{count} of {table.num_replacements}"
        row(f"k <= {max_kernel}", objective, f"{part:.0%}", of, f"{share:.1%}", f"{loss:.4f}")


def demo_by_settings() -> None:
    print("\n### Demonstration, three seeds, three budgets, by what orders and bounds\n")
    header(
        "space, objective",
        "setting",
        "mean share",
        "largest",
        "same optimum",
        "mean loss",
        "largest",
    )
    for max_kernel, objective in product((5, 9), OBJECTIVES):
        tables = [demo_table(max_kernel=max_kernel, seed=seed) for seed in SEEDS]
        where = f"k <= {max_kernel}, {objective}"
        row(where, "full table of another seed", *another_seed(tables, objective))
        for guess, margins in product(GUESSES, (Margins(), NO_PREDICTION)):
            found = [
                lazily(table, part, objective, guess=guess, margins=margins)
                for table, part in product(tables, BUDGETS)
            ]
            bounds = "" if margins == Margins() else ", no predicted bounds"
            row(where, f"{guess or 'what is removed'}{bounds}", *summary(found))


def another_seed(tables, objective):
    found = []
    for table, other, part in product(tables, tables, BUDGETS):
        if table is not other:
            best, _ = table.best(part, objective)
            _, rows = other.best(part, objective)
            found.append((1.0, best - OBJECTIVES[objective](table.delta[rows]).sum()))
    return summary(found)


def better_predictions() -> None:
    print("\n### Objective delta, three seeds, if predictions of Δ had a normal error of\n")
    header("error", "k <= 5: mean share", "largest", "k <= 9: mean share", "largest")
    for error in (0.005, 0.01, 0.02, 0.03):
        cells = []
        for max_kernel in (5, 9):
            shares = [
                lazily(table, part, "delta", kind=seeing(table, seed, error))[0]
                for seed in SEEDS
                for table in (demo_table(max_kernel=max_kernel, seed=seed),)
                for part in BUDGETS
            ]
            cells += [f"{np.mean(shares):.1%}", f"{max(shares):.1%}"]
        row(error, *cells)


def seeing(table, seed, error):
    """Bounds whose predictions are the truth but for an error."""
    truth = table.delta[table.rows]
    predicted = truth + error * np.random.default_rng(seed).normal(size=len(truth))

    class Seeing(Bounds):
        def _fit(self, delta, known):
            return predicted, error

    return Seeing


def violations() -> None:
    print("\n### How often the bounds are wrong, over the demonstration's whole table\n")
    header(
        "seed",
        "gain: Δ > 0",
        "order: pairs with Δ(c) > Δ(d)",
        "by more than 0.02",
        "largest",
    )
    for seed in SEEDS:
        table = demo_table(seed=seed)
        rows = np.flatnonzero(~table.is_original)
        delta = table.delta[rows]
        start, end = table.start[rows], table.end[rows]
        goes_on = Bounds(start, end, [table.kept[row] for row in rows]).goes_on
        excess = (delta[None, :] - delta[:, None])[goes_on & ~np.eye(len(rows), dtype=bool)]
        row(
            seed,
            f"{(delta > 0).mean():.1%}",
            f"{(excess > 0).mean():.1%} of {len(excess)}",
            f"{(excess > 0.02).mean():.1%}",
            f"{excess.max():.3f}",
        )


def ranks(values):
    """Ranks with ties averaged."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def spearman(x, y):
    return np.corrcoef(ranks(x), ranks(y))[0, 1]


def rank_correlations() -> None:
    print("\n### Spearman correlation with the fine-tuned score, three seeds averaged\n")
    tables = [demo_table(seed=seed) for seed in SEEDS]
    rows = np.flatnonzero(~tables[0].is_original)
    delta = np.mean([table.delta for table in tables], 0)[rows]
    best = np.argsort(delta)[-len(rows) // 3 :]
    header("training-free score", "all 140", "best third")
    scores = {name: values[rows] for name, values in tables[0].guesses.items()}
    scores["minus layers and activations removed"] = -tables[0].removed[rows].sum(1)
    for name, values in scores.items():
        row(name, f"{spearman(values, delta):.3f}", f"{spearman(values[best], delta[best]):.3f}")
    pairs = [(0, 1), (0, 2), (1, 2)]
    again = [spearman(tables[a].delta[rows], tables[b].delta[rows]) for a, b in pairs]
    row("the fine-tune with another seed", f"{np.mean(again):.3f}", "")


def authors_spaces() -> None:
    print("\n### Synthetic tables in the authors' spaces, ten of each, three budgets\n")
    header(
        "space",
        "objective",
        "noise",
        "mean share",
        "largest",
        "same optimum",
        "mean loss",
        "largest",
    )
    for name, objective, noise in product(
        ("mobilenetv2", "resnet34"), OBJECTIVES, (0.0, 0.003, 0.01)
    ):
        tables = [synthetic_table(name, seed=seed, noise=noise) for seed in range(10)]
        found = [
            lazily(table, part, objective, guess="training_free")
            for table, part in product(tables, BUDGETS)
        ]
        row(f"{name} ({tables[0].num_replacements})", objective, noise, *summary(found))


if __name__ == "__main__":
    demo_by_budget()
    demo_by_settings()
    better_predictions()
    violations()
    rank_correlations()
    authors_spaces()
