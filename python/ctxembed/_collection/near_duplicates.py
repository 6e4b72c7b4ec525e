"""Pairs of documents with chunks that are near each other: every row is compared with the rows of later documents."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._documents import NearDuplicate
from ctxembed._models import as_int

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ctxembed._collection.view import View

__all__ = ["find_near_duplicates"]

_QUERIES: Final = 256
"""Rows that are compared with all others at once. With so many the time goes into the comparisons, not the memory."""

_MATCHES: Final = 1 << 21
"""Pairs of rows that are held at once, unless a single row has more: some 64 bytes each while they are sorted."""


@dataclass(frozen=True, slots=True)
class _Documents:
    """The rows of the documents that are compared, in order of ingestion."""

    first_rows: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def read(cls, view: View, mask: NDArray[np.bool_] | None) -> _Documents:
        pairs = np.array(view.ranges(), np.int64).reshape(-1, 2)
        pairs = pairs[np.argsort(pairs[:, 0])]
        if mask is not None:
            pairs = pairs[mask[pairs[:, 0]]]
        return cls(pairs[:, 0], pairs[:, 1])

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the place of each row's document."""
        return np.searchsorted(self.first_rows, rows, side="right") - 1

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield (first, behind) of documents that have some rows together, or of one with more."""
        first = count = 0
        for place, rows in enumerate(self.rows.tolist()):
            if place > first and count + rows > _QUERIES:
                yield first, place
                first, count = place, 0
            count += rows
        if first < len(self.rows):
            yield first, len(self.rows)


def find_near_duplicates(
    view: View, threshold: Any, limit: Any, *, where: str | None, params: object, dimensions: Any
) -> list[NearDuplicate]:
    """Return the pairs of documents whose nearest chunks reach a score.

    Raises as :meth:`Collection.near_duplicates`.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.integer | np.floating):
        raise TypeError(f"threshold must be a score, got {threshold!r:.100}")
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be finite, got {threshold}")
    most = None if limit is None else as_int("limit", limit)
    if most is not None and most < 1:
        raise ValueError(f"limit must be at least 1, got {most}")
    nothing = np.zeros(view.layout.width, view.layout.dtype)
    view.index.search(nothing, 1, mask=np.zeros(0, np.int64), dimensions=dimensions)  # checks the dimensions
    mask = view.mask(where, params)
    scan = _Scan(view, float(threshold), dimensions)
    documents = _Documents.read(view, mask)
    allowed = np.ones(view.rows, np.bool_) if mask is None else mask.copy()

    best: list[tuple[float, int, int, int, int, int]] = []  # score, then -places and -rows: the greatest is the best
    for first, behind in documents.blocks():
        start = int(documents.first_rows[first])
        # A document with many rows is never compared with itself; of a block the pairs within one are left out.
        allowed[: start + (int(documents.rows[first]) if behind == first + 1 else 0)] = False
        found: dict[tuple[int, int], tuple[float, int, int, int]] = {}
        for rows in _batches(documents, first, behind):
            for one, two, scores in scan.near(rows, allowed):
                _add(found, documents, one, two, scores)
        best += [(score, -a, -b, -one, -two, count) for (a, b), (score, one, two, count) in found.items()]
        if most is not None and len(best) > 2 * most:
            best = heapq.nlargest(most, best)
    return _named(view, documents, heapq.nlargest(most, best) if most is not None else sorted(best, reverse=True))


