"""Hybrid search: the rows nearest to a vector and the rows that fit its words, fused by reciprocal rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._collection.query import VectorRanking, find_rows, scores_of, single_query
from ctxembed._collection.ranking import RankedRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctxembed._collection.bm25 import WordSearcher
    from ctxembed._collection.query import SearchOptions
    from ctxembed._collection.ranking import Ranking
    from ctxembed._collection.view import View

__all__ = ["HybridRanking", "check_hybrid", "fused", "ranking_of"]

_CONSTANT: Final = 60
"""The row at place n of a ranking, from 1, gains ``1 / (_CONSTANT + n)`` (Cormack, Clarke and Buettcher, 2009)."""

VECTOR_DEPTH: Final = 200
TEXT_DEPTH: Final = 10
"""Rows of both rankings that are fused; the same multiple of both where more than ``VECTOR_DEPTH`` are asked for. The
first rows are the same for any ``k`` up to there. These depths were chosen on Cranfield, with vectors of hashed words:
equal ones were worse than words alone there, whatever the depth."""


def check_hybrid(hybrid: object, query: object) -> None:
    """Refuse a hybrid search without words.

    Raises
    ------
    TypeError
        ``hybrid`` is no bool, or the query of a hybrid search no text.
    """
    if not isinstance(hybrid, bool):
        raise TypeError(f"hybrid must be a bool, got {hybrid!r:.100}")
    if hybrid and not isinstance(query, str):
        raise TypeError(
            f"hybrid=True needs a text query, whose words are searched: got {type(query).__name__}. A client= whose "
            "embed_queries returns this vector can stand beside the text"
        )


def ranking_of(view: View, words: WordSearcher | None, text: Any, vector: Any, options: SearchOptions) -> Ranking:
    """Return the ranking of a search: by a vector, or by words too.

    Parameters
    ----------
    view : View
        The state to search.
    words : WordSearcher or None
        Of that state, for a hybrid search.
    text : str
        The query of a hybrid search.
    vector : ndarray or Embeddings
        That of the query.
    options : SearchOptions
        Of the search.
    """
    query = single_query(vector)
    return VectorRanking(view, query, options) if words is None else HybridRanking(view, words, text, query, options)


@dataclass(frozen=True, slots=True)
class HybridRanking:
    """The rows that fit a text and its vector. It implements :class:`~ctxembed._collection.ranking.Ranking`.

    Equal scores are in the order of the vectors' scores, then of the rows. ``text_score`` is 0 for a row that has no
    word of the query.
    """

    view: View
    words: WordSearcher
    text: str
    query: Any
    options: SearchOptions

    def best(self, depth: int) -> list[RankedRow]:
        """Return the best ``depth`` rows, with all of their scores."""
        by_vector, vector_score = self._by_vector(max(depth, VECTOR_DEPTH), self.options.mask)
        by_text, text_scores = self.words.top(
            self.text, max(TEXT_DEPTH, depth * TEXT_DEPTH // VECTOR_DEPTH), self.options.mask, self.view.rows
        )
        further = np.array([row for row in by_text if row not in vector_score], np.int64)
        if len(further):
            vector_score |= self._by_vector(len(further), np.sort(further))[1]
        total = fused(by_vector, by_text)
        best = sorted(total, key=lambda row: (-total[row], -vector_score[row], row))[:depth]
        text_score = dict(zip(by_text, text_scores, strict=True))
        text_score.update(self.words.scores(self.text, [row for row in best if row not in text_score]))
        return [RankedRow(row, total[row], vector_score[row], text_score.get(row, 0.0)) for row in best]

    def _by_vector(self, depth: int, mask: NDArray[Any] | None) -> tuple[list[int], dict[int, float]]:
        found = find_rows(self.view, self.query, replace(self.options, k=depth, mask=mask))
        rows = found.ids.reshape(-1).tolist()
        scores = scores_of(self.view, self.query, found, self.options.dimensions)
        return rows, dict(zip(rows, scores, strict=True))

    def without(self, rows: NDArray[np.bool_]) -> None:  # noqa: ARG002
        """Return None: a row that is absent changes the ranks of others."""
        return


def fused(*rankings: Sequence[int]) -> dict[int, float]:
    """Return the sum of reciprocal ranks of each row in some rankings."""
    total: dict[int, float] = {}
    for ranking in rankings:
        for place, row in enumerate(ranking, start=1):
            total[row] = total.get(row, 0.0) + 1 / (_CONSTANT + place)
    return total
