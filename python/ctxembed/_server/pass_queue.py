"""The queue in front of an embedder: bounded in tokens, and shared pass by pass.

An embedder computes a request in passes that cannot be stopped, and calls ``check`` between them. There the queue
decides whose pass is next: that of the smallest request, so that it does not wait for all passes of a large one. Equal
requests run one after the other, and the first is done early, which sharing the passes evenly would prevent. So that no
flow of small requests stops a large one, the oldest request gets half of the time: whenever others have had more than
it while it waited, the next pass is its own.

A small request therefore waits for the pass that runs, and at most one of the oldest request.
"""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AbandonedError", "Entry", "PassQueue", "QueueClosedError", "QueueFullError"]

_Result = TypeVar("_Result")

_MAX_STARTED: Final = 64
"""Requests between two passes, each of which keeps a thread. Further ones wait until one of these ends."""

_FIRST_SPEED: Final = 1000.0
"""Tokens a second until the first request was measured."""

_MEMORY: Final = 0.8
"""What counts of earlier requests in the speed when another one ends."""


class QueueFullError(Exception):
    """The queue has no room for a request.

    Parameters
    ----------
    wait : float
        Seconds until it is expected to have.
    """

    def __init__(self, wait: float) -> None:
        super().__init__(f"the queue is full for {wait:.1f} seconds")
        self.wait = wait


class QueueClosedError(Exception):
    """The server is stopping and starts no further request."""


class AbandonedError(Exception):
    """Nobody waits for the result any more. ``check`` raises it to end the embedder's call."""


class Entry:
    """A request in the queue. Its fields belong to the queue."""

    __slots__ = (
        "abandoned",
        "began",
        "first",
        "future",
        "number",
        "owed",
        "seconds",
        "started",
        "tokens",
        "turn",
        "work",
    )

    def __init__(self, tokens: int, number: int) -> None:
        self.tokens = tokens
        self.number = number
        self.seconds = 0.0  # of all its passes
        self.began = 0.0  # when its pass began
        self.started = False
        self.owed = False  # its pass is one that the oldest request was owed
        self.first = True  # its first pass began with its call
        self.abandoned = False
        self.turn = threading.Event()
        self.future: Future[Any] | None = None
        self.work: Callable[[Callable[[], None]], Any] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """The tokens, and the order of arrival among equals."""
        return self.tokens, self.number


