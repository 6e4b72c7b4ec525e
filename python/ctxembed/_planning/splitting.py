"""Documents that are too long for the model, cut into windows that fit, and put together again. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np

from ctxembed._errors import DocumentError
from ctxembed._planning.limits import Limits, check_limits
from ctxembed._planning.prepare import chunk_tokens, materialise_documents
from ctxembed._results import Embeddings, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import ArrayLike, NDArray

    from ctxembed._planning.prepare import CountsTokens

__all__ = ["SplitDocuments", "Window", "split_long"]


@dataclass(frozen=True, slots=True)
class Window:
    """A run of chunks of one document that is embedded as a document of its own.

    Attributes
    ----------
    document : int
        Position of the original document.
    start, stop : int
        The chunks whose vectors are kept: ``start:stop`` of the original's.
    before, after : int
        Chunks sent as context before and after them, whose vectors are dropped.
    """

    document: int
    start: int
    stop: int
    before: int = 0
    after: int = 0

    @property
    def chunks(self) -> slice:
        """All that is sent, as a slice of the original's chunks."""
        return slice(self.start - self.before, self.stop + self.after)

    @property
    def rows(self) -> slice:
        """What is kept, as a slice of the window's own rows."""
        return slice(self.before, self.before + self.stop - self.start)


@dataclass(frozen=True, eq=False, repr=False)
class SplitDocuments:
    """Documents of which none is too long, and the way back to the originals.

    Attributes
    ----------
    documents : list of list of str
        What to embed: one document a window, in the order of the originals. Short documents are whole.
    windows : tuple of Window
        Where each of ``documents`` comes from.
    offsets : ndarray of int64, shape (n_originals + 1,)
        Chunks of the originals: the i-th has ``offsets[i + 1] - offsets[i]``. Read-only.
    """

    documents: list[list[str]]
    windows: tuple[Window, ...]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        self.offsets.flags.writeable = False

    @property
    def split(self) -> NDArray[np.int64]:
        """Positions of the originals that were cut, ascending, int64."""
        counts = np.bincount([window.document for window in self.windows], minlength=len(self))
        return np.flatnonzero(counts > 1).astype(np.int64)

    def __len__(self) -> int:
        """Return the number of original documents."""
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"SplitDocuments({len(self)} documents in {len(self.windows)} windows, {len(self.split)} cut)"

    def join(self, embeddings: Embeddings) -> Embeddings:
        """Put the windows' vectors together as those of the original documents.

        Parameters
        ----------
        embeddings : Embeddings
            Of ``documents``, in their order, failures included.

        Returns
        -------
        Embeddings
            One document an original, one row a chunk; context rows are dropped. A document of which a window failed
            has no rows and one failure, the first of its windows' with the most attempts of any. ``usage`` is that of
            all windows, context included, since all of it was paid.

        Raises
        ------
        TypeError
            Something else than ``Embeddings``.
        ValueError
            Another number of documents, or a document with another number of chunks than its window has.

        Notes
        -----
        A copy, unless nothing was cut and nothing failed.
        """
        if not isinstance(embeddings, Embeddings):
            raise TypeError(f"embeddings must be a ctxembed.Embeddings, got {type(embeddings).__name__}")
        if len(embeddings) != len(self.windows):
            raise ValueError(f"embeddings have {len(embeddings)} documents, expected one a window: {len(self.windows)}")
        failed: dict[int, Failure] = {}
        lost = {failure.document for failure in embeddings.failures}
        for failure in embeddings.failures:
            document = self.windows[failure.document].document
            first = failed.get(document)
            error = failure.error if first is None else first.error
            attempts = failure.attempts if first is None else max(first.attempts, failure.attempts)
            failed[document] = Failure(document, error, attempts)
        rows: list[NDArray[np.int64]] = []
        counts = np.diff(self.offsets)
        starts = embeddings.offsets.tolist()
        for position, window in enumerate(self.windows):
            found = starts[position + 1] - starts[position]
            expected = 0 if position in lost else window.chunks.stop - window.chunks.start
            if found != expected:
                raise ValueError(
                    f"document {position} of the embeddings has {found} rows, its window {expected} chunks"
                )
            if window.document in failed:
                counts[window.document] = 0
                continue
            first_row = starts[position] + window.rows.start
            rows.append(np.arange(first_row, first_row + window.stop - window.start))
        if len(self.windows) == len(self) and not failed:
            return embeddings
        kept = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        return replace(
            embeddings,
            vectors=embeddings.vectors[kept],
            offsets=np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counts))),
            failures=tuple(failed[document] for document in sorted(failed)),
        )


