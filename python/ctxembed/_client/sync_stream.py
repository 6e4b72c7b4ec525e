"""The parts of :meth:`Client.stream`."""

from __future__ import annotations

import asyncio
import contextlib
from queue import Empty
from typing import TYPE_CHECKING, Self

from ctxembed._client.background import BackgroundTask, TaskEnd, TaskEvents
from ctxembed._client.dispatch import Job
from ctxembed._errors import ClosedClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from ctxembed._client._policy.clock import Deadline
    from ctxembed._client.background import BackgroundLoop
    from ctxembed._client.batches import Batch, EmbeddingsPart, Outcome
    from ctxembed._client.dispatch import Dispatcher
    from ctxembed._client.journal import JournalWriter
    from ctxembed._client.state import ClientState
    from ctxembed._client.stream import StreamState

__all__ = ["Stream"]


class Stream:
    """The parts of :meth:`Client.stream`: an iterator of :class:`EmbeddingsPart`, and a context manager."""

    def __init__(
        self,
        loop: BackgroundLoop,
        dispatcher: Dispatcher,
        client: ClientState,
        state: StreamState,
        source: Iterator[Iterable[str]],
        *,
        closing: Callable[[], object],
        deadline: Deadline,
        journal: JournalWriter | None = None,
        admit: Callable[[Batch], bool] | None = None,
        settled: Callable[[Outcome], object] | None = None,
    ) -> None:
        self._loop = loop
        self._dispatcher = dispatcher
        self._client = client
        self._state = state
        self._source = source
        self._closing = closing
        self._events = TaskEvents()
        self._job = Job(state.template, self._events.put, deadline, journal=journal, admit=admit, settled=settled)
        self._inbox: asyncio.Queue[Batch] = asyncio.Queue()
        self._task: BackgroundTask | None = None
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Requests that were planned and have no outcome yet."""
        return self._state.in_flight

    @property
    def retries(self) -> int:
        """Retries so far, of the requests that have ended."""
        return self._state.retries

    def __iter__(self) -> Iterator[EmbeddingsPart]:
        return self

    def __next__(self) -> EmbeddingsPart:
        """Return the next part as it arrives."""
        try:
            part = self._next_part()
        except BaseException:
            self.close()
            raise
        if part is None:
            error = None if self._closed else self._state.error()
            self.close()
            raise StopIteration if error is None else error
        return part

    def _next_part(self) -> EmbeddingsPart | None:
        state = self._state
        if self._task is not None and self._task.is_inherited():
            raise RuntimeError("a stream does not survive fork(): its requests are the parent's")
        while not self._closed:
            self._take_outcomes(wait=False)
            part = state.next_part()
            if part is not None:
                return part
            if state.wants_document and self._job.deadline.remaining(self._client.clock) == 0:
                state.stop(self._job.deadline.error(None))
            if state.wants_document:
                if state.is_steady:
                    state.feed_from(self._source)
                else:
                    self._feed()
                self._advance()
                continue
            self._advance()
            if state.is_over:
                break
            if state.waits_for_outcome:
                self._take_outcomes(wait=True)
        return None

    def _feed(self) -> None:
        """Read one document."""
        try:
            self._state.feed(next(self._source))
        except StopIteration:
            self._state.exhaust()
        except Exception as error:  # noqa: BLE001  # raised when all requests in flight have ended
            self._state.exhaust(error)

    def _advance(self) -> None:
        """Ask the journal for the documents that were counted, and send what is ready."""
        lookup = self._state.lookup()
        if lookup is not None and self._client.journal is not None:
            self._state.add_known(lookup, self._client.journal.get(self._state.template, lookup.chunks))
        self._send(self._state.next_batches())

    def _send(self, batches: list[Batch]) -> None:
        if not batches:
            return
        if self._task is None:
            # The task holds no reference to self, so that a stream that is dropped can be collected.
            dispatcher, job, inbox = self._dispatcher, self._job, self._inbox
            self._task = self._loop.start_task(lambda: dispatcher.serve(job, inbox), self._events)
        if self._closed:  # by another thread or a signal handler, which saw no task
            self._task.cancel(self._client.is_storing)
            return
        if not self._state.raises:
            self._job.fatal = None  # an outage may have ended: each new request finds out
        for batch in batches:
            self._task.call_soon(self._inbox.put_nowait, batch)

    def _take_outcomes(self, *, wait: bool) -> None:
        """Take all outcomes that have arrived; with ``wait`` at least one."""
        with contextlib.suppress(Empty):
            while True:
                event = self._events.get(wait=wait)
                wait = False
                if isinstance(event, TaskEnd):
                    event.check()
                    raise ClosedClientError("the client was closed")
                self._state.add_outcome(event)

    def close(self) -> None:
        """Cancel the requests in flight and wait until they have ended.

        Another thread or a signal handler may call it while the next part is waited for: the iteration then ends, with
        or without a :class:`ClosedClientError`.
        """
        self._close(self._client.is_storing)

    def _close(self, is_storing: Callable[[], bool]) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._task is not None:
                self._task.cancel(is_storing)
        finally:
            self._closing()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self._close(lambda: False)  # a collection may call it in the middle of a call of the journal