class PassQueue:
    """Runs requests on threads, a bounded number of passes at once.

    Parameters
    ----------
    at_once : int
        Passes that may run at once. One lets a pass have all processors.
    max_tokens : int or None
        Tokens of all requests in the queue, those that run included. None for no bound. A request is admitted to an
        empty queue whatever its size.
    monotonic : callable
        Gives seconds on a clock that never goes back.

    Notes
    -----
    Thread-safe.

    Examples
    --------
    >>> queue = PassQueue(at_once=1, max_tokens=100)
    >>> entry = queue.enter(tokens=60)
    >>> queue.run(entry, lambda check: 7).result()
    7
    >>> queue.state()["requests"]
    0
    >>> queue.close()
    """

    def __init__(
        self, at_once: int, max_tokens: int | None = None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._at_once = at_once
        self._max_tokens = math.inf if max_tokens is None else max_tokens
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._max_started = max(_MAX_STARTED, at_once)
        self._threads = ThreadPoolExecutor(self._max_started, thread_name_prefix="embed")
        self._entries: set[Entry] = set()
        self._waiting: set[Entry] = set()  # for a pass
        self._running: set[Entry] = set()
        self._started = 0
        self._tokens = 0
        self._number = 0
        self._oldest: Entry | None = None  # of those that wait or run
        self._owed = 0.0  # seconds that others have had more than it, while it waited
        self._done_tokens = 0.0
        self._done_seconds = 0.0
        self._closed = False

    def enter(self, tokens: int) -> Entry:
        """Admit a request.

        Parameters
        ----------
        tokens : int
            Tokens of the request, or an estimate, which :meth:`resize` corrects.

        Returns
        -------
        Entry
            To pass to :meth:`leave` in the end, whatever happens.

        Raises
        ------
        QueueFullError
            There is no room.
        """
        with self._lock:
            if self._entries and self._tokens + tokens > self._max_tokens:
                raise QueueFullError(self._wait(tokens))
            self._number += 1
            entry = Entry(tokens, self._number)
            self._entries.add(entry)
            self._tokens += tokens
            return entry

    def resize(self, entry: Entry, tokens: int) -> None:
        """Correct the tokens of a request that was admitted."""
        with self._lock:
            self._tokens += tokens - entry.tokens
            entry.tokens = tokens

    def run(self, entry: Entry, work: Callable[[Callable[[], None]], _Result]) -> Future[_Result]:
        """Run a request when its turn comes.

        Parameters
        ----------
        entry : Entry
            The request. It leaves the queue before the future has its result.
        work : callable
            Called in a thread with ``check``, which it calls before each pass. ``check`` waits until the request has
            the next pass, and raises :class:`AbandonedError` once it was left.

        Raises
        ------
        QueueClosedError
            The queue was closed. Where that happens later, before the request started, the future has this error.
        """
        future: Future[_Result] = Future()
        future.set_running_or_notify_cancel()  # from here on nothing but its result ends it
        with self._lock:
            if self._closed:
                raise QueueClosedError
            entry.future, entry.work = future, work
            self._waiting.add(entry)
            self._give_passes()
        return future

    def leave(self, entry: Entry) -> None:
        """Take a request out of the queue.

        One that runs ends at its next ``check``, and its tokens count until then. One that has ended is left alone.
        """
        with self._lock:
            if entry not in self._entries:
                return
            entry.abandoned = True
            self._waiting.discard(entry)
            if entry.started:
                entry.turn.set()
            else:
                self._remove(entry)

    def close(self) -> None:
        """Start no further request. Those that were started go on."""
        with self._lock:
            self._closed = True
            ended = [entry for entry in self._waiting if not entry.started]
            for entry in ended:
                self._waiting.remove(entry)
                self._remove(entry)
        for entry in ended:
            if entry.future is not None:
                entry.future.set_exception(QueueClosedError())

    def join(self) -> None:
        """Close the queue, end every request at its next ``check``, and wait for their threads."""
        self.close()
        with self._lock:
            entries = list(self._entries)
        for entry in entries:
            self.leave(entry)
        self._threads.shutdown()

    def state(self) -> dict[str, float | None]:
        """Return the requests and the tokens in the queue, and the measured speed."""
        with self._lock:
            speed = round(self._speed(), 1) if self._done_seconds else None
            return {"requests": len(self._entries), "tokens": self._tokens, "tokens_per_second": speed}

    def _speed(self) -> float:
        """Return tokens a second, over all passes at once."""
        if self._done_seconds == 0:
            return _FIRST_SPEED
        return self._at_once * self._done_tokens / self._done_seconds

    def _wait(self, tokens: int) -> float:
        """Return the seconds until there is room for a request."""
        now = self._monotonic()
        # What has run of the requests in the queue is behind us, though their tokens count to their end.
        spent = sum(entry.seconds for entry in self._entries) + sum(now - entry.began for entry in self._running)
        surplus = min(self._tokens, self._tokens + tokens - self._max_tokens)
        return max(1.0, surplus / self._speed() - spent / self._at_once)

    def _remove(self, entry: Entry) -> None:
        self._entries.remove(entry)
        self._tokens -= entry.tokens
        if entry is self._oldest:
            self._oldest = None  # nothing keeps its texts

    def _give_passes(self) -> None:
        while self._waiting and len(self._running) < self._at_once:
            ready = self._waiting
            if self._started >= self._max_started:
                ready = {entry for entry in ready if entry.started}
            if not ready:
                return
            oldest = min(self._waiting | self._running, key=lambda each: each.number)
            if oldest is not self._oldest:
                self._oldest, self._owed = oldest, 0.0
            entry = min(ready, key=lambda each: each.size)
            if self._owed > 0 and oldest in ready:
                entry = oldest
                entry.owed = True
            self._waiting.remove(entry)
            self._running.add(entry)
            entry.began = self._monotonic()
            if entry.started:
                entry.turn.set()
            else:
                entry.started = True
                self._started += 1
                self._threads.submit(self._work, entry)

    def _end_pass(self, entry: Entry) -> None:
        seconds = self._monotonic() - entry.began
        entry.seconds += seconds
        if entry.owed:
            entry.owed = False
            self._owed -= seconds
        elif self._oldest in self._waiting:
            self._owed += seconds
        self._running.remove(entry)

    def _check(self, entry: Entry) -> None:
        with self._lock:
            if entry.first:
                entry.first = False
                entry.turn.set()
            else:
                self._end_pass(entry)
                entry.turn.clear()
                if not entry.abandoned:
                    self._waiting.add(entry)
                self._give_passes()
            if entry.abandoned:
                raise AbandonedError
        entry.turn.wait()
        if entry.abandoned:
            raise AbandonedError

    def _work(self, entry: Entry) -> None:
        future, work = entry.future, entry.work
        if future is None or work is None:
            raise RuntimeError("a pass was given to a request without work")
        try:
            result = work(lambda: self._check(entry))
        except BaseException as error:  # noqa: BLE001  # the future carries it
            self._end(entry, measured=False)
            future.set_exception(error)
        else:
            self._end(entry, measured=True)
            future.set_result(result)

    def _end(self, entry: Entry, *, measured: bool) -> None:
        with self._lock:
            if entry in self._running:
                self._end_pass(entry)
            self._started -= 1
            self._remove(entry)
            if measured:
                self._done_tokens = _MEMORY * self._done_tokens + entry.tokens
                self._done_seconds = _MEMORY * self._done_seconds + entry.seconds
            self._give_passes()
