"""The vectors of text queries: embedded once by the model of a collection, and kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import numpy as np

from ctxembed import _core
from ctxembed._client.options import DEFAULT_BASE_URL
from ctxembed._errors import MissingKeyError, SpaceError
from ctxembed._models import get_model
from ctxembed._planning.prepare import chunk_problems
from ctxembed._results import InvalidDocumentsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from numpy.typing import NDArray

    from ctxembed._backends.embedder import Embedder
    from ctxembed._client import AsyncClient
    from ctxembed._collection.state import Generation
    from ctxembed._models import InputType, Model
    from ctxembed._planning.limits import Limits
    from ctxembed._results import Embeddings, Usage
    from ctxembed._server.pass_queue import PassQueue

    _Key: TypeAlias = tuple[str, int, str | None, str]

__all__ = ["NoEmbedderError", "QueryVectors", "RefusedQueryError"]

_COALESCE: Final = 0.002
"""Seconds that queries wait for each other to share a request to the API."""


class NoEmbedderError(Exception):
    """Nothing here embeds text into the space of a collection."""


class RefusedQueryError(Exception):
    """A text cannot be embedded.

    Parameters
    ----------
    reason : str
        What is wrong and what was expected, as a predicate.
    place : int or None
        Position among several texts.
    """

    def __init__(self, reason: str, place: int | None = None) -> None:
        super().__init__(f"the query {reason}")
        self.reason = reason
        self.place = place


class QueryVectors:
    """Embeds queries by the server's embedder where its space is the collection's, else through the API.

    Parameters
    ----------
    embedder : callable
        Returns the server's embedder; None while it loads.
    queue : PassQueue
        Of that embedder.
    limits : Limits
        Largest text.
    max_cached : int
        Vectors that are kept; those that were not asked for longest go first.
    on_usage : callable or None
        Called with the usage that the API reported.

    Notes
    -----
    It belongs to an event loop. A query that is being embedded is not embedded again, and is embedded to the end
    whoever still waits for it: it was paid for.
    """

    def __init__(
        self,
        embedder: Callable[[], Embedder | None],
        queue: PassQueue,
        limits: Limits,
        *,
        max_cached: int,
        on_usage: Callable[[Usage], object] | None = None,
    ) -> None:
        self._embedder = embedder
        self._queue = queue
        self._limits = limits
        self._max_cached = max_cached
        self._on_usage = on_usage
        self._cached: OrderedDict[_Key, NDArray[np.int8]] = OrderedDict()
        self._pending: dict[_Key, asyncio.Task[NDArray[np.int8]]] = {}
        self._client: AsyncClient | None = None
        self._why_no_client: str | None = None
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        """Return the number of vectors that are kept."""
        return len(self._cached)

    def source_of(self, generation: Generation) -> str:
        """Return what embeds queries for a collection: ``"embedder"`` or ``"api"``.

        Raises
        ------
        NoEmbedderError
            Nothing does. The message says why, and what would.
        """
        embedder = self._embedder()
        if embedder is not None and self._is_of(embedder, generation):
            return "embedder"
        try:
            get_model(generation.model)
        except ValueError:
            raise NoEmbedderError(
                f"the collection was embedded by {generation.model}, which is no model of the API: start the server "
                "with --model and the folder or id of that model"
            ) from None
        if self._client is None and self._why_no_client is None:
            self._connect()
        if self._client is None:
            raise NoEmbedderError(self._why_no_client)
        space = generation.space or ""
        if space.startswith("stand-in:") and self._client.base_url == DEFAULT_BASE_URL:  # it would be paid for nothing
            raise NoEmbedderError(f"the collection is of the space {space!r}: start the server with --model stand-in")
        return "api"

    def _connect(self) -> None:
        from ctxembed._client import AsyncClient  # slow to import, and often not needed

        try:
            self._client = AsyncClient(coalesce=_COALESCE)
        except MissingKeyError:
            self._why_no_client = (
                "the server has no key for the API that embeds queries: set PERPLEXITY_API_KEY where it starts, or "
                "send a vector"
            )
        except ValueError as error:  # of another variable of the environment
            self._why_no_client = f"the server cannot use the API that embeds queries: {error}"

    @staticmethod
    def _is_of(embedder: Embedder, generation: Generation) -> bool:
        try:
            return embedder.space(generation.model, generation.dimensions) == generation.space
        except ValueError:  # another model
            return False

    async def vectors(self, generation: Generation, texts: Sequence[str]) -> list[NDArray[np.int8]]:
        """Return the int8 vector of each text, shape (1, dimensions).

        Raises
        ------
        NoEmbedderError
            Nothing embeds them.
        RefusedQueryError
            A text cannot be embedded.
        CtxembedError
            The API failed.
        QueueFullError, QueueClosedError
            The embedder's queue is full, or the server stops.
        """
        found: dict[str, NDArray[np.int8]] = {}
        waited: dict[str, asyncio.Task[NDArray[np.int8]]] = {}
        for text in dict.fromkeys(texts):
            key = (generation.model, generation.dimensions, generation.space, text)
            cached = self._cached.get(key)
            if cached is None:
                waited[text] = self._pending.get(key) or self._start(generation, key)
            else:
                self.hits += 1
                self._cached.move_to_end(key)
                found[text] = cached
        if waited:
            done = await asyncio.gather(*map(asyncio.shield, waited.values()), return_exceptions=True)
            for text, result in zip(waited, done, strict=True):
                if isinstance(result, RefusedQueryError):
                    place = texts.index(text) if len(texts) > 1 else None
                    raise RefusedQueryError(result.reason, place)  # others may wait for the same text
                if isinstance(result, BaseException):
                    raise result
                found[text] = result
        return [found[text] for text in texts]

    def _start(self, generation: Generation, key: _Key) -> asyncio.Task[NDArray[np.int8]]:
        source = self.source_of(generation)
        self.misses += 1
        task = asyncio.get_running_loop().create_task(self._embed(generation, key, source))
        self._pending[key] = task
        task.add_done_callback(lambda done: self._keep(key, done))
        return task

    def _keep(self, key: _Key, done: asyncio.Task[NDArray[np.int8]]) -> None:
        del self._pending[key]
        if done.cancelled() or done.exception() is not None:
            return
        self._cached[key] = done.result()
        while len(self._cached) > self._max_cached:
            self._cached.popitem(last=False)

    async def _embed(self, generation: Generation, key: _Key, source: str) -> NDArray[np.int8]:
        by = self._by_embedder if source == "embedder" else self._by_api
        found = await by(generation, key[-1])
        if generation.space is not None and found.space is not None and found.space != generation.space:
            raise SpaceError(
                f"the collection is of the space {generation.space!r}, and queries are embedded in the space "
                f"{found.space!r}: they cannot be compared"
            )
        vector: NDArray[np.int8] = found.vectors
        return vector

    async def _by_embedder(self, generation: Generation, text: str) -> Embeddings:
        embedder = self._embedder()
        assert embedder is not None  # noqa: S101  # source_of has seen it, and one that is loaded stays
        model = embedder.model if embedder.model.name == generation.model else get_model(generation.model)
        role: InputType | None = "query" if model.input_types else None
        tokens = await asyncio.get_running_loop().run_in_executor(None, self._count, embedder, model, text)
        entry = self._queue.enter(tokens)
        try:
            return await asyncio.wrap_future(
                self._queue.run(
                    entry,
                    lambda check: embedder.embed(
                        [[text]],
                        model=model.name,
                        dimensions=generation.dimensions,
                        encoding_format="base64_int8",
                        input_type=role,
                        check=check,
                    ),
                )
            )
        except InvalidDocumentsError as error:
            raise RefusedQueryError(error.problems[0].reason) from None
        finally:
            self._queue.leave(entry)

    def _count(self, embedder: Embedder, model: Model, text: str) -> int:
        """Count the tokens of a query, or refuse it as the API would."""
        separator = None if model.input_types else model.separator
        faults = _core.check_chunks([text], separator)[1]
        for problem in chunk_problems(faults, np.array([0, 1], np.int64), 0, separator):
            raise RefusedQueryError(problem.reason)
        tokens, most = int(embedder.count_tokens([[text]])[0]), self._limits.tokens_per_document
        if tokens > most:
            raise RefusedQueryError(f"has {tokens:,} tokens: at most {most:,} are allowed")
        return tokens

    async def _by_api(self, generation: Generation, text: str) -> Embeddings:
        assert self._client is not None  # noqa: S101  # source_of has made it
        try:
            found = await self._client.embed_queries(
                [text], model=generation.model, dimensions=generation.dimensions, encoding_format="base64_int8"
            )
        except InvalidDocumentsError as error:
            raise RefusedQueryError(error.problems[0].reason) from None
        if self._on_usage is not None:
            self._on_usage(found.usage)
        return found

    async def close(self) -> None:
        """Cancel what is being embedded, and close the client."""
        pending = list(self._pending.values())
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
