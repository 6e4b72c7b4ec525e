"""Scans that are shared: searches that arrive while one runs go together into the next.

A scan of many queries reads each row once for all of them, so that the batch takes far less time than its queries one
after the other. A caller alone waits for nobody. Where the last scan had several, the next one waits for as many, but
no longer than the last one took: callers that ask again and again would else go into scans of ever fewer.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctxembed._collection.query import SearchOptions
    from ctxembed._collection.view import View

__all__ = ["Scan", "ScanQueue", "ScanQueueClosedError", "ScanQueueFullError", "ScannedRows"]

_MAX_QUERIES: Final = 512
"""Queries of a scan."""

_MAX_ROWS: Final = 65_536
"""Rows that the queries of a scan may ask for together, so that those with a large ``k`` do not hold up the others."""

_STRAGGLERS: Final = 32
"""One of so many queries is not waited for."""

_NICE: Final = 5
"""A scan yields to the threads that keep callers waiting for a fraction of its time."""

_SIZES: Final = (128, 1024)
"""Queries that ask for so many rows at most are not scanned together with those that ask for more."""


class ScanQueueFullError(Exception):
    """Too many queries wait."""


class ScanQueueClosedError(Exception):
    """The server is stopping and starts no further scan."""


class ScannedRows(NamedTuple):
    """What a scan found for one query.

    Attributes
    ----------
    ids, scores : ndarray, shape (1, n)
        As in ``Matches``.
    queries : int
        How many queries the scan had.
    waited, seconds : float
        Time before the scan, and that of the scan.
    """

    ids: NDArray[np.int64]
    scores: NDArray[Any]
    queries: int
    waited: float
    seconds: float


class Scan:
    """A query that waits, or was scanned.

    Attributes
    ----------
    result : ScannedRows, BaseException or None
        What was found, or the error.
    """

    __slots__ = ("arrived", "done", "kind", "options", "result", "vector", "view")

    def __init__(
        self,
        view: View,
        vector: NDArray[Any],
        options: SearchOptions,
        arrived: float,
        done: Callable[[Scan], object],
    ) -> None:
        self.view = view
        self.vector = vector
        self.options = options
        self.arrived = arrived
        self.done: Callable[[Scan], object] | None = done
        self.result: ScannedRows | BaseException | None = None
        # What queries of one scan have in common. Those with a smaller k get the beginning of what the largest finds.
        # In two stages that would be another result, since k decides how many rows the first stage keeps.
        size = options.k if options.stage != "exact" else sum(options.k > most for most in _SIZES)
        mask = None if options.mask is None else id(options.mask)
        kind = (id(view), mask, options.stage, options.oversample, options.dimensions)
        self.kind = (*kind, size, vector.dtype.char, vector.shape[1])

    def cancel(self) -> None:
        """Leave the queue: the query is not scanned if that has not begun."""
        self.done = None

    def finish(self, result: ScannedRows | BaseException) -> None:
        """Hand over the result. Then nothing here refers to those who waited: a cycle would keep the state open."""
        self.result = result
        done, self.done = self.done, None
        if done is not None:
            done(self)


class ScanQueue:
    """Scans for all searches, one scan at a time, on a thread of its own. A scan has all processors.

    Parameters
    ----------
    max_waiting : int
        Queries that may wait.
    max_queries : int
        Queries of a scan; 1 shares nothing.
    on_scan : callable or None
        Called on that thread after each scan, with its number of queries and its seconds.
    monotonic : callable
        Gives seconds on a clock that never goes back.

    Notes
    -----
    Thread-safe. The next scan is of the kind of the query that has waited longest, with all of its kind, in order of
    arrival. So no kind, such as those with a large ``k`` or with a filter, waits for more than one scan of each other.
    A query that is cancelled before its scan is not scanned.
    """

    def __init__(
        self,
        *,
        max_waiting: int = 8192,
        max_queries: int = _MAX_QUERIES,
        on_scan: Callable[[int, float], object] | None = None,
        monotonic: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._max_waiting = max_waiting
        self._max_queries = max_queries
        self._on_scan = on_scan
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._waiting: deque[Scan] = deque()
        self._wanted = 1  # queries that wake the thread
        self._last_ended, self._last_seconds, self._last_queries = 0.0, 0.0, 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Return the number of queries that wait."""
        return len(self._waiting)

    def submit(self, view: View, vector: NDArray[Any], options: SearchOptions, done: Callable[[Scan], object]) -> Scan:
        """Add a query to those of the next scan of its kind.

        Parameters
        ----------
        view : View
            The state to search.
        vector : ndarray of int8 or uint8, shape (1, width)
            The query.
        options : SearchOptions
            Of the search. Those with the same object as ``mask`` can share a scan.
        done : callable
            Called with the scan, on the thread that scans, once it has its result. It must not raise.

        Raises
        ------
        ScanQueueFullError, ScanQueueClosedError
            It does not take another query.
        """
        scan = Scan(view, vector, options, self._monotonic(), done)
        with self._changed:
            if self._closed:
                raise ScanQueueClosedError
            if len(self._waiting) >= self._max_waiting:
                raise ScanQueueFullError
            self._waiting.append(scan)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="scan", daemon=True)
                self._thread.start()
            if len(self._waiting) == self._wanted:  # else it is awake, or waits for more
                self._changed.notify()
        return scan

    def scan(self, view: View, vector: NDArray[Any], options: SearchOptions) -> ScannedRows:
        """Search for one vector, and wait for the result. It is the ``scan`` of :class:`SearchOptions`."""
        found: Future[Scan] = Future()
        self.submit(view, vector.reshape(1, -1), options, found.set_result)
        result = found.result().result
        if isinstance(result, ScannedRows):
            return result
        assert result is not None  # noqa: S101  # a scan that is done has one
        raise result

    def close(self) -> None:
        """Take no further query, scan what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        if sys.platform == "linux":  # elsewhere it would be the priority of the whole process
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICE)
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                self._gather()
                batch = self._take()
            if batch:
                self._scan(batch)
            batch = []  # a thread that waits keeps no state of a collection

    def _gather(self) -> None:
        """Wait for as many as the last scan had, if those were several, for as long as it took at most.

        They come back one after the other, and to scan for the first of them takes nearly as long as for all.
        """
        if self._last_queries < 2:
            return
        until = self._last_ended + self._last_seconds
        self._wanted = self._last_queries - self._last_queries // _STRAGGLERS
        while len(self._waiting) < self._wanted and not self._closed:
            left = until - self._monotonic()
            if left <= 0:
                break
            self._changed.wait(left)
        self._wanted = 1

    def _take(self) -> list[Scan]:
        """Remove the queries of the next scan."""
        batch: list[Scan] = []
        rest: list[Scan] = []
        others: deque[Scan] = deque()
        largest = 0
        for scan in self._waiting:
            if scan.done is None:  # cancelled
                continue
            if batch and scan.kind != batch[0].kind:
                others.append(scan)
            elif not batch or self._fits(max(largest, scan.options.k), len(batch) + 1):
                batch.append(scan)
                largest = max(largest, scan.options.k)
            else:
                rest.append(scan)
        others.extend(rest)  # behind the other kinds
        self._waiting = others
        return batch

    def _fits(self, k: int, queries: int) -> bool:
        return queries <= self._max_queries and k * queries <= _MAX_ROWS

    def _scan(self, batch: list[Scan]) -> None:
        first, began = batch[0], self._monotonic()
        options = first.options
        try:
            vectors = first.vector if len(batch) == 1 else np.concatenate([scan.vector for scan in batch])
            found = first.view.index.search(
                vectors,
                max(scan.options.k for scan in batch),
                mask=options.mask,
                stage=options.stage,
                oversample=options.oversample,
                dimensions=options.dimensions,
            )
        except BaseException as error:  # noqa: BLE001  # it belongs to those who wait
            for scan in batch:
                scan.finish(error)
            return
        self._last_ended = self._monotonic()
        seconds = self._last_ended - began
        self._last_seconds, self._last_queries = seconds, len(batch)
        if self._on_scan is not None:
            self._on_scan(len(batch), seconds)
        ids, scores = found.ids, found.scores
        for place, scan in enumerate(batch):
            row = slice(place, place + 1), slice(scan.options.k)
            # Copies: a search that is read slowly does not keep the rows of all others.
            scan.finish(ScannedRows(ids[row].copy(), scores[row].copy(), len(batch), began - scan.arrived, seconds))