def split_long(
    documents: Iterable[Iterable[str]],
    counter: CountsTokens | Callable[[list[str]], ArrayLike] | None = None,
    *,
    overlap_chunks: int = 0,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> SplitDocuments:
    """Cut documents that are over the per-document limits, at chunk boundaries, into windows that fit.

    **This changes vectors.** A chunk is embedded in the context of its window alone, not of its whole document: what
    stands beyond the cut does not reach it. ``overlap_chunks`` softens the edges and is paid for. Documents that fit
    are left whole, and their vectors stay what they are.

    Parameters
    ----------
    documents : iterable of iterables of str
        Documents as lists of chunks, of any length.
    counter : TokenCounter or callable, optional
        Counts exactly: what has ``count_batch``, or a callable, list of str to counts. Where absent, the estimate
        with its margin that :func:`plan` uses.
    overlap_chunks : int
        Chunks of the neighbouring windows that are sent with a window, before it and after it, as context: at most
        so many on each side, fewer where they do not fit. Their vectors are dropped by ``join``.
    limits : Limits
        A window keeps ``tokens_per_document``, ``tokens`` and ``chunks``, its context and separators included.

    Returns
    -------
    SplitDocuments
        ``.documents`` to embed, ``.windows``, and ``.join(embeddings)`` for the way back.

    Raises
    ------
    DocumentError
        A chunk that is too long by itself (named): no cut at chunk boundaries helps.
    TypeError
        Something that is not an iterable of iterables of str, or an argument of another type.
    ValueError
        No documents at all; a negative ``overlap_chunks``; a counter's result that cannot be.

    Notes
    -----
    Windows of a document are as few as greedy cutting makes, and then as even as that number allows, so that no
    short rest stands without context. A document with problems of another kind (no chunks, an empty chunk) passes
    through; :func:`plan` and the client name them.

    Examples
    --------
    >>> import ctxembed
    >>> words = lambda texts: [len(text.split()) for text in texts]
    >>> book = ["one two three", "four five", "six seven", "eight nine ten"]
    >>> parts = ctxembed.split_long([book, ["short"]], words, limits=ctxembed.Limits(tokens_per_document=6))
    >>> parts
    SplitDocuments(2 documents in 3 windows, 1 cut)
    >>> parts.documents
    [['one two three', 'four five'], ['six seven', 'eight nine ten'], ['short']]
    """
    check_limits(limits)
    if isinstance(overlap_chunks, bool) or not isinstance(overlap_chunks, (int, np.integer)):
        raise TypeError(f"overlap_chunks must be an int, got {overlap_chunks!r}")
    if overlap_chunks < 0:
        raise ValueError(f"overlap_chunks must be at least 0, got {overlap_chunks}")
    rows = materialise_documents(documents)
    tokens = chunk_tokens(list(chain.from_iterable(rows)), counter)[1]
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    cutter = _Cutter(min(limits.tokens_per_document, limits.tokens), limits.chunks, int(overlap_chunks))
    windows: list[Window] = []
    for position, row in enumerate(rows):
        counts = tokens[offsets[position] : offsets[position + 1]]
        windows += (
            [Window(position, *cut) for cut in cutter.cuts(position, counts)] if row else [Window(position, 0, 0)]
        )
    return SplitDocuments([rows[window.document][window.chunks] for window in windows], tuple(windows), offsets)


_Cut = tuple[int, int, int, int]  # start, stop, before, after
_NO_END: Final = 2**62


@dataclass(frozen=True, slots=True)
class _Cutter:
    """Cuts one document after the other."""

    tokens: int
    chunks: int
    overlap: int

    def cuts(self, document: int, counts: NDArray[np.int64]) -> list[_Cut]:
        """Return the windows of a document of at least one chunk."""
        over = np.flatnonzero(counts > self.tokens)
        if len(over):
            chunk = int(over[0])
            reason = (
                f"has {counts[chunk]} tokens, more than the {self.tokens} of a document: no cut between chunks helps"
            )
            raise DocumentError(document, chunk, reason)
        # With its separator each chunk costs one more, and the whole one less: sums[b] - sums[a] - 1.
        sums = [0, *np.cumsum(counts + 1).tolist()]
        n = len(counts)
        if sums[n] - 1 <= self.tokens and n <= self.chunks:
            return [(0, n, 0, 0)]
        best = self._greedy(sums, self.tokens, _NO_END)
        # The smallest limit that needs no more windows makes them even.
        low, high = max(int(counts.max()), (sums[n] - 1) // len(best)), self.tokens
        while low < high:
            middle = (low + high) // 2
            found = self._greedy(sums, middle, len(best))
            if len(found) <= len(best) and found[-1][1] == n:
                best, high = found, middle
            else:
                low = middle + 1
        return [self._with_context(sums, start, stop) for start, stop, _, _ in best]

    def _with_context(self, sums: list[int], start: int, stop: int) -> _Cut:
        """Add what fits on both sides, in turn."""
        first, last, n = start, stop, len(sums) - 1
        for _ in range(self.overlap):
            if first > 0 and self._fits(sums, first - 1, last, self.tokens):
                first -= 1
            if last < n and self._fits(sums, first, last + 1, self.tokens):
                last += 1
        return start, stop, start - first, last - stop

    def _fits(self, sums: list[int], start: int, stop: int, limit: int) -> bool:
        return sums[stop] - sums[start] - 1 <= limit and stop - start <= self.chunks

    def _greedy(self, sums: list[int], limit: int, most: int) -> list[_Cut]:
        """Cut from the front, each window as long as its limits allow; stop after ``most`` windows."""
        n = len(sums) - 1

        def fits(start: int, stop: int) -> bool:
            return self._fits(sums, start, stop, limit)

        found: list[_Cut] = []
        start = 0
        while start < n and len(found) < most:
            first, stop = start, start + 1
            while first > max(0, start - self.overlap) and fits(first - 1, stop):
                first -= 1
            last = stop
            while last < min(n, stop + self.overlap) and fits(first, last + 1):
                last += 1
            # The context after moves with the window's end, so that growing costs one more chunk at the far end.
            while stop < n and (last == n or (last - stop == self.overlap and fits(first, last + 1))):
                stop += 1
                last = min(n, stop + self.overlap)
            found.append((start, stop, start - first, last - stop))
            start = stop
        return found
