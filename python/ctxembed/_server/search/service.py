"""Searches of served collections: a request becomes vectors, a shared scan, and hits."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from pydantic_core import to_json

from ctxembed._collection.hybrid import ranking_of
from ctxembed._collection.query import SearchOptions, find_hits, find_rows, scores_of
from ctxembed._errors import CollectionError
from ctxembed._server.contract import InvalidRequestError
from ctxembed._server.requests import ErrorResponse
from ctxembed._server.search.plain_searches import PlainSearches
from ctxembed._server.search.query_vectors import NoEmbedderError, QueryVectors
from ctxembed._server.search.scans import ScannedRows, ScanQueue
from ctxembed._server.search.search_request import check_space, problem, vector_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from numpy.typing import NDArray

    from ctxembed._backends.embedder import Embedder
    from ctxembed._collection.view import View
    from ctxembed._documents import Hit
    from ctxembed._server.config import ServerConfig
    from ctxembed._server.metrics import Metrics
    from ctxembed._server.pass_queue import PassQueue
    from ctxembed._server.search.search_request import SearchRequest
    from ctxembed._server.search.served_collection import ServedCollection, ServedState

    _Result = TypeVar("_Result")

__all__ = ["SearchService", "Window"]

logger = logging.getLogger("ctxembed.server")

_FOLLOW: Final = 0.25
"""Seconds between looks at what writers have committed."""

_READERS: Final = 16
"""Threads that read texts, and that search step by step: by document, with neighbours, and hybrid."""

_FILTERS: Final = 2
"""Threads for what may take long: filters, statistics, the first hybrid search."""


class _Timings:
    """Where the time of a search goes, in seconds."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.stages: dict[str, float] = {}
        self.queries = 0

    def add(self, stage: str, since: float) -> None:
        self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - since

    def scanned(self, rows: ScannedRows) -> None:
        """Add a scan, of several at once the one that took longest."""
        self.stages["queue"] = max(self.stages.get("queue", 0.0), rows.waited)
        self.stages["scan"] = max(self.stages.get("scan", 0.0), rows.seconds)
        self.queries = max(self.queries, rows.queries)

    def to_json(self) -> dict[str, float]:
        stages = {**dict.fromkeys(("embed", "queue", "scan", "read"), 0.0), **self.stages}
        stages["total"] = time.perf_counter() - self.began
        return {name: round(1000 * seconds, 3) for name, seconds in stages.items()}


class Window(NamedTuple):
    """A part of a document."""

    first: int
    limit: int | None


