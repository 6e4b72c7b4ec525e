"""Drives an ingestion with a client of ours, or with whatever embeds documents."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from ctxembed._client.base import BaseClient
from ctxembed._client.journal import ResponseJournal, ResponseRows
from ctxembed._client.simulation import simulate
from ctxembed._errors import ClosedClientError
from ctxembed._jobs.control import StopJob
from ctxembed._results import NO_USAGE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from ctxembed._client.batches import Batch
    from ctxembed._client.stream import StreamState
    from ctxembed._documents import IngestReport
    from ctxembed._jobs.entries import Entry
    from ctxembed._jobs.ingest import Ingestion
    from ctxembed._results import Embeddings, Usage

__all__ = ["check_client", "run", "run_async", "run_dry"]

_END: Final = object()
_DOCUMENTS: Final = 64
"""Documents that an embedder without ``stream`` gets at once."""

_CHARACTERS: Final = 1 << 18
"""Characters of these documents, beyond which it gets no more at once."""


class _Journal(ResponseJournal):
    """The journal of an ingestion: what is stored is not sent, and what was sent is stored before all else.

    Parameters
    ----------
    ingestion : Ingestion
        The ingestion.
    other : object or None
        The journal that the client had before.
    """

    def __init__(self, ingestion: Ingestion, other: Any) -> None:
        self._ingestion = ingestion
        self._other = other

    def get(self, keys: list[bytes]) -> dict[bytes, NDArray[Any]]:
        found = self._ingestion.store.vectors_of(keys)
        missing = [key for key in keys if key not in found] if self._other is not None else []
        return {**found, **self._other.get(missing)} if missing else found

    def put_response(self, keys: list[bytes], found: Embeddings, usage: Usage) -> None:
        self._ingestion.commit(keys, found, usage, found.space, found.vectors)
        if self._other is not None:
            self._other.put(ResponseRows.of(keys, found), usage)


def check_client(client: object, *, is_async: bool, calls: tuple[str, str] = ("ingest", "aingest")) -> None:
    """Refuse a client of the other kind, and an object that embeds nothing.

    Parameters
    ----------
    client : object
        What was given.
    is_async : bool
        Whether the call is the async one.
    calls : (str, str)
        Names of the plain and of the async call.

    Raises
    ------
    TypeError
        It is one of these.
    """
    if isinstance(client, BaseClient):
        if client._is_async != is_async:  # noqa: SLF001
            needed = "an AsyncClient, got a Client" if is_async else "a Client, got an AsyncClient"
            raise TypeError(f"{calls[is_async]}() needs {needed}: use {calls[not is_async]}()")
    elif not callable(getattr(client, "embed", None)) and not callable(getattr(client, "embed_queries", None)):
        raise TypeError(f"client must be a Client or have embed(documents, ...), got {type(client).__name__}")


def _prepared(client: BaseClient, ingestion: Ingestion) -> Any:
    """Return a copy of the client that stores what it receives and counts retries."""
    on_retry = client._options["on_retry"]  # noqa: SLF001

    def count(event: Any) -> None:
        ingestion.retries += 1
        if on_retry is not None:
            on_retry(event)

    journal = _Journal(ingestion, client._options["journal"])  # noqa: SLF001
    ingestion.token_counter = client._options["token_counter"]  # noqa: SLF001
    copy: Any = client
    return copy.with_options(journal=journal, on_retry=count)


def _stream_options(ingestion: Ingestion) -> dict[str, Any]:
    return {
        "model": ingestion.store.model,
        "dimensions": ingestion.store.dimensions,
        "encoding_format": ingestion.store.encoding_format,
        "on_error": "return",
    }


def run(ingestion: Ingestion, client: Any, documents: Iterable[object]) -> IngestReport:
    """Ingest all documents.

    Raises
    ------
    Exception
        Of the source, of the store, or the error that every request meets. What was embedded before is stored.
    """
    source = _Source(ingestion, documents)
    with ingestion.control:
        try:
            if isinstance(client, BaseClient):
                copy = _prepared(client, ingestion)
                _run_streams(
                    ingestion,
                    source,
                    lambda feed: copy._open_stream(  # noqa: SLF001
                        feed,
                        **_stream_options(ingestion),
                        **_INTERNAL,
                        key_of=ingestion.key_of,
                        admit=ingestion.admit,
                        settled=ingestion.settled,
                    ),
                )
            elif callable(getattr(client, "stream", None)):
                _run_streams(
                    ingestion, source, lambda feed: client.stream(feed, **_stream_options(ingestion)), ours=False
                )
            else:
                _run_batches(ingestion, source, client)
        except BaseException:
            with contextlib.suppress(Exception):  # of the disk that is full, for example: the first error counts
                ingestion.end(whole=False)
            raise
        report = ingestion.end(whole=source.whole)
    if ingestion.error is not None:
        raise ingestion.error
    return report


_FLUSH_AFTER: Final = 30.0
"""Seconds for which documents of a slow source are held to fill requests."""

_INTERNAL: Final = {"ordered": False, "progress": None, "deadline": None, "flush_after": _FLUSH_AFTER, "steady": True}


def _run_streams(
    ingestion: Ingestion, source: _Source, open_stream: Callable[[Iterator[list[str]]], Any], *, ours: bool = True
) -> None:
    while True:
        ingestion.new_stream()
        stream = open_stream(source.chunks() if ours else source.new_chunks())
        ingestion.requests_in_flight = partial(getattr, stream, "in_flight", 0)
        close = getattr(stream, "close", None)
        ingestion.control.attach(close)
        try:
            for part in stream:
                ingestion.handle(part, part.documents.tolist())
        except ClosedClientError:
            if not ingestion.control.at_once:
                raise
        finally:
            ingestion.control.attach(None)
            if close is not None:
                close()
        if not ingestion.sends_again():
            return


def _run_batches(ingestion: Ingestion, source: _Source, client: Any) -> None:
    """Embed with an object that takes a list of documents: batch after batch."""
    entries: list[Entry] = []
    characters = 0

    def embed() -> None:
        ingestion.new_stream()
        if not ingestion.admit_batch():
            entries.clear()
            return
        sent, others = _distinct(entries)
        chunks = [ingestion.feed(entry) for entry in sent]
        ingestion.control.interruptible = True
        try:
            found = client.embed(chunks, **_stream_options(ingestion))
        finally:
            ingestion.control.interruptible = False
        ingestion.budget.settle(0, found.usage)
        ingestion.handle(found, range(len(chunks)))
        entries[:] = [entry for entry in others if entry.is_waiting]

    with contextlib.suppress(StopJob):
        while True:
            for entry in source.entries():
                known = ingestion.store.vectors_of([entry.key])
                if known:
                    ingestion.commit(known, known.values(), NO_USAGE, None)
                    continue
                entries.append(entry)
                characters += sum(map(len, entry.chunks))
                if len(entries) >= _DOCUMENTS or characters >= _CHARACTERS:
                    embed()
                    characters = 0
            while entries and not ingestion.control.stopped:
                embed()
            if not ingestion.sends_again():
                return


def _distinct(entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Return the first entry of each content, and the others, which are stored with it."""
    first: dict[bytes, Entry] = {}
    for entry in entries:
        first.setdefault(entry.key, entry)
    return list(first.values()), [entry for entry in entries if first[entry.key] is not entry]


