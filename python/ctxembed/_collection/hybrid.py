"""Hybrid search: the rows nearest to a vector and the rows that fit its words, fused by reciprocal rank."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._collection.query import Ranked, find_rows, scores_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxembed._collection.bm25 import WordSearcher
    from ctxembed._collection.query import SearchOptions
    from ctxembed._collection.view import View

__all__ = ["check_hybrid", "fused", "hybrid_rows"]

_CONSTANT: Final = 60
"""The row at place n of a ranking, from 1, gains ``1 / (_CONSTANT + n)`` (Cormack, Clarke and Buettcher, 2009)."""

VECTOR_DEPTH: Final = 200
"""Rows of the ranking by vectors that are fused, or as many as are asked for, where these are more."""

TEXT_DEPTH: Final = 10
"""Rows of the ranking by words. Fewer than of the other: rows far behind have common words only, and a gain for these
would outweigh the vectors."""


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


def hybrid_rows(
    view: View, words: WordSearcher, query: Any, text: str, options: SearchOptions, *, count: int
) -> list[Ranked]:
    """Return the best rows for a query, with all of their scores.

    Parameters
    ----------
    view : View
        The state to search.
    words : WordSearcher
        Of that state.
    query : ndarray or Embeddings
        The vector of the query.
    text : str
        The query.
    options : SearchOptions
        Its mask filters both rankings. Its ``k`` does not count.
    count : int
        Rows to return. More may be ranked otherwise than fewer, if they are more than ``TEXT_DEPTH``.

    Returns
    -------
    list of Ranked
        Best first. Equal scores are in the order of the vectors' scores, then of the rows. ``text_score`` is 0 for a
        row that has no word of the query.
    """
    found = find_rows(view, query, dataclasses.replace(options, k=max(count, VECTOR_DEPTH)))
    by_vector = found.ids.reshape(-1).tolist()
    by_text, text_scores = words.top(text, max(count, TEXT_DEPTH), options.mask, view.rows)
    vector_score = dict(zip(by_vector, scores_of(view, query, found, options.dimensions), strict=True))
    further = np.array([row for row in by_text if row not in vector_score], np.int64)
    if len(further):
        rest = find_rows(view, query, dataclasses.replace(options, k=len(further), mask=np.sort(further)))
        scores = scores_of(view, query, rest, options.dimensions)
        vector_score.update(zip(rest.ids.reshape(-1).tolist(), scores, strict=True))
    total = fused(by_vector, by_text)
    best = sorted(total, key=lambda row: (-total[row], -vector_score[row], row))[:count]
    text_score = dict(zip(by_text, text_scores, strict=True))
    text_score.update(words.scores(text, [row for row in best if row not in text_score]))
    return [Ranked(row, total[row], vector_score[row], text_score.get(row, 0.0)) for row in best]


def fused(*rankings: Sequence[int]) -> dict[int, float]:
    """Return the sum of reciprocal ranks of each row in some rankings."""
    total: dict[int, float] = {}
    for ranking in rankings:
        for place, row in enumerate(ranking, start=1):
            total[row] = total.get(row, 0.0) + 1 / (_CONSTANT + place)
    return total
