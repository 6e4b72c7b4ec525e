"""Measures of ranking quality, from the ranks of the relevant items of a query.

They are those of trec_eval: gains are the grades, grades below 1 gain nothing, and items without a judgement are not
relevant. A query without a relevant item scores 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["average_precision", "names", "ndcg", "recall", "reciprocal_rank", "success"]

# In all of them: ranks count from 1, and 0 says that the item is not in the ranking.


def ndcg(ranks: NDArray[np.int64], grades: NDArray[np.int64], k: int) -> float:
    """Return the normalised discounted cumulative gain at ``k`` (Jarvelin and Kekalainen, 2002; linear gains).

    Parameters
    ----------
    ranks, grades : ndarray of int64, shape (relevant items,)
        Rank and grade of each; grades are at least 1.
    k : int
        Places that count.
    """
    if not len(grades):
        return 0.0
    within = (ranks > 0) & (ranks <= k)
    gained = _discounted(ranks[within], grades[within])
    ideal = np.sort(grades)[::-1][:k]
    return gained / _discounted(np.arange(1, len(ideal) + 1), ideal)


def _discounted(ranks: NDArray[np.int64], grades: NDArray[np.int64]) -> float:
    return float((grades / np.log2(ranks + 1.0)).sum())


def recall(ranks: NDArray[np.int64], k: int) -> float:
    """Return the share of the relevant items that are among the first ``k``."""
    return _among(ranks, k) / len(ranks) if len(ranks) else 0.0


def success(ranks: NDArray[np.int64], k: int) -> float:
    """Return 1 where a relevant item is among the first ``k``, else 0."""
    return float(_among(ranks, k) > 0)


def _among(ranks: NDArray[np.int64], k: int) -> int:
    return int(np.count_nonzero((ranks > 0) & (ranks <= k)))


def reciprocal_rank(ranks: NDArray[np.int64]) -> float:
    """Return 1 / the rank of the first relevant item."""
    found = ranks[ranks > 0]
    return 1.0 / int(found.min()) if len(found) else 0.0


def average_precision(ranks: NDArray[np.int64]) -> float:
    """Return the mean, over all relevant items, of the precision at their ranks; 0 for those that were not found."""
    found = np.sort(ranks[ranks > 0])
    return float((np.arange(1, len(found) + 1) / found).sum()) / len(ranks) if len(ranks) else 0.0


def names(ks: Sequence[int]) -> list[str]:
    """Return the names of all measures, in the order of a table."""
    return [f"{measure}@{k}" for measure in ("ndcg", "recall", "success") for k in ks] + ["mrr", "map"]
