"""Search: a query becomes a vector, the index finds rows, and the catalogue says what they are."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctxembed._documents import Hit
from ctxembed._models import as_int
from ctxembed._results import Embeddings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctxembed._collection.view import View

__all__ = [
    "Ranked",
    "SearchOptions",
    "embedded",
    "embedded_async",
    "find_hits",
    "find_rows",
    "hits_of",
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
    """

    k: int
    mask: NDArray[np.bool_] | None
    stage: str
    oversample: int | None
    dimensions: int | None

    @classmethod
    def check(cls, view: View, k: object, where: str | None, params: object, options: dict[str, Any]) -> SearchOptions:
        """Check the arguments of a search.

        Raises
        ------
        TypeError, ValueError
            One of them is not what it should be.
        """
        number = as_int("k", k)
        if number < 1:
            raise ValueError(f"k must be at least 1, got {number}")
        # A search that may find nothing reads nothing, and checks the rest.
        nothing = np.zeros(view.layout.width, view.layout.dtype)
        view.index.search(nothing, 1, mask=np.zeros(0, np.int64), **options)
        return cls(number, view.mask(where, params), **options)


def find_rows(view: View, queries: Any, options: SearchOptions) -> Any:
    """Return the matches of vectors."""
    return view.index.search(
        queries,
        options.k,
        mask=options.mask,
        stage=options.stage,
        oversample=options.oversample,
        dimensions=options.dimensions,
    )


class Ranked(NamedTuple):
    """A row that was found, with its scores."""

    row: int
    score: float
    vector_score: float
    text_score: float | None


def find_hits(view: View, query: Any, options: SearchOptions) -> list[Hit]:
    """Return the chunks nearest to one vector."""
    matches = find_rows(view, query, options)
    scores = scores_of(view, query, matches, options.dimensions)
    rows = matches.ids.reshape(-1).tolist()
    return hits_of(view, [Ranked(row, score, score, None) for row, score in zip(rows, scores, strict=True)])


def hits_of(view: View, ranked: list[Ranked]) -> list[Hit]:
    """Return the chunks of rows. What is returned is checked, the vectors of its documents too."""
    documents: dict[int, tuple[Any, ...]] = {}
    hits = []
    chunks = view.chunks_at([found.row for found in ranked])
    for found, (number, chunk, text, start, stop) in zip(ranked, chunks, strict=True):
        if number not in documents:
            values = view.document_at(number)
            view.check_vectors(values)
            documents[number] = (values[1], values[5], values[4])
        name, metadata, source = documents[number]
        span = None if start is None else (start, stop)
        # Each hit has metadata of its own, which the caller may change.
        hits.append(
            Hit(
                name, chunk, found.score, text, json.loads(metadata or "{}"), span, found.vector_score,
                found.text_score, source,
            )
        )  # fmt: skip
    return hits


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
        return [float(score) for score in found]
    values = np.asarray(query.vectors if isinstance(query, Embeddings) else query).reshape(-1)
    if not view.layout.is_binary or values.dtype == np.uint8:
        return [1.0 - int(distance) / dims for distance in found]
    norm = math.sqrt(float(np.sum(np.square(values[:dims].astype(np.int64))))) * math.sqrt(dims)
    return [int(product) / norm if norm else 0.0 for product in found]