class _Source:
    """The documents to send: those of the input, and those that are sent once more."""

    def __init__(self, ingestion: Ingestion, documents: Any) -> None:
        if isinstance(documents, str | bytes):
            raise TypeError(f"documents must be an iterable of documents, got one {type(documents).__name__}")
        self._ingestion = ingestion
        self._is_async = hasattr(documents, "__aiter__")
        self._documents: Any = documents.__aiter__() if self._is_async else iter(documents)
        self.whole = False
        """Whether the input was read to its end."""

    def chunks(self) -> Iterator[list[str]]:
        """Yield the chunks of each document to send, and count it as the next of the stream."""
        feed = self._ingestion.feed
        for entries in self._taken():
            for entry in entries:
                yield feed(entry)

    def new_chunks(self) -> Iterator[list[str]]:
        """Yield as :meth:`chunks` does, for a stream without a journal: what is stored is not embedded again."""
        for entry in self.entries():
            known = self._ingestion.store.vectors_of([entry.key])
            if known:
                self._ingestion.commit(known, known.values(), NO_USAGE, None)
            else:
                yield self._ingestion.feed(entry)

    def entries(self) -> Iterator[Entry]:
        """Yield what is to be sent."""
        for entries in self._taken():
            yield from entries

    def _taken(self) -> Iterator[list[Entry]]:
        """Yield what is to be sent, as it is taken: a list for each part of the input."""
        ingestion, control, documents = self._ingestion, self._ingestion.control, self._documents
        while not ingestion.ends():
            if seconds := ingestion.pause():
                ingestion.report_progress()
                if control.wait(seconds):
                    return
            # While the API is down, what failed comes first: the input is not read further.
            if (self.whole or ingestion.is_down) and (entry := ingestion.again()) is not None:
                yield [entry]
                continue
            if self.whole:
                return
            control.interruptible = True
            try:
                value = next(documents, _END)
            except StopJob:
                return
            finally:
                control.interruptible = False
            yield from self._take(value)

    async def chunks_async(self) -> AsyncIterator[list[str]]:
        """Yield as :meth:`chunks` does, from an iterable of either kind."""
        feed = self._ingestion.feed
        async for entry in self.entries_async():
            yield feed(entry)

    async def entries_async(self) -> AsyncIterator[Entry]:
        """Yield as :meth:`entries` does."""
        ingestion = self._ingestion
        while not ingestion.ends():
            seconds = ingestion.pause()
            if seconds:
                ingestion.report_progress()
                await anyio.sleep(seconds)
            if (self.whole or ingestion.is_down) and (entry := ingestion.again()) is not None:
                yield entry
                continue
            if self.whole:
                return
            value = await anext(self._documents, _END) if self._is_async else next(self._documents, _END)
            for entries in self._take(value):
                for entry in entries:
                    yield entry

    def _take(self, value: object) -> Iterator[list[Entry]]:
        if value is _END:
            self.whole = True
            self._ingestion.exhaust()
            return
        entries: list[Entry] = []
        try:
            self._ingestion.take(value, entries)
        except (TypeError, ValueError):
            yield entries  # of the documents of a batch before the one at fault
            raise
        yield entries


