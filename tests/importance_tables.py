"""Full importance tables to search lazily: the demonstration's, and ones in the authors' spaces."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layermerge.importance.bounds import ASSUMED, Bounds, Margins, removals
from layermerge.importance.lazy import Choices, Round, search
from layermerge.solver import solve
from layermerge.table_files import read_importance, read_latency
from layermerge.tables import matching_rows

DATA = Path(__file__).parent / "data"
OBJECTIVES = {"exp_delta": np.exp, "delta": lambda delta: delta}
BUDGETS = (0.8, 0.65, 0.5)


@dataclass
class FullTable:
    """A table in which every change Δ of the score is known.

    Attributes
    ----------
    start, end, latency_ns, delta : arrays [n]
    kept : tuple of tuple of int
    fixed_ns : int
        Of the barriers, which a budget includes.
    guesses : mapping of str to array [n]
        Training-free scores.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    kept: tuple[tuple[int, ...], ...]
    latency_ns: NDArray[np.int64]
    delta: NDArray[np.float64]
    fixed_ns: int
    guesses: dict[str, NDArray[np.float64]]

    def __post_init__(self) -> None:
        self.removed = removals(self.start, self.end, self.kept)
        self.is_original = ~self.removed.any(1)
        by_layer = dict(
            zip(self.end[self.is_original], self.latency_ns[self.is_original], strict=True)
        )
        replaced = [
            sum(by_layer[layer] for layer in range(first + 1, last + 1))
            for first, last in zip(self.start, self.end, strict=True)
        ]
        self.rows = np.flatnonzero(self.is_original | (self.latency_ns < replaced))
        self.original_ns = self.fixed_ns + sum(by_layer.values())

    @property
    def num_replacements(self) -> int:
        """Entries that the paper evaluates: all but the original ones."""
        return int((~self.is_original).sum())

    def budget_ns(self, part: float) -> int:
        """What a part of the original latency leaves for the entries."""
        return int(part * self.original_ns) - self.fixed_ns

    def best(self, part: float, objective: str, delta: NDArray[np.float64] | None = None):
        """The optimum of the full table: value, and rows among all entries."""
        values = OBJECTIVES[objective](self.delta if delta is None else delta)[self.rows]
        found = solve(
            self.latency_ns[self.rows],
            values,
            start=self.start[self.rows],
            end=self.end[self.rows],
            budget_ns=self.budget_ns(part),
        )
        return found.value, self.rows[list(found.rows)]

    def lazily(
        self,
        part: float,
        objective: str,
        *,
        guess: str | None = None,
        margins: Margins = ASSUMED,
        per_round: int = 1,
        kind: type[Bounds] = Bounds,
    ) -> Round:
        """Search as if nothing were known."""
        rows = self.rows
        guesses = None if guess is None else self.guesses[guess][rows]
        kept = [self.kept[row] for row in rows]
        bounds = kind(self.start[rows], self.end[rows], kept, guesses, margins)
        choices = Choices(self.start[rows], self.end[rows], self.latency_ns[rows], bounds)
        _, state = search(
            choices,
            np.where(self.is_original[rows], self.delta[rows], np.nan),
            [self.budget_ns(part)],
            lambda asked: {row: float(self.delta[rows[row]]) for row in asked[:per_round]},
            objective=OBJECTIVES[objective],
        )
        return state


def demo_table(*, max_kernel: int = 9, seed: int = 0) -> FullTable:
    """The demonstration's network, up to a kernel size, with the scores of one seed."""
    document = json.loads((DATA / "demo.importance.json").read_text(encoding="utf-8"))
    place = document["seeds"].index(seed)
    base = document["base"][place]
    entries = [
        entry
        for entry in document["entries"]
        if "scores" not in entry or max(entry["kernel_size"]) <= max_kernel
    ]
    names = next(iter(e["training_free"] for e in entries if "scores" in e))
    originals = {"no_training": base, "closed_form_score": base}
    return FullTable(
        np.array([entry["start"] for entry in entries]),
        np.array([entry["end"] for entry in entries]),
        tuple(tuple(entry["kept"]) for entry in entries),
        np.array([entry["latency_ns"] for entry in entries]),
        np.array([e["scores"][place] - base if "scores" in e else 0.0 for e in entries]),
        document["fixed_ns"],
        {
            name: np.array(
                [
                    e["training_free"][name] if "scores" in e else originals.get(name, 0.0)
                    for e in entries
                ]
            )
            for name in names
        },
    )


def synthetic_table(name: str, *, seed: int, noise: float, quality: float = 0.5) -> FullTable:
    """Made-up changes of the score in the search space of the authors for a network.

    Each removed layer and activation costs something, at random; costs add up and saturate at 0.9,
    entries differ from that by normal noise, and a training-free score sees the cost through
    log-normal noise of scale `quality`.
    """
    latency = read_latency(DATA / "reference" / f"{name}.s1.time.csv")
    importance = read_importance(DATA / "reference" / f"{name}.s1.importance.csv")
    rows = matching_rows(latency, importance)
    entries = latency.entries
    table = FullTable(
        entries.start.astype(np.int64),
        entries.end.astype(np.int64),
        tuple(importance.kept[row] for row in rows),
        latency.latency_ns,
        np.zeros(len(entries)),
        0,
        {},
    )
    generator = np.random.default_rng(seed)
    num_layers = table.removed.shape[1] // 2
    cost = np.concatenate(
        [generator.gamma(1.0, 0.02, num_layers), generator.gamma(1.0, 0.008, num_layers)]
    )
    loss = 0.9 * (1 - np.exp(-(table.removed @ cost) / 0.9))
    table.guesses["training_free"] = -loss * np.exp(quality * generator.normal(size=len(loss)))
    table.delta = np.where(table.is_original, 0.0, -loss + noise * generator.normal(size=len(loss)))
    return table
