"""BM25: the chunks that fit the words of a query, among the rows that a filter allows.

Scores are those of tantivy: BM25 with k1 = 1.2 and b = 0.75, each distinct term of the query counted once. They rest on
all rows that the index has, also those of documents that were deleted since the last compaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._collection.terms import query_terms

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ROW_FIELD", "TEXT_FIELD", "WordSearcher"]

ROW_FIELD: Final = "row"
TEXT_FIELD: Final = "text"

_TERMS: Final = 32
"""Terms of a query that are looked up: the rarest, which decide the score. The time grows with them."""

_READ_TERMS: Final = 4096
"""Terms of a query among which the rarest are chosen."""

_FEW: Final = 700
"""Allowed rows that are named in the query. More are filtered from what it finds, which takes less time then."""

_SPARE: Final = 128
"""Hits that are fetched beyond those that are expected to do: they cost less than a second search."""

_GROWTH: Final = 8
_TIES: Final = 1 << 17
"""Hits that are fetched to order equal scores by row. Among more than that, those that came first count."""

_NOISE: Final = 64
"""Last places of a float32 that depend on the order in which the scores of terms were added."""


class WordSearcher:
    """An open index of words. Any thread may use it.

    Parameters
    ----------
    library : module
        tantivy.
    index : tantivy.Index
        The index.
    rows : int
        Up to which row it goes.
    """

    def __init__(self, library: Any, index: Any, rows: int) -> None:
        self._library = library
        self._schema = index.schema
        self._searcher = index.searcher()
        self._rows = rows

    def top(self, text: str, count: int, mask: NDArray[np.bool_] | None, total: int) -> tuple[list[int], list[float]]:
        """Return the best rows for the words of a text, with their scores.

        Parameters
        ----------
        text : str
            Any text.
        count : int
            Rows to return.
        mask : ndarray of bool or None
            The rows that may be found; None for all.
        total : int
            Rows from this one on are left out.

        Returns
        -------
        rows, scores : list
            Best first, and equal scores by row. Rows without any of the words are not among them.
        """
        query = self._query(text)
        allowed = total if mask is None else int(np.count_nonzero(mask))
        if query is None or not allowed:
            return [], []
        if mask is None and total < self._rows:
            mask = np.ones(total, np.bool_)
        if mask is not None and allowed <= _FEW:
            query, mask = self._among(query, np.flatnonzero(mask).tolist()), None
        limit = _SPARE + 2 * count * (1 if mask is None else 1 + self._rows // allowed)
        while True:
            limit = min(limit, max(1, self._rows))
            rows, scores = self._found(query, limit)
            keys = (scores.view(np.uint32).astype(np.int64) + _NOISE // 2) // _NOISE
            is_whole, last = len(rows) < limit or limit == self._rows, keys[-1:]
            if mask is not None:
                inside = rows < total
                inside[inside] = mask[rows[inside]]
                rows, scores, keys = rows[inside], scores[inside], keys[inside]
            # What was not fetched scores no higher than the last: it may be one of the best only if it is equal.
            if is_whole or (len(rows) >= count and (keys[count - 1] > last or limit >= _TIES)):
                order = np.lexsort((rows, -keys))[:count]
                return rows[order].tolist(), scores[order].tolist()
            limit *= _GROWTH

    def scores(self, text: str, rows: list[int]) -> dict[int, float]:
        """Return the score of each of some rows that has a word of a text."""
        query = self._query(text)
        if query is None or not rows:
            return {}
        found, scores = self._found(self._among(query, rows), len(rows))
        return dict(zip(found.tolist(), scores.tolist(), strict=True))

    def _found(self, query: Any, limit: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        hits = self._searcher.search(query, limit, count=False).hits
        rows = self._searcher.fast_field_values(ROW_FIELD, [address for _, address in hits]) if hits else []
        return np.array(rows, np.int64), np.array([score for score, _ in hits], np.float32)

    def _query(self, text: str) -> Any:
        """Return the query for the terms of a text; None where no chunk has any of them."""
        counted = [(self._searcher.doc_freq(TEXT_FIELD, term), term) for term in query_terms(text)[:_READ_TERMS]]
        terms = [term for count, term in sorted((pair for pair in counted if pair[0]), key=lambda pair: pair[0])]
        if not terms:
            return None
        query, should = self._library.Query, self._library.Occur.Should
        return query.boolean_query([
            (should, query.term_query(self._schema, TEXT_FIELD, term, index_option="freq")) for term in terms[:_TERMS]
        ])  # fmt: skip

    def _among(self, query: Any, rows: list[int]) -> Any:
        """Return a query that finds only some rows, with the same scores."""
        kind, must = self._library.Query, self._library.Occur.Must
        among = kind.const_score_query(kind.term_set_query(self._schema, ROW_FIELD, rows), 0.0)
        return kind.boolean_query([(must, among), (must, query)])
