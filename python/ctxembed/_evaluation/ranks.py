"""The ranks of the relevant items of each query, by a variant of search."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._collection.hybrid import HybridRanking
from ctxembed._collection.query import SearchOptions
from ctxembed._collection.ranking import RankedRow, distinct_rows
from ctxembed._core import Matches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ctxembed._collection.bm25 import WordSearcher
    from ctxembed._collection.ranking import Ranking
    from ctxembed._collection.view import View
    from ctxembed._evaluation.corpus import Corpus, StoredCorpus
    from ctxembed._evaluation.judged import JudgedQueries
    from ctxembed._evaluation.variants import Variant

__all__ = ["Ranker", "Ranks"]

_CELLS: Final = 1 << 23
"""Ranked rows that are held at once."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of the relevant items of one query, from 1; 0 for one that was not found.

    Parameters
    ----------
    whole : ndarray of int64
        In the ranking of everything.
    first : dict of int to ndarray of int64
        In the hits of a search for each k.
    """

    whole: NDArray[np.int64]
    first: dict[int, NDArray[np.int64]]


class Ranker:
    """Ranks documents or chunks by the vectors of one arm.

    Parameters
    ----------
    corpus : Corpus
        The rows.
    index : Index or BinaryIndex
        Their vectors.
    judged : JudgedQueries
        What is relevant.
    vectors : ndarray, shape (queries, width)
        Of the queries.
    """

    def __init__(self, corpus: Corpus, index: Any, judged: JudgedQueries, vectors: NDArray[Any]) -> None:
        self._corpus = corpus
        self._index = index
        self._judged = judged
        self._vectors = vectors
        self._by_document = judged.level == "document"
        self._count = len(corpus.ids) if self._by_document else len(corpus.document_of)

    def ranks(self, variant: Variant, ks: Sequence[int]) -> Iterator[Ranks]:
        """Yield the ranks of each query.

        Parameters
        ----------
        variant : Variant
            The search.
        ks : sequence of int
            Hits that are asked for.

        Notes
        -----
        A search in two stages, or by words, chooses among some rows. What it leaves out follows in the order of the
        bits, or of the vectors, for the measures of the whole ranking.
        """
        relevant = self._judged.relevant
        if not variant.is_cut:
            for number, order in enumerate(self._whole(variant)):
                whole = self._places(order, relevant[number])
                yield Ranks(whole, dict.fromkeys(ks, whole))
            return
        for number, rest in enumerate(self._whole(variant.rest)):
            ranking = self.ranking(variant, number)
            items = {k: self._first(ranking, k) for k in ks}
            first = {k: self._places(found, relevant[number]) for k, found in items.items()}
            most = items[max(ks)]
            left = rest[~np.isin(rest, most)]
            yield Ranks(self._places(np.concatenate([most, left]), relevant[number]), first)

    def _whole(self, variant: Variant) -> Iterator[NDArray[np.int64]]:
        """Yield all items in their order for each query."""
        rows = len(self._corpus.document_of)
        at_once = max(1, _CELLS // rows)
        for start in range(0, len(self._vectors), at_once):
            found = variant.search(self._index, self._vectors[start : start + at_once], rows)
            yield from map(self._items, found.ids)

    def _items(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the items of rows, each at its best place."""
        if not self._by_document:
            return rows
        documents = self._corpus.document_of[rows]
        first = np.full(self._count, len(rows), np.int64)
        first[documents[::-1]] = np.arange(len(rows) - 1, -1, -1)  # the last one that is written is the best
        order = np.argsort(first, kind="stable")
        return order[: int(np.count_nonzero(first < len(rows)))]

    def _places(self, order: NDArray[np.int64], relevant: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ranks of the relevant items in an order."""
        places = np.zeros(self._count + 1, np.int64)  # the last is for what is not there: -1
        places[order] = np.arange(1, len(order) + 1)
        return places[relevant]

    def ranking(self, variant: Variant, query: int) -> Ranking:
        """Return the ranking of rows for a query, as a search reads it."""
        vector = self._vectors[query]
        if variant.method != "hybrid":
            return _VectorRanking(self._index, variant, vector)
        corpus: StoredCorpus = self._corpus  # type: ignore[assignment]  # chosen_variants has checked it
        return _WordsRanking(corpus, self._index, variant, vector, self._judged.values[query], corpus.words())

    def _first(self, ranking: Ranking, k: int) -> NDArray[np.int64]:
        """Return the items of the first hits, as a search of a collection returns them."""
        if not self._by_document:
            return np.array([ranked.row for ranked in ranking.best(k)], np.int64)
        nothing = np.zeros(len(self._corpus.document_of), np.bool_)
        found = distinct_rows(ranking, k, nothing, self._corpus.extent)
        found.sort(key=lambda ranked: -ranked.score)  # a deeper search may find a row that one before it has missed
        return self._corpus.document_of[[ranked.row for ranked in found]]


@dataclass(frozen=True)
class _VectorRanking:
    """The rows nearest to a vector. It implements :class:`~ctxembed._collection.ranking.Ranking`."""

    index: Any
    variant: Variant
    query: NDArray[Any]
    mask: NDArray[np.bool_] | None = None

    def best(self, depth: int) -> list[RankedRow]:
        found = self.variant.search(self.index, self.query, depth, self.mask)
        sign = -1.0 if found.metric == "hamming" else 1.0
        pairs = zip(found.ids.reshape(-1).tolist(), found.scores.reshape(-1).tolist(), strict=True)
        return [RankedRow(row, sign * score) for row, score in pairs]

    def without(self, rows: NDArray[np.bool_]) -> _VectorRanking:
        return replace(self, mask=~rows)


@dataclass(frozen=True)
class _WordsRanking:
    """The rows that fit a text and its vector. It implements :class:`~ctxembed._collection.ranking.Ranking`."""

    corpus: StoredCorpus
    index: Any
    variant: Variant
    query: NDArray[Any]
    text: str
    words: WordSearcher

    def best(self, depth: int) -> list[RankedRow]:
        view = self.corpus.view
        options = SearchOptions(depth, view.mask(None, ()), "exact", None, self.variant.dimensions, scan=self._scan)
        ranked = HybridRanking(view, self.words, self.text, self.query, options).best(depth)
        moved = [each._replace(row=int(self.corpus.place_of[each.row])) for each in ranked]
        return sorted(moved, key=lambda each: (-each.score, -(each.vector_score or 0.0), each.row))

    def without(self, rows: NDArray[np.bool_]) -> None:
        """Return None: a row that is absent changes the ranks of others."""

    def _scan(self, view: View, query: Any, options: SearchOptions) -> Matches:  # noqa: ARG002  # of the protocol
        """Search the vectors of this arm for rows of the collection."""
        # All rows here are alive; what else is asked for are some rows that the words have found.
        some = options.mask is not None and options.mask.dtype != np.bool_
        mask = np.sort(self.corpus.place_of[options.mask]) if some else None
        found = self.variant.search(self.index, query, options.k, mask)
        return Matches(self.corpus.rows[found.ids], found.scores)
