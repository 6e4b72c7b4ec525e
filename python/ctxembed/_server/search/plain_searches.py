"""Searches of one scan: the way that most of them go, with as few steps as there can be.

Three threads hand over whole batches: the event loop submits queries, the scan finds the rows of many, and a reader
turns the rows of many into hits, with a few statements of SQL for all of them. Searches that end while it reads go
together into its next batch.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ctxembed._collection.query import scores_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctxembed._collection.query import SearchOptions
    from ctxembed._collection.view import View
    from ctxembed._server.search.scans import Scan, ScannedRows, ScanQueue

__all__ = ["FoundHits", "PlainSearches"]

_MANY: Final = 1024
"""Hits of a search that is not read together with others, which would wait for it."""

_AT_ONCE: Final = 16
"""Searches that are read together: more would let the callers of the first ones wait for the last."""

_LARGE_READERS: Final = 2


class FoundHits(NamedTuple):
    """What a search found.

    Attributes
    ----------
    hits : bytes
        As JSON: a list of hits for each vector, or the one list.
    scans : tuple of ScannedRows
        The scan of each vector.
    seconds : float
        Time of reading.
    """

    hits: bytes
    scans: tuple[ScannedRows, ...]
    seconds: float


class _Search:
    """A search that is under way."""

    __slots__ = ("future", "loop", "options", "scanned", "scans", "several", "unscanned", "vectors", "view")

    def __init__(self, view: View, vectors: Sequence[NDArray[Any]], options: SearchOptions, *, several: bool) -> None:
        self.view = view
        self.vectors = vectors
        self.options = options
        self.several = several
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[FoundHits] = self.loop.create_future()
        self.scans: list[Scan] = []
        self.scanned: list[Any] = [None] * len(vectors)  # ScannedRows, or an error, of each
        self.unscanned = len(vectors)

    def ranked(self) -> list[tuple[list[int], list[float]]]:
        """Return the rows of each vector with their scores."""
        dimensions = self.options.dimensions
        return [
            (found.ids.reshape(-1).tolist(), scores_of(self.view, vector, found, dimensions))
            for vector, found in zip(self.vectors, self.scanned, strict=True)
        ]

    def result(self, hits: list[bytes], began: float) -> FoundHits:
        """Return the result from the hits of each vector."""
        body = b"[" + b",".join(hits) + b"]" if self.several else hits[0]
        return FoundHits(body, tuple(self.scanned), time.perf_counter() - began)


class PlainSearches:
    """Finds and reads hits in batches.

    Parameters
    ----------
    scans : ScanQueue
        Finds the rows.
    """

    def __init__(self, scans: ScanQueue) -> None:
        self._scans = scans
        self._lock = threading.Lock()
        self._unread: list[_Search] = []
        self._reads = False
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._large = ThreadPoolExecutor(_LARGE_READERS, thread_name_prefix="read-many")

    def close(self) -> None:
        """End the threads, once no search is under way."""
        self._reader.shutdown()
        self._large.shutdown()

    async def find(
        self, view: View, vectors: Sequence[NDArray[Any]], options: SearchOptions, *, several: bool
    ) -> FoundHits:
        """Search for vectors.

        Parameters
        ----------
        view : View
            The state to search.
        vectors : sequence of ndarray of shape (1, width)
            The queries.
        options : SearchOptions
            Without grouping and neighbours.
        several : bool
            Whether the result is a list for each vector.
        """
        search = _Search(view, vectors, options, several=several)
        try:
            for place, vector in enumerate(vectors):
                search.scans.append(self._scans.submit(view, vector, options, partial(self._scanned, search, place)))
            return await search.future
        except BaseException:
            for scan in search.scans:
                scan.cancel()
            raise

    def _scanned(self, search: _Search, place: int, scan: Scan) -> None:
        """Keep what a scan has found. Runs on the thread that scans."""
        search.scanned[place] = scan.result
        search.unscanned -= 1
        if search.unscanned or search.future.done():
            return
        errors = [result for result in search.scanned if isinstance(result, BaseException)]
        if errors:
            _deliver([(search, errors[0])])
            return
        if len(search.vectors) * search.options.k > _MANY:
            self._large.submit(self._read, [search])
            return
        with self._lock:
            self._unread.append(search)
            if self._reads:
                return
            self._reads = True
        self._reader.submit(self._read_all)

    def _read_all(self) -> None:
        while True:
            with self._lock:
                batch, self._unread = self._unread[:_AT_ONCE], self._unread[_AT_ONCE:]
                if not batch:
                    self._reads = False
                    return
            self._read(batch)

    def _read(self, batch: list[_Search]) -> None:
        began = time.perf_counter()
        by_view: dict[int, list[_Search]] = defaultdict(list)
        for search in batch:
            by_view[id(search.view)].append(search)
        results: list[tuple[_Search, FoundHits | BaseException]] = []
        for searches in by_view.values():
            try:
                ranked = [rows for search in searches for rows in search.ranked()]
                hits = iter(searches[0].view.hits_json(ranked))
                results += [
                    (search, search.result(list(islice(hits, len(search.vectors))), began)) for search in searches
                ]
            except Exception:  # noqa: BLE001  # it belongs to one of them: each is read alone
                results += [(search, _read_alone(search, began)) for search in searches]
        _deliver(results)


def _read_alone(search: _Search, began: float) -> FoundHits | Exception:
    try:
        return search.result(search.view.hits_json(search.ranked()), began)
    except Exception as error:  # noqa: BLE001  # the search raises it
        return error


def _deliver(results: list[tuple[_Search, FoundHits | BaseException]]) -> None:
    """Give results to those who wait for them, all of an event loop in one step."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Search, FoundHits | BaseException]]] = defaultdict(list)
    for result in results:
        by_loop[result[0].loop].append(result)
    for loop, found in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set_results, found)
        except RuntimeError:  # the loop is closed: nobody waits
            continue


def _set_results(results: list[tuple[_Search, FoundHits | BaseException]]) -> None:
    for search, result in results:
        if search.future.done():
            continue
        if isinstance(result, BaseException):
            search.future.set_exception(result)
        else:
            search.future.set_result(result)
