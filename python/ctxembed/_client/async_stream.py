"""The parts of :meth:`AsyncClient.stream`, and the task that sends their requests."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import anyio.lowlevel

from ctxembed._client._runtime import spawn_task
from ctxembed._client.dispatch import Job, abort
from ctxembed._client.journal import run_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from ctxembed._client._policy.clock import Deadline
    from ctxembed._client.batches import Batch, EmbeddingsPart, Outcome
    from ctxembed._client.dispatch import Dispatcher
    from ctxembed._client.journal import JournalWriter
    from ctxembed._client.state import ClientState
    from ctxembed._client.stream import StreamState

__all__ = ["AsyncStream", "StreamTask"]


class AsyncStream:
    """The parts of :meth:`AsyncClient.stream`: an async iterator of :class:`EmbeddingsPart`, and a context manager.

    Notes
    -----
    Leaving the ``async for`` loop drops the stream, which cancels its requests; ``async with`` also waits for them.
    """

    def __init__(self, task: StreamTask) -> None:
        self._task = task

    @property
    def in_flight(self) -> int:
        """Requests that were planned and have no outcome yet."""
        return self._task.state.in_flight

    @property
    def retries(self) -> int:
        """Retries so far, of the requests that have ended."""
        return self._task.state.retries

    def __aiter__(self) -> AsyncIterator[EmbeddingsPart]:
        return self

    async def __anext__(self) -> EmbeddingsPart:
        """Return the next part as it arrives."""
        task = self._task
        try:
            task.start()
            part = await task.next_part()
        except BaseException:
            await self.aclose()
            raise
        if part is not None:
            return part
        await self.aclose()
        if task.error is not None:
            raise task.error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Cancel the requests in flight and wait until they have ended."""
        await self._task.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # It runs in any thread, so it can only ask the task to end.
        task = getattr(self, "_task", None)
        if task is not None:
            task.drop()


class StreamTask:
    """The task of a stream. It holds no reference to the :class:`AsyncStream`, which can be dropped while it runs."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        client: ClientState,
        state: StreamState,
        source: Any,
        *,
        closing: Callable[[], object],
        deadline: Deadline,
        journal: JournalWriter | None = None,
        admit: Callable[[Batch], bool] | None = None,
        settled: Callable[[Outcome], object] | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._client = client
        self.state = state
        self._source = source
        self._closing = closing
        self._job = Job(state.template, self._add_outcome, deadline, journal=journal, admit=admit, settled=settled)
        self._scope, self._reading, self._flushing = anyio.CancelScope(), anyio.CancelScope(), anyio.CancelScope()
        self._ended: anyio.Event | None = None
        self._cancel: Callable[[], object] | None = None
        self._arrived = _AutoResetEvent()
        self._has_room = _AutoResetEvent()
        self.error: BaseException | None = None
        self._closed = False

    def start(self) -> None:
        """Start the task, once, in the event loop that runs."""
        if self._ended is not None or self._closed:
            return
        self._ended = anyio.Event()
        self._cancel = spawn_task(self._run, self._scope)

    async def _run(self) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as self._group:
                    if self.state.flush_after is not None:
                        self._group.start_soon(self._flush, self.state.flush_after)
                    try:
                        await self._read()
                    except Exception as error:  # noqa: BLE001  # raised when all requests in flight have ended
                        self.state.exhaust(error)
                        await self._advance()
                    except BaseException as error:
                        if isinstance(error, anyio.get_cancelled_exc_class()):
                            raise
                        abort(self._group, self._job, error)
                    finally:
                        self._flushing.cancel()
            self.error = self._job.abort
        except Exception as error:  # noqa: BLE001  # raised by next_part()
            self.error = error
        finally:
            self.state.exhaust()
            if self._ended is not None:
                self._ended.set()
            self._arrived.set()

    async def _flush(self, every: float) -> None:
        """Send documents that were held for too long while the source is waited for."""
        with self._flushing:
            while True:
                delay = self.state.flush_delay()
                if delay == 0.0:
                    await self._advance()
                await self._client.clock.sleep(delay or every)

    async def _read(self) -> None:
        state = self.state
        source = _Source(self._source)
        with self._reading:
            while not state.exhausted:
                if state.is_steady and not state.wants_document:
                    await self._advance()  # nothing may be left that makes room
                if not state.wants_document:
                    await self._has_room.wait()
                    continue
                document = _LATE
                with anyio.move_on_after(self._job.deadline.remaining(self._client.clock)):
                    document = await source.next()
                if document is _LATE:
                    state.stop(self._job.deadline.error(None))
                elif document is _END:
                    state.exhaust()
                else:
                    state.feed(document)
                if state.has_more_to_do:
                    await self._advance()

    async def _advance(self) -> None:
        """Ask the journal for the documents that were counted, and send what is ready."""
        lookup, journal = self.state.lookup(), self._client.journal
        if lookup is not None and journal is not None:
            try:
                with anyio.CancelScope(shield=True):  # the end of the source is no reason to lose its last documents
                    known = await run_in_thread(partial(journal.get, self.state.template, lookup.chunks))
            except BaseException as error:
                if isinstance(error, anyio.get_cancelled_exc_class()):
                    raise
                abort(self._group, self._job, error)
                await anyio.lowlevel.checkpoint()  # cancelled: nothing more is read
                return
            self.state.add_known(lookup, known)
        self._send()

    def _send(self) -> None:
        batches = self.state.next_batches()
        if batches and not self.state.raises:
            self._job.fatal = None  # an outage may have ended: each new request finds out
        for batch in batches:
            self._group.start_soon(self._dispatcher.send, self._group, self._job, batch)
        self._arrived.set()  # invalid documents are parts without a request

    def _add_outcome(self, outcome: Outcome) -> None:
        self.state.add_outcome(outcome)
        self._send()
        self._has_room.set()
        if self.state.exhausted:
            self._reading.cancel()  # a failure ends the stream; the source is not waited for

    async def next_part(self) -> EmbeddingsPart | None:
        """Wait for the next part; return None at the end."""
        while True:
            if self._closed:
                return None
            part = self.state.next_part()
            if part is not None:
                self._has_room.set()
                return part
            if self._ended is not None and self._ended.is_set():
                if self.error is None:
                    self.error = self.state.error()
                return None
            await self._arrived.wait()

    async def close(self) -> None:
        """Cancel the task and wait until it has ended."""
        if not self._closed:
            self._closed = True
            self._closing()
        self._scope.cancel()
        if self._ended is not None:
            with anyio.CancelScope(shield=True):
                await self._ended.wait()

    def drop(self) -> None:
        """Cancel the task, from any thread."""
        if not self._closed:
            self._closed = True
            self._closing()
        if self._cancel is not None and self._ended is not None and not self._ended.is_set():
            self._cancel()


class _AutoResetEvent:
    """An event that is cleared when a task waits for it."""

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
    """Read an iterable or an async iterable."""

    def __init__(self, source: Any) -> None:
        self._async = source.__aiter__() if hasattr(source, "__aiter__") else None
        self._sync = iter(source) if self._async is None else iter(())
        self._read = 0

    async def next(self) -> Any:
        """Return the next document, or ``_END``."""
        self._read += 1
        if self._read % 64 == 0:
            await anyio.lowlevel.checkpoint()  # lets other tasks run while a source that never waits is read
        if self._async is not None:
            try:
                return await self._async.__anext__()
            except StopAsyncIteration:
                return _END
        return next(self._sync, _END)
