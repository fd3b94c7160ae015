"""Predictions of scores that are not known yet, and upper bounds on them (no torch).

Three facts bound the change Δ of the score of an entry that was not evaluated, each up to a margin:

- no replacement beats the original network: Δ <= gain;
- going further is not better: if c removes what d removes and more, but no further layer of d's
  segment, Δ(c) <= Δ(d) + order. A further layer there may help: a residual block that lost its
  whole branch can be better than one that lost half;
- known scores predict unknown ones: Δ <= p + prediction · e, where p is a linear model of what an
  entry removes, fitted to the known Δ, and e its root mean square error, leaving one out.

None of them is certain, which is why a plan that rests on them says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layermerge.checks import check_instance, check_number

FEWEST_KNOWN = 6
"""Known scores that a prediction needs before it bounds anything."""
SHARED_PENALTY, SINGLE_PENALTY = 1e-4, 1e-2
"""Ridge of the weights that all entries share, and of those of single layers and activations."""


@dataclass(frozen=True)
class Margins:
    """How far reality may exceed what the bounds assume.

    Attributes
    ----------
    gain, order : float
        In units of the raw score; an infinite order leaves that bound out.
    prediction : float
        In multiples of the prediction's error; infinity leaves predictions out of the bounds.
    """

    gain: float = 0.0
    order: float = 0.0
    prediction: float = 2.0

    def __post_init__(self) -> None:
        check_number("margin gain", self.gain, least=0)
        for name in ("order", "prediction"):
            value = getattr(self, name)
            if not (isinstance(value, float) and value == math.inf):
                check_number(f"margin {name}", value, least=0)


ASSUMED = Margins()


class Bounds:
    """Predictions and bounds for the entries of a table.

    Parameters
    ----------
    start, end : int array [n]
    kept : sequence of tuple of int, n of them
        The layers that each entry keeps.
    guesses : float array [n], optional
        Training-free scores, in any unit; higher is better. They enter the prediction.
    margins : Margins

    Attributes
    ----------
    num_removed : float64 array [n]
        Layers and activations that each entry removes.
    goes_on : bool array [n, n]
        Whether the entry of a column goes on where that of a row ends: it removes the same, and
        more outside.
    """

    def __init__(
        self,
        start: NDArray[np.integer],
        end: NDArray[np.integer],
        kept: Sequence[tuple[int, ...]],
        guesses: NDArray[np.float64] | None = None,
        margins: Margins = ASSUMED,
    ) -> None:
        check_instance("margins", margins, Margins, "Margins(...)")
        removed = removals(start, end, kept).astype(np.float64)
        self.num_removed = removed.sum(1)
        self.margins = margins
        self._features, self._penalty = _features(removed, guesses)
        self.goes_on = _goes_on(np.asarray(start), np.asarray(end), removed)

    def upper(self, delta: NDArray[np.float64]) -> NDArray[np.float64]:
        """An upper bound on each Δ, from the known ones; NaN and minus infinity are not known.

        Returns
        -------
        float64 array [n]
            Meaningless where Δ is known.
        """
        known = self._known(delta)
        bound = np.full(len(delta), self.gain(delta))
        if len(known):
            by_order = np.where(self.goes_on[known], delta[known, None], np.inf).min(0)
            bound = np.minimum(bound, by_order + self.margins.order)
        if len(known) >= FEWEST_KNOWN and math.isfinite(self.margins.prediction):
            predicted, error = self._fit(delta, known)
            bound = np.minimum(bound, predicted + self.margins.prediction * error)
        return bound

    def gain(self, delta: NDArray[np.float64]) -> float:
        """What no replacement gains: the margin, or twice the most that was seen, if that is more.

        Once one gains more than the margin, the assumption behind it is wrong.
        """
        most = float(max(delta[self._known(delta)], default=0.0))
        return self.margins.gain if most <= self.margins.gain else 2 * most

    def predict(self, delta: NDArray[np.float64]) -> NDArray[np.float64]:
        """The likely Δ of each entry, never above its bound."""
        known = self._known(delta)
        predicted, _ = self._fit(delta, known)
        return np.minimum(self.upper(delta), predicted)

    def _fit(
        self, delta: NDArray[np.float64], known: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], float]:
        """Ridge regression: what it predicts for each entry, and its error leaving one out."""
        if len(known) < 2:
            # Before anything is known, removing more is worse, by little.
            return -1e-3 * self.num_removed, math.inf
        seen = self._features[known]
        solved = np.linalg.solve(seen.T @ seen + np.diag(self._penalty), seen.T)
        residual = delta[known] - seen @ (solved @ delta[known])
        leverage = np.einsum("ij,ji->i", seen, solved)
        left_out = residual / np.maximum(1 - leverage, 1e-3)
        predicted = self._features @ (solved @ delta[known])
        return predicted, float(np.sqrt(np.mean(left_out**2)))

    def _known(self, delta: NDArray[np.float64]) -> NDArray[np.intp]:
        """Entries with a score that remove something: the original ones say nothing."""
        return np.flatnonzero(np.isfinite(delta) & (self.num_removed > 0))


def _goes_on(
    start: NDArray[np.integer], end: NDArray[np.integer], removed: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """For each d (row) and c: whether c removes all that d does, and no more layers inside d."""
    layers = removed[:, : removed.shape[1] // 2]
    places = np.arange(layers.shape[1])
    inside = (start[:, None] <= places) & (places < end[:, None])
    removes_all = removed @ removed.T == removed.sum(1)[:, None]
    same_inside = inside @ layers.T == layers.sum(1)[:, None]
    return np.asarray(removes_all & same_inside)


def _features(
    removed: NDArray[np.float64], guesses: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns of the linear model, 0 for an entry that removes nothing, and their penalties."""
    size = removed.sum(1, keepdims=True)
    shared = [size / max(1.0, size.max(initial=0))]
    if guesses is not None:
        distance = guesses - guesses.max(initial=-math.inf)
        shared.append((distance / max(-distance.min(initial=0), 1e-300))[:, None])
    columns = [*shared, removed / math.sqrt(max(1, removed.shape[1]))]
    penalties = [SHARED_PENALTY] * len(shared) + [SINGLE_PENALTY] * removed.shape[1]
    return np.concatenate(columns, 1), np.array(penalties)


def removals(
    start: NDArray[np.integer], end: NDArray[np.integer], kept: Sequence[tuple[int, ...]]
) -> NDArray[np.bool_]:
    """What each entry removes: layers in the first L columns, inner activations in the others.

    Examples
    --------
    Layers 1 and 2 become one convolution made of layer 2:

    >>> removals(np.array([0]), np.array([2]), [(2,)]).astype(int).tolist()
    [[1, 0, 1, 0]]
    """
    num_layers = int(end.max(initial=0))
    removed = np.zeros((len(start), 2, num_layers), np.bool_)
    for entry, (first, last, stay) in enumerate(zip(start, end, kept, strict=True)):
        removed[entry, 0, first:last] = True
        removed[entry, 0, [layer - 1 for layer in stay]] = False
        removed[entry, 1, first : last - 1] = True
    return removed.reshape(len(start), -1)
