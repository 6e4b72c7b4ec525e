"""An event loop in a thread, for callers that have none: what :class:`Client` runs the engine in."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

import anyio

from ctxembed._errors import ClosedClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from queue import SimpleQueue

    from ctxembed._client._http.transport import Pool
    from ctxembed._client.batches import Batch
    from ctxembed._client.dispatch import Engine, Job

__all__ = ["End", "LoopThread", "Task", "serve"]

_PATIENCE: Final = 5.0
"""Seconds that closing waits for the thread, which may hang in a name look-up that nothing can interrupt."""

_INHERITED: Final[list[object]] = []
"""What a forked child has of its parent's connections: kept and never touched, for they are the parent's."""


class End:
    """The last event of a task."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException | None) -> None:
        self._error = error

    def check(self) -> None:
        """Raise what the task ended with, if it did not simply end."""
        if self._error is not None:
            raise self._error


async def serve(engine: Engine, job: Job, inbox: asyncio.Queue[Batch]) -> None:
    """Send what comes in, until cancelled."""
    async with anyio.create_task_group() as group:
        while True:
            batch = await inbox.get()
            group.start_soon(engine.settle, group, job, batch)


class Task:
    """A task in the loop, as the thread that waits for it sees it."""

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._gone = threading.Event()

    def begin(self, work: Callable[[], Coroutine[Any, Any, None]], put: Callable[[End], object]) -> None:
        """Start. Runs in the loop's thread."""
        if self._cancelled:
            self._gone.set()
            return
        self._task = asyncio.get_running_loop().create_task(work())
        self._loop.tasks.add(self._task)
        self._task.add_done_callback(lambda task: self._end(task, put))

    def _end(self, task: asyncio.Task[None], put: Callable[[End], object]) -> None:
        self._loop.tasks.discard(task)
        if task.cancelled():
            put(End(ClosedClientError("the client was closed during the call")))
        else:
            put(End(task.exception()))
        self._gone.set()

    def is_lost(self) -> bool:
        """Whether the task runs in another process: this is a forked child."""
        return self._loop.is_inherited()

    def _cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def cancel(self) -> None:
        """Cancel and wait until the task is gone, with its requests. Any thread."""
        if not self._gone.is_set() and self._loop.soon(self._cancel) and not self._loop.is_here():
            self._gone.wait(_PATIENCE)


class _Loop:
    """An event loop in a daemon thread. It does not know the clients, so that these can be collected."""

    def __init__(self, pool: Pool) -> None:
        self._pid = os.getpid()
        self.tasks: set[asyncio.Task[None]] = set()
        self._pool = pool
        self._lock = threading.RLock()  # reentrant: a collection inside may end a stream, which comes here
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
        await self._pool.release()

    def is_inherited(self) -> bool:
        """Whether this is a forked child, which has the loop's memory and not its thread."""
        return self._pid != os.getpid()

    def is_here(self) -> bool:
        """Whether the caller runs in the loop's thread."""
        return threading.get_ident() == self._thread.ident

    def soon(self, callback: Callable[..., object], *args: Any) -> bool:
        """Let the loop call; False where it has ended."""
        if self.is_inherited():  # before the lock, which another thread may have held when this child was forked
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
        with self._lock:  # what was started before is known to the loop before it stops
            if not self._stopping and self._loop is not None and self._stop is not None:
                self._stopping = True
                self._loop.call_soon_threadsafe(self._stop.set)
        if not self.is_here():
            self._thread.join(_PATIENCE)


class LoopThread:
    """The loop that a client and its copies share: started when needed, stopped when the last of them is gone."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = threading.RLock()
        self._loop: _Loop | None = None
        self._finalizer: weakref.finalize[..., LoopThread] | None = None
        self.stopped = False

    def _running(self) -> _Loop:
        if self._loop is not None and self._loop.is_inherited():
            # A forked child: the thread did not come along, the lock may have been held, the sockets are the parent's.
            if self._finalizer is not None:
                self._finalizer.detach()
            _INHERITED.append(self._loop)
            self._loop, self._lock = None, threading.RLock()
        with self._lock:
            if self.stopped:
                raise ClosedClientError("this client is closed")
            if self._loop is None:
                self._loop = _Loop(self._pool)
                self._finalizer = weakref.finalize(self, self._loop.stop)
            return self._loop

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]], events: SimpleQueue[Any]) -> Task:
        """Start a coroutine in the loop. Its :class:`End` goes to ``events``."""
        loop = self._running()
        if loop.is_here():
            raise RuntimeError(
                "a Client was called from its own thread (by its api_key callable?): that would wait forever"
            )
        task = Task(loop)
        self.soon(task.begin, work, events.put)
        return task

    def soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Let the loop call ``callback``."""
        if not self._running().soon(callback, *args):
            raise ClosedClientError("this client is closed")

    def stop(self) -> None:
        """End the thread, if there is one."""
        self.stopped = True
        if self._finalizer is not None:
            self._finalizer()
