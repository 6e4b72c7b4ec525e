"""Passages: a chunk with its neighbours as one text, and hits whose passages overlap as one hit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctxembed._collection.ranking import distinct_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctxembed._collection.ranking import RankedRow, Ranking
    from ctxembed._collection.view import View

__all__ = ["FoundRows", "joined_text", "merged_passages"]


@dataclass(frozen=True, slots=True)
class FoundRows:
    """A hit before its texts are read: the row that was found, and the rows of its passage.

    Parameters
    ----------
    ranked : RankedRow
        The row.
    start, stop : int
        First row of the passage, and the row behind its last. All are of one document.
    """

    ranked: RankedRow
    start: int
    stop: int

    @classmethod
    def around(cls, view: View, ranked: RankedRow, neighbours: int) -> FoundRows:
        """Return a row with so many rows of its document on each side."""
        if not neighbours:
            return cls(ranked, ranked.row, ranked.row + 1)
        first, behind = view.rows_of(ranked.row)
        return cls(ranked, max(first, ranked.row - neighbours), min(behind, ranked.row + neighbours + 1))


def merged_passages(view: View, ranking: Ranking, k: int, neighbours: int) -> list[FoundRows]:
    """Return the best ``k`` passages of which no two overlap.

    The passages of the best ``k`` rows are merged where they share chunks. In place of those that are merged away come
    the next rows whose passages share no chunk with one that there is already. These do not grow: else the rows of one
    long document, each beside the last, would become one passage that is as long as the document.
    """
    best = ranking.best(k)
    ranks = {ranked.row: rank for rank, ranked in enumerate(best)}
    found: list[FoundRows] = []
    for one in sorted((FoundRows.around(view, ranked, neighbours) for ranked in best), key=lambda one: one.start):
        # Documents have rows of their own, so ranges of rows that overlap are of one document.
        if found and one.start < found[-1].stop:
            ranked = min(found[-1].ranked, one.ranked, key=lambda ranked: ranks[ranked.row])
            found[-1] = FoundRows(ranked, found[-1].start, max(found[-1].stop, one.stop))
        else:
            found.append(one)
    found.sort(key=lambda one: ranks[one.ranked.row])
    if len(found) < k == len(best):

        def extent(row: int, start: int, stop: int) -> tuple[int, int]:
            """Return the rows whose passages would overlap one."""
            first, behind = view.rows_of(row)
            return max(first, start - neighbours), min(behind, stop + neighbours)

        covered = np.zeros(view.rows, np.bool_)
        for one in found:
            start, stop = extent(one.ranked.row, one.start, one.stop)
            covered[start:stop] = True
        further = distinct_rows(
            ranking, k - len(found), covered, lambda row: extent(row, row - neighbours, row + neighbours + 1)
        )
        found += [FoundRows.around(view, ranked, neighbours) for ranked in further]
    return found


def joined_text(chunks: Iterable[tuple[str, int | None, int | None]]) -> tuple[str, list[int]]:
    """Return the text of chunks that follow each other, and where each of them begins in it.

    Parameters
    ----------
    chunks : iterable of (text, start, stop)
        ``start`` and ``stop`` are its span in the source; None where it has none.

    Notes
    -----
    Text that the spans of two chunks share stands once. Between chunks with a gap stand as many newlines as the gap has
    characters, but two at most; between chunks without spans stands one. A span that is not as long as its text, or an
    overlap in which two texts differ, counts as no span, so nothing is left out that does not stand before.
    """
    joined = ""
    offsets: list[int] = []
    reached: int | None = None  # the position in the source at which the text ends
    for text, start, stop in chunks:
        span = (start, stop) if start is not None and stop is not None and stop - start == len(text) else None
        at = len(joined)
        if offsets:
            gap = None if span is None or reached is None else span[0] - reached
            if gap is not None and -len(joined) <= gap < 0 and joined[gap:][: len(text)] == text[:-gap]:
                at += gap
            else:
                joined += "\n" * (1 if gap is None or gap < 0 else min(gap, 2))
                at = len(joined)
                reached = None
        offsets.append(at)
        joined += text[len(joined) - at :]
        reached = None if span is None else span[1] if reached is None else max(reached, span[1])
    return joined, offsets
