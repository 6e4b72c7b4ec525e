"""Search: a query becomes a vector, the index finds rows, and the catalogue says what they are."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxembed._collection.grouping import best_by_document
from ctxembed._collection.passages import FoundRows, joined_text, merged_passages
from ctxembed._collection.ranking import RankedRow
from ctxembed._documents import Hit
from ctxembed._errors import SpaceError
from ctxembed._models import as_int
from ctxembed._results import Embeddings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from ctxembed._collection.ranking import Ranking
    from ctxembed._collection.view import View

__all__ = [
    "SearchOptions",
    "VectorRanking",
    "check_space",
    "embedded",
    "embedded_async",
    "find_hits",
    "find_rows",
    "read_hits",
    "scores_of",
    "single_query",
]


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """The arguments of a search, checked before a query is paid for.

    Parameters
    ----------
    k : int
        Rows to find.
    mask : ndarray of bool or None
        Rows that may be found.
    stage, oversample, dimensions
        As in :meth:`Index.search`.
    group_by_document : bool
        Whether each document is found once.
    neighbours : int
        Chunks of a passage on each side of the one that was found.
    scan : callable or None
        Finds the rows of a query in place of the index's own search: called with the view, the query and the options.
    """

    k: int
    mask: NDArray[np.bool_] | None
    stage: str
    oversample: int | None
    dimensions: int | None
    group_by_document: bool = False
    neighbours: int = 0
    scan: Callable[[View, Any, SearchOptions], Any] | None = None

    @classmethod
    def check(
        cls,
        view: View,
        k: object,
        where: str | None,
        params: object,
        options: dict[str, Any],
        *,
        group_by_document: object = False,
        neighbours: object = 0,
    ) -> SearchOptions:
        """Check the arguments of a search.

        Raises
        ------
        TypeError, ValueError
            One of them is not what it should be.
        """
        number = as_int("k", k)
        if number < 1:
            raise ValueError(f"k must be at least 1, got {number}")
        if not isinstance(group_by_document, bool):
            raise TypeError(f"group_by_document must be a bool, got {group_by_document!r:.100}")
        beside = as_int("neighbours", neighbours)
        if beside < 0:
            raise ValueError(f"neighbours must be at least 0, got {beside}")
        # A search that may find nothing reads nothing, and checks the rest.
        nothing = np.zeros(view.layout.width, view.layout.dtype)
        view.index.search(nothing, 1, mask=np.zeros(0, np.int64), **options)
        return cls(number, view.mask(where, params), **options, group_by_document=group_by_document, neighbours=beside)


def find_rows(view: View, queries: Any, options: SearchOptions) -> Any:
    """Return the matches of vectors."""
    if options.scan is not None:
        return options.scan(view, queries, options)
    return view.index.search(
        queries,
        options.k,
        mask=options.mask,
        stage=options.stage,
        oversample=options.oversample,
        dimensions=options.dimensions,
    )


@dataclass(frozen=True, slots=True)
class VectorRanking:
    """The rows nearest to one vector. It implements :class:`~ctxembed._collection.ranking.Ranking`."""

    view: View
    query: Any
    options: SearchOptions

    def best(self, depth: int) -> list[RankedRow]:
        """Return the nearest ``depth`` rows."""
        matches = find_rows(self.view, self.query, replace(self.options, k=depth))
        return ranked_rows(self.view, self.query, matches, self.options.dimensions)

    def without(self, rows: NDArray[np.bool_]) -> VectorRanking:
        """Return the ranking without the rows of a mask: no score depends on other rows."""
        mask = ~rows if self.options.mask is None else self.options.mask & ~rows
        return replace(self, options=replace(self.options, mask=mask))


def ranked_rows(view: View, query: Any, matches: Any, dimensions: int | None) -> list[RankedRow]:
    """Return the rows of one query with their scores."""
    scores = scores_of(view, query, matches, dimensions)
    return [RankedRow(row, score, score) for row, score in zip(matches.ids.reshape(-1).tolist(), scores, strict=True)]


def find_hits(view: View, ranking: Ranking, options: SearchOptions) -> list[Hit]:
    """Return the best hits of a ranking."""
    if options.group_by_document:
        found = best_by_document(view, ranking, options.k, options.neighbours)
    elif options.neighbours:
        found = merged_passages(view, ranking, options.k, options.neighbours)
    else:
        found = alone(ranking.best(options.k))
    # A deeper search in two stages may find a row that one before it has missed.
    found.sort(key=lambda one: -one.ranked.score)
    return read_hits(view, found)


def alone(ranked_rows: Iterable[RankedRow]) -> list[FoundRows]:
    """Return rows without neighbours."""
    return [FoundRows(ranked, ranked.row, ranked.row + 1) for ranked in ranked_rows]


def read_hits(view: View, found: Sequence[FoundRows]) -> list[Hit]:
    """Return the hits of rows, of one search or of several. They are checked, the vectors of their documents too."""
    # All at once: each look-up of its own would meet caches that the scan has emptied.
    chunks = view.chunks_at([row for one in found for row in range(one.start, one.stop)])
    if len(chunks) == len(found):
        chunks_of = [[chunk] for chunk in chunks]
    else:
        rest = iter(chunks)
        chunks_of = [list(islice(rest, one.stop - one.start)) for one in found]
    documents = view.documents_at(list({own[0][0]: None for own in chunks_of}))
    view.check_vectors(documents.values())
    return [_hit(one, own, documents[own[0][0]]) for one, own in zip(found, chunks_of, strict=True)]


def _hit(found: FoundRows, chunks: list[tuple[Any, ...]], document: tuple[Any, ...]) -> Hit:
    ranked = found.ranked
    place = ranked.row - found.start
    _, chunk, text, start, stop = chunks[place]
    _, name, _, _, source, metadata, *_ = document
    span = None if start is None else (start, stop)
    passage, offset, passage_span = text, 0 if text is not None else None, span
    if len(chunks) > 1:
        if text is not None:
            passage, offsets = joined_text(values[2:] for values in chunks)
            offset = offsets[place]
        spans = [values[3:] for values in chunks if values[3] is not None]
        passage_span = (min(start for start, _ in spans), max(stop for _, stop in spans)) if spans else None
    return Hit(
        name,
        chunk,
        ranked.score,
        text,
        json.loads(metadata) if metadata else {},  # of its own: the caller may change it
        span,
        ranked.vector_score,
        ranked.text_score,
        source,
        passage,
        (chunks[0][1], chunks[-1][1] + 1),
        passage_span,
        offset,
    )


def check_space(view: View, query: Any, space: object, *, has_moved: bool) -> None:
    """Refuse a vector of another space than a state's, and one that does not tell where it may be of another.

    Parameters
    ----------
    view : View
        The state.
    query : str, ndarray or Embeddings
        One query or several. What knows its space is compared with the index's when it is searched.
    space : str or None
        The space of vectors, as the caller says.
    has_moved : bool
        Whether the state is of another generation than the caller may know of.

    Raises
    ------
    SpaceError
        It is of another space, or may be.
    """
    if space is not None and not isinstance(space, str):
        raise TypeError(f"space must be a str or None, got {space!r:.100}")
    if isinstance(query, str):
        if space is not None:
            raise ValueError("space is that of a vector, got a text, which is embedded in the collection's")
        return
    own = view.generation.space
    if space is not None and space != own:
        raise SpaceError(
            f"the vector is of the space {space!r}, and the collection of {own!r}: they cannot be compared"
        )
    if has_moved and space is None and getattr(query, "space", None) is None:
        raise SpaceError(
            f"the collection was migrated since it was opened here, and is of the space {own!r} now: the array may be "
            "a vector of the model before. Pass Embeddings or space=..., or open the collection again"
        )


def single_query(query: Any) -> Any:
    """Refuse more than one vector."""
    count = 1
    if isinstance(query, Embeddings):
        count = len(query.vectors)
    elif isinstance(query, np.ndarray) and query.ndim > 1:
        count = len(query)
    if count != 1:
        raise ValueError(f"search() takes one query, got {count}: search_batch() takes many")
    return query


def embedded(view: View, query: str, client: Any) -> Any:
    """Return the embeddings of a text query, by ``client``, or by one with the key of the environment."""
    if client is None:
        from ctxembed._client import Client

        with Client() as own:
            return own.embed_queries([query], **_query_options(view))
    _check_embeds_queries(client, is_async=False)
    return client.embed_queries([query], **_query_options(view))


async def embedded_async(view: View, query: str, client: Any) -> Any:
    """Return the embeddings of a text query, as :func:`embedded` does."""
    if client is None:
        from ctxembed._client import AsyncClient

        async with AsyncClient() as own:
            return await own.embed_queries([query], **_query_options(view))
    _check_embeds_queries(client, is_async=True)
    found = client.embed_queries([query], **_query_options(view))
    return await found if hasattr(found, "__await__") else found


def _query_options(view: View) -> dict[str, Any]:
    generation = view.generation
    # int8 queries find more among packed bits than packed queries do.
    return {"model": generation.model, "dimensions": generation.dimensions, "encoding_format": "base64_int8"}


def _check_embeds_queries(client: Any, *, is_async: bool) -> None:
    from ctxembed._jobs.run import check_client

    if not callable(getattr(client, "embed_queries", None)):
        raise TypeError(f"client must be a Client or have embed_queries(queries, ...), got {type(client).__name__}")
    check_client(client, is_async=is_async, calls=("search", "asearch"))


def scores_of(view: View, query: Any, matches: Any, dimensions: int | None) -> list[float]:
    """Return the score of each match: a cosine, or the share of equal bits."""
    found = matches.scores.reshape(-1)
    dims = view.generation.dimensions if dimensions is None else int(dimensions)
    if found.dtype == np.float32:
        scores: list[float] = found.tolist()
        return scores
    values = np.asarray(query.vectors if isinstance(query, Embeddings) else query).reshape(-1)
    if not view.layout.is_binary or values.dtype == np.uint8:
        return [1.0 - int(distance) / dims for distance in found]
    norm = math.sqrt(float(np.sum(np.square(values[:dims].astype(np.int64))))) * math.sqrt(dims)
    return [int(product) / norm if norm else 0.0 for product in found]