class SearchService:
    """The collections of a server.

    Parameters
    ----------
    config : ServerConfig
        Of the server.
    collections : mapping of str to ServedCollection
        By name. They are closed with the service.
    embedder : callable
        Returns the server's embedder; None while it loads.
    queue : PassQueue
        Of that embedder.
    metrics : Metrics
        What it counts in.
    """

    def __init__(
        self,
        config: ServerConfig,
        collections: dict[str, ServedCollection],
        embedder: Callable[[], Embedder | None],
        queue: PassQueue,
        metrics: Metrics,
    ) -> None:
        self.collections = collections
        self.metrics = metrics
        self.scans = ScanQueue(on_scan=metrics.scan, max_queries=config.scan_queries)
        self.vectors = QueryVectors(
            embedder, queue, config.limits, max_cached=config.cached_queries, on_usage=metrics.usage
        )
        self._plain = PlainSearches(self.scans)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="read")
        self._filters = ThreadPoolExecutor(_FILTERS, thread_name_prefix="filter")
        self._following: asyncio.Task[None] | None = None
        self._add_metrics(queue)

    def _add_metrics(self, queue: PassQueue) -> None:
        metrics, vectors = self.metrics, self.vectors
        metrics.gauge("scan_waiting", "Queries that wait for a scan.", lambda: len(self.scans))
        metrics.gauge("query_cache_vectors", "Vectors of queries that are kept.", lambda: len(vectors))
        metrics.total("query_cache_hits", "Queries whose vector was kept.", lambda: vectors.hits)
        metrics.total("query_cache_misses", "Queries that were embedded.", lambda: vectors.misses)
        for name in ("requests", "tokens"):
            text = f"{name.capitalize()} that wait for the embedder, or run."
            metrics.gauge(f"embedder_{name}", text, partial(_entry_of, queue, name))
        for name in ("documents", "chunks"):
            values = {key: partial(_size_of, served, name) for key, served in self.collections.items()}
            metrics.gauges(f"collection_{name}", f"{name.capitalize()} of a collection.", "collection", values)

    # --- life ---

    def start(self) -> None:
        """Follow what writers commit. Call it in the event loop."""
        self._following = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        failing: set[str] = set()
        while True:
            await asyncio.sleep(_FOLLOW)
            for served in self.collections.values():
                try:
                    if await self.in_thread(served.follow, slow=True):
                        served.notify()
                    failing.discard(served.name)
                except (CollectionError, OSError) as error:
                    if served.name not in failing:
                        failing.add(served.name)
                        logger.warning("%s: what was read last is served on: %s", served.name, error)

    async def close(self) -> None:
        """End everything, once no request is under way."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        await self.vectors.close()
        self.scans.close()
        self._plain.close()
        self._readers.shutdown()
        self._filters.shutdown()
        for served in self.collections.values():
            served.close()

    async def in_thread(self, function: Callable[..., _Result], *args: Any, slow: bool = False) -> _Result:
        """Call a function in a thread; one that may take long in one of the few for that."""
        executor = self._filters if slow else self._readers
        return await asyncio.get_running_loop().run_in_executor(executor, function, *args)

    # --- searching ---

    def collection(self, name: str | None) -> ServedCollection:
        """Return a collection by its name.

        Raises
        ------
        ErrorResponse
            There is none, or ``name`` is None and there are several.
        """
        if name is None:
            if len(self.collections) == 1:
                return next(iter(self.collections.values()))
            names = ", ".join(map(repr, self.collections))
            raise InvalidRequestError(
                [problem(f"Field required: one of {names}", "body", "collection", kind="missing")]
            )
        found = self.collections.get(name)
        if found is None:
            raise ErrorResponse.of(404, f"There is no collection {name!r:.100}: {', '.join(self.collections)}")
        return found

    async def search(self, request: SearchRequest) -> bytes:
        """Return the body of the response to a search.

        Raises
        ------
        Exception
            :func:`~ctxembed._server.search.routes.response_to` makes a response of it.
        """
        timings = _Timings()
        served = self.collection(request.collection)
        state = served.state
        generation = state.view.generation
        options = await self._options(state, request)
        several = request.queries is not None
        if not state.view.rows:
            hits = to_json([[] for _ in request.texts] if several else [])
        else:
            if request.vector is not None:
                check_space(request.space, generation, has_moved=served.has_moved(state))
                vectors = [vector_of(request.vector, generation)]
            else:
                since = time.perf_counter()
                vectors = await self.vectors.vectors(generation, request.texts)
                timings.add("embed", since)
            if request.hybrid or request.group_by_document or request.neighbours:
                found = await self._found_in_steps(state.view, request, vectors, options, timings)
                hits = to_json(found if several else found[0])
            else:
                plain = await self._plain.find(state.view, vectors, options, several=several)
                hits = plain.hits
                timings.stages["read"] = plain.seconds
                for rows in plain.scans:
                    timings.scanned(rows)
        self.metrics.search(timings.stages)
        head = {"object": "search", "collection": served.name, "model": generation.model}
        tail = {"timings_ms": timings.to_json(), "batch": timings.queries}
        return b"".join((to_json(head)[:-1], b',"hits":', hits, b",", to_json(tail)[1:]))

    async def _options(self, state: ServedState, request: SearchRequest) -> SearchOptions:
        two_stages = {"stage": request.stage, "oversample": request.oversample, "dimensions": request.dimensions}
        passages = {"group_by_document": request.group_by_document, "neighbours": request.neighbours}
        if request.where is None and list(two_stages.values()) == ["exact", None, None]:
            return SearchOptions(request.k, state.alive, "exact", None, None, **passages)  # type: ignore[arg-type]

        def check() -> SearchOptions:
            given = SearchOptions.check(state.view, request.k, None, (), two_stages, **passages)
            if request.where is None:
                return replace(given, mask=state.alive)
            params = request.params if isinstance(request.params, dict) else tuple(request.params)
            try:
                return replace(given, mask=state.filters.mask(request.where, params))
            except (TypeError, ValueError) as error:
                raise InvalidRequestError([problem(str(error), "body", "where")]) from None

        try:
            return await self.in_thread(check, slow=request.where is not None)
        except (TypeError, ValueError) as error:
            name = str(error).partition(" ")[0].partition("=")[0]
            place = ("body", name) if name in two_stages else ("body",)
            raise InvalidRequestError([problem(str(error), *place)]) from None

    async def _found_in_steps(
        self,
        view: View,
        request: SearchRequest,
        vectors: Sequence[NDArray[Any]],
        options: SearchOptions,
        timings: _Timings,
    ) -> list[list[Hit]]:
        """Search where one scan may lead to the next. Each of them is shared."""
        words = None
        if request.hybrid:
            words = await self.in_thread(self.collection(request.collection).words, view, slow=True)

        def scan(view: View, vector: NDArray[Any], options: SearchOptions) -> ScannedRows:
            rows = self.scans.scan(view, vector, options)
            timings.scanned(rows)
            return rows

        shared = replace(options, scan=scan)
        since = time.perf_counter()

        def find(text: str | None, vector: NDArray[Any]) -> list[Hit]:
            return find_hits(view, ranking_of(view, words, text, vector, shared), shared)

        texts: list[str] | list[None] = request.texts or [None]
        pairs = zip(texts, vectors, strict=True)
        hits = await asyncio.gather(*(self.in_thread(find, text, vector) for text, vector in pairs))
        timings.add("read", since)
        waited = timings.stages.get("queue", 0.0) + timings.stages.get("scan", 0.0)
        timings.stages["read"] = max(0.0, timings.stages["read"] - waited)
        return hits

    # --- documents and collections ---

    async def document(self, served: ServedCollection, name: str, window: Window, query: str | None) -> bytes | None:
        """Return the body of a document, with the scores of all of its chunks for a query; None where there is none."""
        state = served.state
        view = state.view
        found = await self.in_thread(view.find, name)
        if found is None:
            return None
        vector = None if query is None else (await self.vectors.vectors(view.generation, [query]))[0]
        return await self.in_thread(_document, served.name, view, found, window, vector)

    async def describe(self, served: ServedCollection, *, with_fields: bool = False) -> dict[str, Any]:
        """Return the object of a collection."""
        found = await self.in_thread(served.describe, slow=True)
        try:
            source: str | None = self.vectors.source_of(served.state.view.generation)
            reason = None
        except NoEmbedderError as error:
            source, reason = None, str(error)
        found |= {"queries": source, "hybrid": found["stores_text"] and _has_tantivy()}
        if reason is not None:
            found["queries_reason"] = reason
        if with_fields:
            found |= await self.in_thread(served.fields, slow=True)
        return found


def _document(
    collection: str, view: View, found: tuple[Any, ...], window: Window, vector: NDArray[Any] | None
) -> bytes:
    _, name, _, _, source, metadata, first_row, rows, *_ = found
    first = min(window.first, rows)
    last = rows if window.limit is None else min(rows, first + window.limit)
    chunks = [
        {"chunk": chunk, "text": text, "span": None if start is None else (start, stop)}
        for _, chunk, text, start, stop in view.chunks_at(range(first_row + first, first_row + last))
    ]
    body = {
        "object": "document",
        "collection": collection,
        "id": name,
        "source": source,
        "metadata": json.loads(metadata or "{}"),
        "chunk_count": rows,
        "first": first,
        "chunks": chunks,
    }
    if vector is not None:
        mask = np.arange(first_row, first_row + rows)
        matches = find_rows(view, vector, SearchOptions(rows, mask, "exact", None, None))
        scores: list[float | None] = [None] * rows
        for row, score in zip(matches.ids.reshape(-1).tolist(), scores_of(view, vector, matches, None), strict=True):
            scores[row - first_row] = score
        body["scores"] = scores
    return to_json(body)


def _entry_of(queue: PassQueue, name: str) -> float:
    return queue.state()[name] or 0


def _size_of(served: ServedCollection, name: str) -> int:
    size: int = getattr(served.state.view, name)
    return size


def _has_tantivy() -> bool:
    return importlib.util.find_spec("tantivy") is not None
