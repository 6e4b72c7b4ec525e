"""The client for ``async`` code, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import anyio.lowlevel
import anyio.to_thread

from ctxembed._client._http.credentials import key_source
from ctxembed._client._policy.retry import DEFAULT_MAX_WAIT
from ctxembed._client.base import BaseClient
from ctxembed._client.dispatch import Job
from ctxembed._client.options import DEFAULT_MAX_CONCURRENCY, DEFAULT_MAX_RETRIES, DEFAULT_RETRY_BUDGET, OPTIONS
from ctxembed._client.planned import finish, is_longer, keeping, materialise, one
from ctxembed._client.progress import Meter, watcher
from ctxembed._client.raw import AsyncRawCalls
from ctxembed._models import DEFAULT_MODEL, DEFAULT_TEXT_MODEL, Limits
from ctxembed._planning.prepare import documents_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Mapping
    from os import PathLike
    from types import TracebackType

    import httpx
    from numpy.typing import ArrayLike

    from ctxembed._client._policy.retry import Deadline
    from ctxembed._client.batches import EmbeddingsPart, Outcome, Progress
    from ctxembed._client.dispatch import Engine
    from ctxembed._client.hooks import RequestEvent, ResponseEvent, RetryEvent
    from ctxembed._client.planned import Plan
    from ctxembed._client.stream import StreamState
    from ctxembed._models import EncodingFormat
    from ctxembed._planning.prepare import CountsTokens
    from ctxembed._results import Embeddings

__all__ = ["AsyncClient", "AsyncStream"]


_INLINE: Final = 1_000_000
"""Characters that are checked and counted in the event loop; more would hold it up, and go to a thread."""


class AsyncClient(BaseClient):
    """:class:`Client`, method for method, for ``async`` code on asyncio or trio.

    Parameters
    ----------
    api_key, base_url, timeout, total_timeout, deadline, max_retries, max_wait, retry_budget, hedge, max_concurrency, \
