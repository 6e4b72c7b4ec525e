"""Scans that are shared: searches that arrive while one runs go together into the next.

A scan of many queries reads each row once for all of them, so that the batch takes far less time than its queries one
after the other. Nobody waits for others to arrive: where nothing runs, a query is scanned alone, at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from numpy.typing import NDArray

    from ctxembed._collection.query import SearchOptions
    from ctxembed._collection.view import View

    ScanFuture: TypeAlias = Future["ScannedRows"]

__all__ = ["ScanQueue", "ScanQueueClosedError", "ScanQueueFullError", "ScannedRows"]

_MAX_QUERIES: Final = 512
"""Queries of a scan."""

_MAX_ROWS: Final = 65_536
"""Rows that the queries of a scan may ask for together, so that those with a large ``k`` do not hold up the others."""

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


class _Query:
    """A query that waits."""

    __slots__ = ("arrived", "future", "kind", "options", "vector", "view")

    def __init__(self, view: View, vector: NDArray[Any], options: SearchOptions, arrived: float) -> None:
        self.view = view
        self.vector = vector
        self.options = options
        self.arrived = arrived
        self.future: ScanFuture = Future()
        # What queries of one scan have in common. Those with a smaller k get the beginning of what the largest finds.
        # In two stages that would be another result, since k decides how many rows the first stage keeps.
        size = options.k if options.stage != "exact" else sum(options.k > most for most in _SIZES)
        mask = None if options.mask is None else id(options.mask)
        kind = (id(view), mask, options.stage, options.oversample, options.dimensions)
        self.kind = (*kind, size, vector.dtype.char, vector.shape[1])


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
    A query whose future is cancelled before its scan is not scanned.
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
        self._waiting: deque[_Query] = deque()
        self._closed = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Return the number of queries that wait."""
        return len(self._waiting)

    def submit(self, view: View, vector: NDArray[Any], options: SearchOptions) -> ScanFuture:
        """Add a query to those of the next scan of its kind.

        Parameters
        ----------
        view : View
            The state to search.
        vector : ndarray of int8 or uint8, shape (1, width)
            The query.
        options : SearchOptions
            Of the search. Those with the same object as ``mask`` can share a scan.

        Raises
        ------
        ScanQueueFullError, ScanQueueClosedError
            It does not take another query.
        """
        query = _Query(view, vector, options, self._monotonic())
        with self._changed:
            if self._closed:
                raise ScanQueueClosedError
            if len(self._waiting) >= self._max_waiting:
                raise ScanQueueFullError
            self._waiting.append(query)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="scan", daemon=True)
                self._thread.start()
            self._changed.notify()
        return query.future

    def scan(self, view: View, vector: NDArray[Any], options: SearchOptions) -> ScannedRows:
        """Search for one vector, and wait for the result. It is the ``scan`` of :class:`SearchOptions`."""
        return self.submit(view, vector.reshape(1, -1), options).result()

    def close(self) -> None:
        """Take no further query, scan what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                batch = self._take()
            if batch:
                self._scan(batch)
            batch = []  # a thread that waits keeps no state of a collection

    def _take(self) -> list[_Query]:
        """Remove the queries of the next scan."""
        batch: list[_Query] = []
        left: deque[_Query] = deque()
        kind = None
        most, largest = self._max_queries, 0
        for query in self._waiting:
            if query.future.cancelled():
                continue
            if kind is None:
                kind = query.kind
            size = max(largest, query.options.k)
            fits = len(batch) < most and (not batch or size * (len(batch) + 1) <= _MAX_ROWS)
            if fits and query.kind == kind and query.future.set_running_or_notify_cancel():
                batch.append(query)
                largest = size
            else:
                left.append(query)
        self._waiting = left
        return batch

    def _scan(self, batch: list[_Query]) -> None:
        first, began = batch[0], self._monotonic()
        options = first.options
        try:
            vectors = first.vector if len(batch) == 1 else np.concatenate([query.vector for query in batch])
            found = first.view.index.search(
                vectors,
                max(query.options.k for query in batch),
                mask=options.mask,
                stage=options.stage,
                oversample=options.oversample,
                dimensions=options.dimensions,
            )
        except BaseException as error:  # noqa: BLE001  # it belongs to those who wait
            for query in batch:
                query.future.set_exception(error)
            return
        seconds = self._monotonic() - began
        if self._on_scan is not None:
            self._on_scan(len(batch), seconds)
        ids, scores = found.ids, found.scores
        for place, query in enumerate(batch):
            row = slice(place, place + 1), slice(query.options.k)
            # Copies: a search that is read slowly does not keep the rows of all others.
            rows = ScannedRows(ids[row].copy(), scores[row].copy(), len(batch), began - query.arrived, seconds)
            query.future.set_result(rows)