async def run_async(ingestion: Ingestion, client: Any, documents: Any) -> IngestReport:
    """Ingest all documents with an :class:`AsyncClient`, or with what has an async or plain ``embed``.

    Raises
    ------
    Exception
        As for :func:`run`.
    """
    source = _Source(ingestion, documents)
    try:
        if isinstance(client, BaseClient):
            await _run_streams_async(ingestion, source, _prepared(client, ingestion))
        else:
            await _run_batches_async(ingestion, source, client)
    except BaseException:
        with anyio.CancelScope(shield=True), contextlib.suppress(Exception):
            await anyio.to_thread.run_sync(lambda: ingestion.end(whole=False))
        raise
    with anyio.CancelScope(shield=True):
        report = await anyio.to_thread.run_sync(lambda: ingestion.end(whole=source.whole))
    if ingestion.error is not None:
        raise ingestion.error
    return report


async def _run_streams_async(ingestion: Ingestion, source: _Source, client: Any) -> None:
    while True:
        ingestion.new_stream()
        stream = client._open_stream(  # noqa: SLF001
            source.chunks_async(),
            **_stream_options(ingestion),
            **_INTERNAL,
            key_of=ingestion.key_of,
            admit=ingestion.admit,
            settled=ingestion.settled,
        )
        ingestion.requests_in_flight = partial(getattr, stream, "in_flight", 0)
        async with stream:
            async for part in stream:
                ingestion.handle(part, part.documents.tolist())
        if not ingestion.sends_again():
            return


async def _run_batches_async(ingestion: Ingestion, source: _Source, client: Any) -> None:
    entries: list[Entry] = []

    async def embed() -> None:
        ingestion.new_stream()
        if not ingestion.admit_batch():
            entries.clear()
            return
        sent, others = _distinct(entries)
        chunks = [ingestion.feed(entry) for entry in sent]
        found: Any = client.embed(chunks, **_stream_options(ingestion))
        if hasattr(found, "__await__"):
            found = await found
        ingestion.budget.settle(0, found.usage)
        ingestion.handle(found, range(len(chunks)))
        entries[:] = [entry for entry in others if entry.is_waiting]

    while True:
        async for entry in source.entries_async():
            known = ingestion.store.vectors_of([entry.key])
            if known:
                ingestion.commit(known, known.values(), NO_USAGE, None)
                continue
            entries.append(entry)
            if len(entries) >= _DOCUMENTS:
                await embed()
        while entries:
            await embed()
        if not ingestion.sends_again():
            return


def run_dry(ingestion: Ingestion, state: StreamState, documents: Iterable[object]) -> Iterator[Batch]:
    """Go through an ingestion without sending, and yield each request that :func:`run` would send.

    Parameters
    ----------
    ingestion : Ingestion
        Its store keeps no documents.
    state : StreamState
        A steady stream with a journal, as :func:`run` opens it.
    documents : iterable
        The input.
    """
    source = _Source(ingestion, documents)
    ingestion.new_stream()
    yield from simulate(
        state,
        source.chunks(),
        ingestion.store.vectors_of,
        lambda part: ingestion.handle(part, part.documents.tolist()),
    )
    ingestion.end(whole=source.whole)