requests_per_minute, tokens_per_minute, limits, token_counter, default_headers, http2, proxy, verify, allow_insecure
        As for :class:`Client`.
    on_request, on_response, on_retry : callable, optional
        As for :class:`Client`; coroutine functions will do.
    http_client : httpx.AsyncClient, optional
        Sends the requests in place of one of our own. It is never closed here.

    Notes
    -----
    A client belongs to one thread. It may be used in one event loop after another; close it in the one that used it
    last. Cancelling the task that awaits a call cancels its requests. Documents of more than a million characters
    are checked and counted in a worker thread, ``token_counter`` included.

    Examples
    --------
    >>> async def main():
    ...     async with AsyncClient() as client:
    ...         return await client.embed([["First chunk.", "Second chunk."], ["Another document."]])
    """

    _kind = "async"

    def __init__(
        self,
        api_key: str | Callable[[], str] | None = None,
        *,
        base_url: str | None = None,
        timeout: float | httpx.Timeout | None = None,
        total_timeout: float | None = None,
        deadline: float | None = None,
        max_retries: int = DEFAULT_MAX_RETRIES,
        max_wait: float | None = DEFAULT_MAX_WAIT,
        retry_budget: float | None = DEFAULT_RETRY_BUDGET,
        hedge: float | bool | None = None,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None = None,
        default_headers: Mapping[str, str] | None = None,
        http_client: httpx.AsyncClient | None = None,
        http2: bool = False,
        proxy: str | None = None,
        verify: ssl.SSLContext | str | PathLike[str] | None = None,
        on_request: Callable[[RequestEvent], Any] | None = None,
        on_response: Callable[[ResponseEvent], Any] | None = None,
        on_retry: Callable[[RetryEvent], Any] | None = None,
        allow_insecure: bool = False,
    ) -> None:
        key = key_source(api_key)
        del api_key  # from here on no frame of a traceback holds it
        if isinstance(key, Exception):
            raise key
        # Every argument by its name; the key is none of them any more.
        options = {name: value for name, value in locals().items() if name in OPTIONS}
        super().__init__(options, key, None)

    async def embed(
        self,
        documents: Iterable[Iterable[str]],
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        on_error: str = "raise",
        progress: bool | Callable[[Progress], object] | None = None,
        deadline: float | None = None,
    ) -> Embeddings:
        """Embed documents of chunks: see :meth:`Client.embed`."""
        until = self._until(deadline)
        rows = materialise(documents)
        if is_longer(rows, _INLINE):
            work = partial(self._plan_embed, rows, model, dimensions, encoding_format, on_error)
            plan = await anyio.to_thread.run_sync(work)
        else:
            plan = self._plan_embed(rows, model, dimensions, encoding_format, on_error)
        return await self._run(plan, on_error, progress, until)

    async def embed_queries(
        self,
        queries: Iterable[str],
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        deadline: float | None = None,
    ) -> Embeddings:
        """Embed queries, one row each: see :meth:`Client.embed_queries`."""
        until = self._until(deadline)
        return await self._run(self._plan_queries(queries, model, dimensions, encoding_format), "raise", None, until)

    async def embed_texts(
        self,
        texts: Iterable[str],
        *,
        model: str = DEFAULT_TEXT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        deadline: float | None = None,
    ) -> Embeddings:
        """Embed independent texts, one row each: see :meth:`Client.embed_texts`."""
        until = self._until(deadline)
        return await self._run(self._plan_texts(texts, model, dimensions, encoding_format), "raise", None, until)

    async def create(
        self,
        input: Iterable[Iterable[str]],  # noqa: A002  # the API's word
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        deadline: float | None = None,
    ) -> Embeddings:
        """Send exactly one request: see :meth:`Client.create`."""
        return one(await self._create(input, model, dimensions, encoding_format, deadline))

    @property
    def with_raw_response(self) -> AsyncRawCalls:
        """``await client.with_raw_response.create(...)`` returns a :class:`RawResponse`."""
        return AsyncRawCalls(self)

    def stream(
        self,
        documents: Iterable[Iterable[str]] | AsyncIterable[Iterable[str]],
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        on_error: str = "raise",
        ordered: bool = False,
        progress: bool | Callable[[Progress], object] | None = None,
        deadline: float | None = None,
        flush_after: float | None = None,
    ) -> AsyncStream:
        """Embed documents as they come: see :meth:`Client.stream`.

        Parameters
        ----------
        documents : iterable or async iterable of iterables of str
            Of any length. An async iterable is read by a task of the stream; a plain one in the event loop, which
            it must not block.
        """
        state, closing = self._stream_state(
            model,
            dimensions,
            encoding_format,
            on_error=on_error,
            ordered=ordered,
            progress=progress,
            flush_after=flush_after,
        )
        if not hasattr(documents, "__aiter__"):
            documents_of("documents", documents)  # refuses what cannot be read
        return AsyncStream(_Work(self._engine, state, documents, closing, self._until(deadline)))

    async def aclose(self) -> None:
        """Close the connections. Calls after it raise :class:`ClosedClientError`; closing twice is no error."""
        if self._closed:
            return
        self._closed = True
        if self._owns_pool:
            self._engine.pool.closed = True
            await self._engine.pool.release()

    close = aclose

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.aclose()

    async def _create(
        self,
        documents: Any,
        model: str,
        dimensions: int | None,
        encoding_format: Any,
        deadline: float | None,
        *,
        keep: bool = False,
    ) -> Outcome:
        until = self._until(deadline)
        call, batch = self._plan_one(documents, model, dimensions, encoding_format)
        return await self._engine.one(call, batch, until, keep=keep)

    async def _run(
        self, plan: Plan, on_error: str, progress: bool | Callable[[Progress], object] | None, until: Deadline
    ) -> Embeddings:
        assembly = plan.assembly()
        with watcher(progress) as watch:
            meter = Meter(plan, assembly, watch, self._engine.clock)
            with keeping(assembly):
                await self._engine.run(Job(plan.call, meter.take, until), plan.batches)
        return finish(assembly, on_error)


class AsyncStream:
    """The parts of :meth:`AsyncClient.stream`: an async iterator, and an async context manager that closes it.

    Notes
    -----
    Leaving the loop drops the stream, which cancels its requests; ``async with`` also waits until they are gone.
    """

    def __init__(self, work: _Work) -> None:
        self._work = work

    def __aiter__(self) -> AsyncIterator[EmbeddingsPart]:
        return self

    async def __anext__(self) -> EmbeddingsPart:
        """Return the next part as it lands."""
        work = self._work
        try:
            work.start()
            part = await work.next()
        except BaseException:
            await self.aclose()
            raise
        if part is not None:
            return part
        await self.aclose()
        if work.failure is not None:
            raise work.failure
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Cancel what is in flight and wait until it is gone."""
        await self._work.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # Runs in whatever thread dropped the stream, so it can only ask.
        work = getattr(self, "_work", None)
        if work is not None:
            work.drop()


