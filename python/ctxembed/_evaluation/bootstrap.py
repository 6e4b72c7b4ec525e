"""Intervals of means over queries, by bootstrap: queries are drawn again with replacement.

Every mean of an evaluation is taken over the same draws, so a difference of two is paired.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Bootstrap"]

_CELLS: Final = 1 << 22
"""Counts that are drawn at once."""


class Bootstrap:
    """Draws of some queries.

    Parameters
    ----------
    queries : int
        How many there are.
    resamples : int
        How many times as many are drawn.
    seed : int
        Of the draws: the same seed gives the same intervals.
    confidence : float
        Share of the draws that an interval holds.
    """

    def __init__(self, queries: int, resamples: int, seed: int, confidence: float) -> None:
        self._queries = queries
        self._resamples = resamples
        self._seed = seed
        self._tails = [50 * (1 - confidence), 50 * (1 + confidence)]

    def intervals(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the percentile interval of each mean (Efron and Tibshirani, 1993).

        Parameters
        ----------
        values : ndarray of float64, shape (queries, columns)
            A value of each query; for a difference, that of two values of the same query.

        Returns
        -------
        ndarray of float64, shape (columns, 2)
            Low and high.
        """
        random = np.random.default_rng(self._seed)
        shares = np.full(self._queries, 1 / self._queries)
        at_once = max(1, _CELLS // self._queries)
        means = np.empty((self._resamples, values.shape[1]))
        for start in range(0, self._resamples, at_once):
            count = min(at_once, self._resamples - start)
            drawn = random.multinomial(self._queries, shares, size=count)
            means[start : start + count] = drawn @ values / self._queries
        found: NDArray[np.float64] = np.percentile(means, self._tails, axis=0).T
        return found
