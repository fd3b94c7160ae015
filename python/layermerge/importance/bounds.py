"""Upper bounds on scores that are not known yet (no torch).

Three facts bound the change Δ of the score of an entry that was not evaluated, each up to a margin:

- no replacement beats the original network: Δ <= gain;
- removing more is not better: if d removes a subset of what c removes, Δ(c) <= Δ(d) + order;
- a training-free score predicts: Δ <= p(g) + prediction · r, where p is the best non-decreasing fit
  of the known Δ on their training-free scores g, and r the largest |Δ - p(g)| among them.

None of them is certain, which is why a plan that rests on them says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layermerge.errors import InputError

FEWEST_KNOWN = 6
"""Known scores that a prediction needs before it bounds anything."""


@dataclass(frozen=True)
class Margins:
    """How far reality may exceed what the bounds assume.

    Attributes
    ----------
    gain, order : float
        In units of the raw score.
    prediction : float
        In multiples of the largest error so far; infinity leaves predictions out of the bounds.
    """

    gain: float = 0.0
    order: float = 0.0
    prediction: float = math.inf

    def __post_init__(self) -> None:
        for name in ("gain", "order", "prediction"):
            value = getattr(self, name)
            if not value >= 0:
                raise InputError(f"margin {name} must be at least 0, got {value!r}")


class Bounds:
    """Bounds for the entries of a table.

    Parameters
    ----------
    start, end : int array [n]
    kept : sequence of tuple of int, n of them
        The layers that each entry keeps.
    guesses : float array [n], optional
        Training-free scores, in any unit; higher is better.
    margins : Margins
    """

    def __init__(
        self,
        start: NDArray[np.integer],
        end: NDArray[np.integer],
        kept: Sequence[tuple[int, ...]],
        guesses: NDArray[np.float64] | None = None,
        margins: Margins = Margins(),
    ) -> None:
        removed = removals(start, end, kept)
        self.num_removed = removed.sum(1)
        self.guesses = guesses
        self.margins = margins
        # d removes a subset of what c removes if all it removes is removed by c too.
        common = removed.astype(np.float32) @ removed.T.astype(np.float32)
        self._is_subset = common == self.num_removed[:, None]

    def upper(self, delta: NDArray[np.float64]) -> NDArray[np.float64]:
        """An upper bound on each Δ, from the known ones; NaN and -inf are not known.

        Returns
        -------
        float64 array [n]
            Meaningless where Δ is known.
        """
        known = self._known(delta)
        bound = np.full(len(delta), self.margins.gain)
        if len(known):
            by_order = np.where(self._is_subset[known], delta[known, None], np.inf).min(0)
            bound = np.minimum(bound, by_order + self.margins.order)
        if len(known) >= FEWEST_KNOWN and math.isfinite(self.margins.prediction):
            bound = np.minimum(bound, self._predicted_at_most(delta, known))
        return bound

    def predict(self, delta: NDArray[np.float64]) -> NDArray[np.float64]:
        """The likely Δ of each entry, never above its bound."""
        bound = self.upper(delta)
        known = self._known(delta)
        if self.guesses is None or not len(known):
            return bound
        return np.minimum(bound, fit_monotone(self.guesses, self.guesses[known], delta[known]))

    def _predicted_at_most(
        self, delta: NDArray[np.float64], known: NDArray[np.intp]
    ) -> NDArray[np.float64] | float:
        if self.guesses is None:
            return math.inf
        fit = fit_monotone(self.guesses, self.guesses[known], delta[known])
        largest_error = np.abs(delta[known] - fit[known]).max()
        return np.asarray(fit + self.margins.prediction * largest_error)

    def _known(self, delta: NDArray[np.float64]) -> NDArray[np.intp]:
        """Entries with a score that remove something: the original ones say nothing."""
        return np.flatnonzero(np.isfinite(delta) & (self.num_removed > 0))


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


def fit_monotone(
    at: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The non-decreasing function of least squared error through (x, y), at other places.

    Pools adjacent violators; linear between the points, constant outside them.

    Examples
    --------
    >>> fit_monotone(np.array([1.0, 2.5]), np.array([1.0, 2, 3]), np.array([0.0, 4, 2])).tolist()
    [0.0, 3.0]
    """
    places, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(inverse.ravel(), y) / counts
    blocks: list[tuple[float, int, int]] = []  # mean, weight, points
    for mean, count in zip(means.tolist(), counts.tolist(), strict=True):
        block = (mean, count, 1)
        while blocks and blocks[-1][0] >= block[0]:
            block = _pooled(blocks.pop(), block)
        blocks.append(block)
    values = np.repeat([mean for mean, _, _ in blocks], [points for *_, points in blocks])
    return np.interp(at, places, values)


def _pooled(left: tuple[float, int, int], right: tuple[float, int, int]) -> tuple[float, int, int]:
    weight = left[1] + right[1]
    return (left[0] * left[1] + right[0] * right[1]) / weight, weight, left[2] + right[2]