def _batches(documents: _Documents, first: int, behind: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of documents, some at once."""
    ranges = zip(documents.first_rows[first:behind].tolist(), documents.rows[first:behind].tolist(), strict=True)
    rows = np.concatenate([np.arange(start, start + count) for start, count in ranges])
    for at in range(0, len(rows), _QUERIES):
        yield rows[at : at + _QUERIES]


class _Scan:
    """Comparisons of rows with rows, in bounded memory."""

    def __init__(self, view: View, threshold: float, dimensions: int | None) -> None:
        self._index = view.index
        self._is_binary = view.layout.is_binary
        self._dims = view.generation.dimensions if dimensions is None else int(dimensions)
        self._options = {"dimensions": dimensions, "metric": "hamming" if self._is_binary else "cosine"}
        self._radius: float = threshold
        if self._is_binary:  # the greatest distance whose score reaches the threshold
            share = 1 - min(max(threshold, -1.0), 2.0)
            distance = min(self._dims, math.floor(share * self._dims) + 1)
            while distance >= 0 and self._scores(np.array([distance]))[0] < threshold:
                distance -= 1
            self._radius = distance

    def _scores(self, found: NDArray[Any]) -> NDArray[np.float64]:
        return 1.0 - found.astype(np.float64) / self._dims if self._is_binary else found.astype(np.float64)

    def near(
        self, rows: NDArray[np.int64], allowed: NDArray[np.bool_]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
        """Yield (row, row of ``allowed``, score) of the pairs that reach the threshold, some at once."""
        if self._radius < 0 and self._is_binary:
            return
        queries = self._index.vectors(rows)
        stops = [len(rows)]
        if len(rows) * int(np.count_nonzero(allowed)) > _MATCHES:
            counts = self._index.count(queries, self._radius, mask=allowed, **self._options)
            stops = _stops(counts)
        start = 0
        for stop in stops:
            found = self._index.search_range(queries[start:stop], self._radius, mask=allowed, **self._options)
            yield np.repeat(rows[start:stop], np.diff(found.offsets)), found.ids, self._scores(found.scores)
            start = stop


def _stops(counts: NDArray[np.int64]) -> list[int]:
    """Return where to cut queries, so that the matches of each part can be held."""
    stops, held = [], 0
    for place, count in enumerate(counts.tolist()):
        if held and held + count > _MATCHES:
            stops.append(place)
            held = 0
        held += count
    return [*stops, len(counts)]


def _add(
    found: dict[tuple[int, int], tuple[float, int, int, int]],
    documents: _Documents,
    one: NDArray[np.int64],
    two: NDArray[np.int64],
    scores: NDArray[np.float64],
) -> None:
    """Add pairs of rows to the pairs of documents: (score, row, row) of the nearest, and how many there are."""
    a, b = documents.of(one), documents.of(two)
    later = b > a
    a, b, one, two, scores = a[later], b[later], one[later], two[later], scores[later]
    order = np.lexsort((two, one, -scores, b, a))
    a, b, one, two, scores = a[order], b[order], one[order], two[order], scores[order]
    starts = np.flatnonzero(np.concatenate(([True], (np.diff(a) != 0) | (np.diff(b) != 0)))) if len(a) else a
    counts = np.diff(np.append(starts, len(a)))
    columns = (a[starts], b[starts], scores[starts], one[starts], two[starts], counts)
    for first, second, score, row, other, count in zip(*(column.tolist() for column in columns), strict=True):
        before = found.get((first, second))
        if before is None:
            found[first, second] = (score, row, other, count)
        else:
            # The nearer pair, and of two that are as near the one of the lower rows.
            nearer = min(before[:3], (score, row, other), key=lambda pair: (-pair[0], *pair[1:]))
            found[first, second] = (*nearer, before[3] + count)


def _named(view: View, documents: _Documents, best: list[tuple[float, int, int, int, int, int]]) -> list[NearDuplicate]:
    """Return pairs with the ids of their documents, which are checked, and their vectors too."""
    names: dict[int, str] = {}

    def name(place: int) -> str:
        if place not in names:
            [(number, *_)] = view.chunks_at([int(documents.first_rows[place])])
            values = view.document_at(number)
            view.check_vectors([values])
            names[place] = values[1]
        return names[place]

    return [
        NearDuplicate(
            (name(-a), name(-b)),
            (-one - int(documents.first_rows[-a]), -two - int(documents.first_rows[-b])),
            score,
            count,
        )
        for score, a, b, one, two, count in best
    ]
