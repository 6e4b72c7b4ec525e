"""An event loop in a background thread, in which :class:`Client` sends its requests."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from ctxembed._errors import ClosedClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from queue import SimpleQueue

    from ctxembed._client._http.connections import Connections

__all__ = ["BackgroundLoop", "BackgroundTask", "TaskEnd"]

_JOIN_TIMEOUT: Final = 5.0
"""Seconds for which closing waits for the thread. A name look-up in it cannot be interrupted."""

_INHERITED: Final[list[object]] = []
"""Loops that a forked child inherited. They are the parent's: kept, so that the collector closes none."""


class TaskEnd:
    """The last event of a task."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException | None) -> None:
        self._error = error

    def check(self) -> None:
        """Raise the error of the task, if it has one."""
        if self._error is not None:
            raise self._error


class BackgroundTask:
    """A task in the background loop, as the thread that waits for it sees it."""

    def __init__(self, loop: _RunningLoop) -> None:
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._ended = threading.Event()

    def start(self, work: Callable[[], Coroutine[Any, Any, None]], put: Callable[[TaskEnd], object]) -> None:
        """Start the task. Called in the loop's thread."""
        if self._cancelled:
            self._ended.set()
            return
        self._task = asyncio.get_running_loop().create_task(work())
        self._loop.tasks.add(self._task)
        self._task.add_done_callback(lambda task: self._end(task, put))

    def _end(self, task: asyncio.Task[None], put: Callable[[TaskEnd], object]) -> None:
        self._loop.tasks.discard(task)
        if task.cancelled():
            put(TaskEnd(ClosedClientError("the client was closed during the call")))
        else:
            put(TaskEnd(task.exception()))
        self._ended.set()

    def is_inherited(self) -> bool:
        """Return whether the task runs in another process, of which this is a forked child."""
        return self._loop.is_inherited()

    def _cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def cancel(self) -> None:
        """Cancel the task and wait until it and its requests have ended. Any thread may call it."""
        if not self._ended.is_set() and self._loop.call_soon(self._cancel) and not self._loop.is_current_thread():
            self._ended.wait(_JOIN_TIMEOUT)


class _RunningLoop:
    """An event loop in a daemon thread. It holds no reference to a client, so that clients can be collected."""

    def __init__(self, connections: Connections) -> None:
        self._pid = os.getpid()
        self.tasks: set[asyncio.Task[None]] = set()
        self._connections = connections
        self._lock = threading.RLock()  # reentrant: a collection while it is held may close a stream, which takes it
        self._stopping = False
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="ctxembed", daemon=True)
        self._thread.start()
        self._started.wait()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._stop.wait()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self._connections.aclose()

    def is_inherited(self) -> bool:
        """Return whether this is a forked child, which has the loop's memory and not its thread."""
        return self._pid != os.getpid()

    def is_current_thread(self) -> bool:
        """Return whether the caller runs in the loop's thread."""
        return threading.get_ident() == self._thread.ident

    def call_soon(self, callback: Callable[..., object], *args: Any) -> bool:
        """Call ``callback`` in the loop; return False where the loop has ended."""
        if self.is_inherited():  # before the lock, which another thread may have held at the fork
            return False
        with self._lock:
            if self._stopping or self._loop is None:
                return False
            self._loop.call_soon_threadsafe(callback, *args)
            return True

    def stop(self) -> None:
        """Cancel all tasks, close the connections and end the thread."""
        if self.is_inherited():
            return
        with self._lock:  # every task that was started before is known to the loop before it stops
            if not self._stopping and self._loop is not None and self._stop is not None:
                self._stopping = True
                self._loop.call_soon_threadsafe(self._stop.set)
        if not self.is_current_thread():
            self._thread.join(_JOIN_TIMEOUT)


class BackgroundLoop:
    """The event loop that a client and its copies share. It starts when needed and stops with the last of them."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._lock = threading.RLock()
        self._loop: _RunningLoop | None = None
        self._finalizer: weakref.finalize[..., BackgroundLoop] | None = None
        self.stopped = False

    def _running(self) -> _RunningLoop:
        if self._loop is not None and self._loop.is_inherited():
            # In a forked child the thread is gone, the lock may have been held, and the sockets are the parent's.
            if self._finalizer is not None:
                self._finalizer.detach()
            _INHERITED.append(self._loop)
            self._loop, self._lock = None, threading.RLock()
        with self._lock:
            if self.stopped:
                raise ClosedClientError("this client is closed")
            if self._loop is None:
                self._loop = _RunningLoop(self._connections)
                self._finalizer = weakref.finalize(self, self._loop.stop)
            return self._loop

    def start_task(self, work: Callable[[], Coroutine[Any, Any, None]], events: SimpleQueue[Any]) -> BackgroundTask:
        """Start a coroutine in the loop. Its :class:`TaskEnd` goes to ``events``."""
        loop = self._running()
        if loop.is_current_thread():
            raise RuntimeError(
                "a Client was called from its own thread (by its api_key callable?): that would wait forever"
            )
        task = BackgroundTask(loop)
        self.call_soon(task.start, work, events.put)
        return task

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call ``callback`` in the loop."""
        if not self._running().call_soon(callback, *args):
            raise ClosedClientError("this client is closed")

    def stop(self) -> None:
        """End the thread, if there is one."""
        self.stopped = True
        if self._finalizer is not None:
            self._finalizer()