class _Work:
    """A stream's task. It does not know the :class:`AsyncStream`, so that this can be dropped while it runs."""

    def __init__(
        self, engine: Engine, state: StreamState, source: Any, closing: Callable[[], object], deadline: Deadline
    ) -> None:
        self._engine = engine
        self._state = state
        self._source = source
        self._closing = closing
        self._job = Job(state.call, self._land, deadline)
        self._scope, self._reading, self._flushing = anyio.CancelScope(), anyio.CancelScope(), anyio.CancelScope()
        self._gone: anyio.Event | None = None
        self._ask: Callable[[], object] | None = None
        self._landed = _Signal()
        self._room = _Signal()
        self.failure: BaseException | None = None
        self._closed = False

    def start(self) -> None:
        """Start the task, once, in the event loop that runs."""
        if self._gone is not None or self._closed:
            return
        self._gone = anyio.Event()
        self._ask = _spawn(self._run, self._scope)

    async def _run(self) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as self._group:
                    if self._state.flush_after is not None:
                        self._group.start_soon(self._flush, self._state.flush_after)
                    try:
                        await self._read()
                    except Exception as error:  # noqa: BLE001  # the source's: raised when what is under way landed
                        self._state.exhaust(error)
                        self._send()
                    finally:
                        self._flushing.cancel()
        except Exception as error:  # noqa: BLE001  # raised where the parts are awaited
            self.failure = error
        finally:
            self._state.exhaust()
            if self._gone is not None:
                self._gone.set()
            self._landed.set()

    async def _flush(self, every: float) -> None:
        """Send what waits for too long, while the source is waited for."""
        with self._flushing:
            while True:
                patience = self._state.patience()
                if patience == 0.0:
                    self._send()
                await self._engine.clock.sleep(patience or every)

    async def _read(self) -> None:
        state = self._state
        source = _Source(self._source)
        with self._reading:
            while not state.exhausted:
                if not state.wants:
                    await self._room.wait()
                    continue
                document = _LATE
                with anyio.move_on_after(self._job.deadline.left(self._engine.clock)):
                    document = await source.next()
                if document is _LATE:
                    state.stop(self._job.deadline.missed(None))
                elif document is _END:
                    state.exhaust()
                else:
                    state.feed(document)
                self._send()

    def _send(self) -> None:
        batches = self._state.launch()
        if batches and not self._state.raises:
            self._job.fatal = None  # an outage may have ended: each new request finds out
        for batch in batches:
            self._group.start_soon(self._engine.settle, self._group, self._job, batch)
        self._landed.set()  # refused documents are parts that no request brings

    def _land(self, outcome: Outcome) -> None:
        self._state.land(outcome)
        self._send()
        if self._state.exhausted:
            self._reading.cancel()  # a failure ends the stream, however long the source would take

    async def next(self) -> EmbeddingsPart | None:
        """Wait for the next part; None at the end."""
        while True:
            if self._closed:
                return None
            part = self._state.next_part()
            if part is not None:
                self._room.set()
                return part
            if self._gone is not None and self._gone.is_set():
                if self.failure is None:
                    self.failure = self._state.error()
                return None
            await self._landed.wait()

    async def close(self) -> None:
        """Cancel the task and wait for it."""
        if not self._closed:
            self._closed = True
            self._closing()
        self._scope.cancel()
        if self._gone is not None:
            with anyio.CancelScope(shield=True):
                await self._gone.wait()

    def drop(self) -> None:
        """Ask the task to go, from any thread."""
        if not self._closed:
            self._closed = True
            self._closing()
        if self._ask is not None and self._gone is not None and not self._gone.is_set():
            self._ask()


class _Signal:
    """Wakes who waits."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        if self._event.is_set():
            self._event = anyio.Event()
        await self._event.wait()


_END: Final = object()
_LATE: Final = object()


class _Source:
    """Reads an iterable or an async one."""

    def __init__(self, source: Any) -> None:
        self._async = source.__aiter__() if hasattr(source, "__aiter__") else None
        self._sync = iter(source) if self._async is None else iter(())
        self._read = 0

    async def next(self) -> Any:
        """Return the next document, or ``_END``."""
        self._read += 1
        if self._read % 64 == 0:
            await anyio.lowlevel.checkpoint()  # others have their turn while a source that never waits is read
        if self._async is not None:
            try:
                return await self._async.__anext__()
            except StopAsyncIteration:
                return _END
        return next(self._sync, _END)


_RUNNING: Final[set[object]] = set()  # the event loop itself holds its tasks weakly


def _spawn(run: Callable[[], Coroutine[Any, Any, None]], scope: anyio.CancelScope) -> Callable[[], object]:
    """Start a task that outlives the call, and return what cancels it, from any thread.

    A task group would have to be left by the task that entered it, and an iterator is left anywhere.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio  # no dependency: who runs on it has it

        token = trio.lowlevel.current_trio_token()
        trio.lowlevel.spawn_system_task(run)

        def ask() -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(scope.cancel)
    else:
        task = loop.create_task(run())
        _RUNNING.add(task)
        task.add_done_callback(_RUNNING.discard)

        def ask() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and its tasks with it
                loop.call_soon_threadsafe(scope.cancel)

    return ask
