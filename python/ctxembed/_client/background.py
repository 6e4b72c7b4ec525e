"""An event loop, in which :class:`Client` sends its requests: in a background thread, or in the thread that waits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from ctxembed._client.event_loop import create_event_loop
from ctxembed._errors import ClosedClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from ctxembed._client._http.connections import Connections

__all__ = ["BackgroundLoop", "BackgroundTask", "TaskEnd", "TaskEvents"]

_JOIN_TIMEOUT: Final = 5.0
"""Seconds for which closing waits for the thread, where a callable of the caller's may hang."""

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


class TaskEvents:
    """The events of a task, from the loop's thread to the thread that waits for them."""

    __slots__ = ("_loop", "_queue")

    def __init__(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._loop: _RunningLoop | None = None

    def bind(self, loop: _RunningLoop) -> None:
        """Take the events of a task in ``loop``."""
        self._loop = loop

    def put(self, event: object) -> None:
        """Add an event. Called in the loop's thread."""
        self._queue.put(event)
        if self._loop is not None:
            self._loop.wake_caller()

    def get(self, *, wait: bool = True) -> Any:
        """Return the next event.

        Raises
        ------
        queue.Empty
            There is none, and ``wait`` is False.
        """
        if wait and self._loop is not None:
            self._loop.wait(self._has_event)
        return self._queue.get(block=wait)

    def _has_event(self) -> bool:
        return not self._queue.empty()


class BackgroundTask:
    """A task in the background loop, as the thread that waits for it sees it."""

    def __init__(self, loop: _RunningLoop, events: TaskEvents) -> None:
        self._loop = loop
        self._events = events
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._ended = threading.Event()

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start the task. Called in the loop's thread."""
        if self._cancelled:
            self._end(ClosedClientError("the call was cancelled before it began"))
            return
        self._task = asyncio.get_running_loop().create_task(work())
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        closed = ClosedClientError("the client was closed during the call")
        self._end(closed if task.cancelled() else task.exception())

    def _end(self, error: BaseException | None) -> None:
        self._loop.remove(self)
        self._ended.set()
        self._events.put(TaskEnd(error))

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call ``callback`` in the loop of the task."""
        if not self._loop.call_soon(callback, *args):
            raise ClosedClientError("the client was closed during the call")

    def is_inherited(self) -> bool:
        """Return whether the task runs in another process, of which this is a forked child."""
        return self._loop.is_inherited()

    def cancel_soon(self) -> None:
        """Cancel the task. Called in the loop's thread."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def cancel(self, is_storing: Callable[[], bool]) -> None:
        """Cancel the task and wait until it and its requests have ended. Any thread may call it.

        Where a callable of the caller's hangs, it waits for a limited time, unless ``is_storing`` says that a journal
        is at work.
        """
        if self._ended.is_set() or not self._loop.call_soon(self.cancel_soon) or self._loop.is_current_thread():
            return
        with contextlib.suppress(ClosedClientError):
            self._loop.wait(self._ended.is_set)
            while not self._ended.wait(_JOIN_TIMEOUT) and is_storing():
                pass


class _RunningLoop:
    """An event loop in a daemon thread. It holds no reference to a client, so that clients can be collected.

    Where no thread can be started, the threads that wait run the loop, one at a time. That is so while the interpreter
    shuts down (``atexit`` from Python 3.12 on, finalizers), and where the system refuses more threads.
    """

    def __init__(self, connections: Connections) -> None:
        self._pid = os.getpid()
        self._tasks: set[BackgroundTask] = set()
        self._connections = connections
        self._lock = threading.RLock()  # reentrant: a collection while it is held may close a stream, which takes it
        self._stopping = False
        self._loop = create_event_loop()
        self._turn = threading.Lock()  # of the thread that runs a loop without a thread
        self._runner: int | None = None
        self._thread = self._start_thread()

    def _start_thread(self) -> threading.Thread | None:
        if sys.is_finalizing():  # a thread could be started and would never run
            return None
        thread = threading.Thread(target=self._serve, name="ctxembed", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return None
        return thread

    def _serve(self) -> None:
        self._runner = threading.get_ident()
        while not self._stopping:
            # A callable of the caller's raised it. Its task has it too, and the others go on.
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self._loop.run_forever()
        self._close()

    def _close(self) -> None:
        """End all tasks, close the connections and the loop."""

        async def end() -> None:
            own = asyncio.current_task()
            for task in self._tasks:
                task.cancel_soon()
            while others := asyncio.all_tasks() - {own}:
                await asyncio.wait(others)
            await self._connections.aclose()
            await self._loop.shutdown_asyncgens()

        closing = self._loop.create_task(end())
        closing.add_done_callback(lambda _: self._loop.stop())
        while not closing.done():  # the tasks that end may stop the loop too
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self._loop.run_forever()
        closing.exception()  # of connections that are gone all the same
        self._loop.close()

    def is_inherited(self) -> bool:
        """Return whether this is a forked child, which has the loop's memory and not its thread."""
        return self._pid != os.getpid()

    def is_frozen(self) -> bool:
        """Return whether the thread cannot run any more, because the interpreter is ending."""
        return self._thread is not None and sys.is_finalizing()

    def is_current_thread(self) -> bool:
        """Return whether the caller runs in the loop's thread."""
        return threading.get_ident() == self._runner

    def is_stopped(self) -> bool:
        """Return whether the loop takes no more tasks."""
        with self._lock:
            return self._stopping

    def add(self, task: BackgroundTask, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Start a task; return False where the loop has ended."""
        with self._lock:
            if not self.call_soon(task.start, work):
                return False
            self._tasks.add(task)
            return True

    def remove(self, task: BackgroundTask) -> None:
        """Forget a task that has ended."""
        self._tasks.discard(task)

    def call_soon(self, callback: Callable[..., object], *args: Any) -> bool:
        """Call ``callback`` in the loop; return False where the loop has ended."""
        if self.is_inherited() or self.is_frozen():  # before the lock, which another thread may hold for ever
            return False
        with self._lock:
            if self._stopping:
                return False
            self._loop.call_soon_threadsafe(callback, *args)
            return True

    def wake_caller(self) -> None:
        """Let the thread that runs the loop see whether it may return from :meth:`wait`."""
        if self._thread is None:
            self._loop.stop()

    def wait(self, is_over: Callable[[], bool]) -> None:
        """Run the loop until ``is_over``, if it has no thread. Else return at once: the caller waits by itself."""
        if self.is_frozen():
            raise ClosedClientError("the interpreter is ending, and the call began before it did")
        if self._thread is not None:
            return
        while not (is_over() or self._stopping):
            with self._turn:
                if not (is_over() or self._stopping):
                    self._runner = threading.get_ident()
                    try:
                        with _ctrl_c_stops(self._loop):
                            self._loop.run_forever()
                    finally:
                        self._runner = None
        # At exit nothing would close the connections later. The lock keeps other calls from a new loop until then.
        with self._turn, self._lock:
            if not (self._tasks or self._stopping):
                self._stopping = True
                self._close()

    def stop(self) -> None:
        """Cancel all tasks, close the connections and end the thread."""
        if self.is_inherited() or self.is_frozen():
            return
        with self._lock:  # every task that was started before is known to the loop before it stops
            was_stopping, self._stopping = self._stopping, True
            if not was_stopping:
                self._loop.call_soon_threadsafe(self._loop.stop)
        if self.is_current_thread():
            return
        if self._thread is not None:
            self._thread.join(_JOIN_TIMEOUT)
        elif not was_stopping:
            with self._turn:
                self._close()

    def join(self, is_storing: Callable[[], bool]) -> None:
        """Wait for the end of a stopped loop's thread while ``is_storing``."""
        if self._thread is None or self.is_inherited() or self.is_current_thread():
            return
        while is_storing() and self._thread.is_alive() and not self.is_frozen():
            self._thread.join(_JOIN_TIMEOUT)


@contextlib.contextmanager
def _ctrl_c_stops(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` when the loop has stopped, not in the middle of one of its callbacks."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    interrupted = False

    def stop(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        loop.call_soon_threadsafe(loop.stop)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupted:
        raise KeyboardInterrupt


class BackgroundLoop:
    """The event loop that a client and its copies share. It starts when needed and stops with the last of them."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._lock = threading.RLock()
        self._loop: _RunningLoop | None = None
        self._finalizer: weakref.finalize[..., BackgroundLoop] | None = None
        self.stopped = False

    def _running(self) -> _RunningLoop:
        if self._loop is not None and (self._loop.is_inherited() or self._loop.is_frozen()):
            # The thread is gone, it may have held the lock, and in a forked child the sockets are the parent's.
            if self._finalizer is not None:
                self._finalizer.detach()
            _INHERITED.append(self._loop)
            self._loop, self._lock = None, threading.RLock()
        with self._lock:
            if self.stopped:
                raise ClosedClientError("this client is closed")
            if sys.meta_path is None:
                raise ClosedClientError("the interpreter has ended, and its modules are gone: no request can be sent")
            if self._loop is None or self._loop.is_stopped():  # it may have stopped at exit, before the last call
                if self._finalizer is not None:
                    self._finalizer.detach()
                self._loop = _RunningLoop(self._connections)
                self._finalizer = weakref.finalize(self, self._loop.stop)
            return self._loop

    def start_task(self, work: Callable[[], Coroutine[Any, Any, None]], events: TaskEvents) -> BackgroundTask:
        """Start a coroutine in the loop. Its :class:`TaskEnd` goes to ``events``."""
        while True:
            loop = self._running()
            if loop.is_current_thread():
                raise RuntimeError(
                    "a Client was called from its own thread (by its api_key callable?): that would wait forever"
                )
            events.bind(loop)
            task = BackgroundTask(loop, events)
            if loop.add(task, work):
                return task

    def stop(self, is_storing: Callable[[], bool]) -> None:
        """End the thread, if there is one. While ``is_storing`` says that a journal is at work, wait for that."""
        self.stopped = True
        if self._finalizer is not None:
            self._finalizer()
        if self._loop is not None:
            self._loop.join(is_storing)
