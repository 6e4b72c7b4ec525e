"""A search from its arguments to its hits, all in one state of the collection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxembed._collection.hybrid import ranking_of
from ctxembed._collection.query import find_hits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctxembed._collection.bm25 import WordSearcher
    from ctxembed._collection.query import SearchOptions
    from ctxembed._collection.view import View
    from ctxembed._documents import Hit

__all__ = ["CheckedSearch", "Found"]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has found, with the state that it is of.

    Parameters
    ----------
    view : View
        The state.
    vector : ndarray or Embeddings
        That of the query.
    hits : list of Hit
        Best first.
    """

    view: View
    vector: Any
    hits: list[Hit]

    def vectors(self) -> NDArray[Any]:
        """Return the vectors of the hits, in their order."""
        rows = []
        for hit in self.hits:
            document = self.view.find(hit.document)
            assert document is not None  # noqa: S101  # it was found in this state
            rows.append(document[6] + hit.chunk)
        found: NDArray[Any] = self.view.index.vectors(rows)
        return found


@dataclass(frozen=True, slots=True)
class CheckedSearch:
    """A search whose arguments were checked.

    Parameters
    ----------
    view : View
        The state that is searched.
    query : str, ndarray or Embeddings
        As given.
    options : SearchOptions
        Of the search.
    words : WordSearcher or None
        Of that state, for a hybrid search.
    """

    view: View
    query: Any
    options: SearchOptions
    words: WordSearcher | None

    def found(self, vector: Any) -> Found:
        """Search for the vector of the query."""
        ranking = ranking_of(self.view, self.words, self.query, vector, self.options)
        return Found(self.view, vector, find_hits(self.view, ranking, self.options))
