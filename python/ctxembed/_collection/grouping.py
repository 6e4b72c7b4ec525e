"""Hits by document: the best chunk of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctxembed._collection.passages import FoundRows
from ctxembed._collection.ranking import distinct_rows

if TYPE_CHECKING:
    from ctxembed._collection.ranking import Ranking
    from ctxembed._collection.view import View

__all__ = ["best_by_document"]


def best_by_document(view: View, ranking: Ranking, k: int, neighbours: int) -> list[FoundRows]:
    """Return the best row of each of the best ``k`` documents, with its neighbours."""
    rows = distinct_rows(ranking, k, np.zeros(view.rows, np.bool_), view.rows_of)
    return [FoundRows.around(view, ranked, neighbours) for ranked in rows]
