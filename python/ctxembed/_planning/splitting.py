"""Splits documents that are too long into windows, and joins the vectors of the windows. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np

from ctxembed._errors import DocumentError
from ctxembed._models import DEFAULT_MODEL, get_model
from ctxembed._planning.limits import Limits, check_limits
from ctxembed._planning.prepare import chunk_tokens, materialise_documents
from ctxembed._results import Embeddings, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import ArrayLike, NDArray

    from ctxembed._planning.prepare import CountsTokens

__all__ = ["Cutter", "SplitDocuments", "Window", "split_long"]


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive chunks of a document that are embedded as a document of their own.

    Attributes
    ----------
    document : int
        Position of the original document.
    start, stop : int
        The chunks ``start:stop`` of the original document; their vectors are kept.
    before, after : int
        Numbers of context chunks that are embedded before and after them; their vectors are dropped.
    """

    document: int
    start: int
    stop: int
    before: int = 0
    after: int = 0

    @property
    def chunks(self) -> slice:
        """The chunks to embed, context included, as a slice of the original document."""
        return slice(self.start - self.before, self.stop + self.after)

    @property
    def rows(self) -> slice:
        """The rows to keep, as a slice of the window's rows."""
        return slice(self.before, self.before + self.stop - self.start)


@dataclass(frozen=True, eq=False, repr=False)
class SplitDocuments:
    """Documents that fit the limits, and how they map to the originals.

    Attributes
    ----------
    documents : list of list of str
        The documents to embed: one for each window, in the order of the originals. A document that fits is one window.
    windows : tuple of Window
        The origin of each of ``documents``.
    offsets : ndarray of int64, shape (n_originals + 1,)
        Original document ``i`` has ``offsets[i + 1] - offsets[i]`` chunks. Read-only.
    """

    documents: list[list[str]]
    windows: tuple[Window, ...]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        self.offsets.flags.writeable = False

    @property
    def split(self) -> NDArray[np.int64]:
        """Positions of the original documents that were cut: ascending, int64."""
        counts = np.bincount([window.document for window in self.windows], minlength=len(self))
        return np.flatnonzero(counts > 1).astype(np.int64)

    def __len__(self) -> int:
        """Return the number of original documents."""
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"SplitDocuments({len(self)} documents in {len(self.windows)} windows, {len(self.split)} cut)"

    def join(self, embeddings: Embeddings) -> Embeddings:
        """Join the vectors of the windows to those of the original documents.

        Parameters
        ----------
        embeddings : Embeddings
            The embeddings of ``documents``, in their order, failures included.

        Returns
        -------
        Embeddings
            One row for each chunk of the original documents, without context rows. If a window failed, its document
            has no rows and one failure: the error of its first failed window, with the largest number of attempts.
            ``usage`` includes the context.

        Raises
        ------
        TypeError
            ``embeddings`` is not an ``Embeddings``.
        ValueError
            The number of documents, or of a document's rows, differs from that of the windows.

        Notes
        -----
        The vectors are a copy, unless nothing was cut and nothing failed.
        """
        if not isinstance(embeddings, Embeddings):
            raise TypeError(f"embeddings must be a ctxembed.Embeddings, got {type(embeddings).__name__}")
        if len(embeddings) != len(self.windows):
            raise ValueError(f"embeddings have {len(embeddings)} documents, expected one a window: {len(self.windows)}")
        failed: dict[int, Failure] = {}
        failed_windows = {failure.document for failure in embeddings.failures}
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
            expected = 0 if position in failed_windows else window.chunks.stop - window.chunks.start
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
    model: str = DEFAULT_MODEL,
) -> SplitDocuments:
    """Split documents that exceed the limits of a document into windows that fit, at chunk boundaries.

    **This changes vectors.** A chunk is embedded in the context of its window, not of its whole document.
    ``overlap_chunks`` adds context at the cuts, which is billed. Documents that fit stay whole, and so do their
    vectors.

    Parameters
    ----------
    documents : iterable of iterables of str
        The chunks of each document in their order.
    counter : TokenCounter or callable, optional
        Counts tokens exactly: a :class:`TokenCounter`, or a callable from a list of str to counts. Default: the
        estimate that :func:`plan` uses, margin included.
    overlap_chunks : int
        Maximum number of chunks to add as context on each side of a window; fewer are added where they do not fit.
        ``join`` drops their vectors.
    limits : Limits
        A window stays within ``tokens_per_document``, ``tokens`` and ``chunks``, context and separators included.
    model : str
        The model that will embed the windows. The estimate depends on its vocabulary.

    Returns
    -------
    SplitDocuments
        Its ``documents`` are to be embedded; ``join(embeddings)`` returns the vectors of the originals.

    Raises
    ------
    DocumentError
        A chunk is too long by itself. The error names it.
    TypeError
        ``documents`` is not an iterable of iterables of str, or another argument has a wrong type.
    ValueError
        There are no documents, ``overlap_chunks`` is negative, or the counter returned an invalid result.

    Notes
    -----
    A document is cut into as few windows as greedy cutting needs, of sizes as even as possible, so that no short rest
    loses its context. Documents with other problems (no chunks, an empty chunk) are passed through; :func:`plan` and
    the client report them.

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
    known = get_model(model)
    rows = materialise_documents(documents)
    tokens = chunk_tokens(list(chain.from_iterable(rows)), counter, known)[1]
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    cutter = Cutter(min(limits.tokens_per_document, limits.tokens), limits.chunks, int(overlap_chunks))
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
class Cutter:
    """Cuts documents into windows."""

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
        # A separator between two chunks costs a token: chunks a to b cost sums[b] - sums[a] - 1.
        sums = [0, *np.cumsum(counts + 1).tolist()]
        n = len(counts)
        if sums[n] - 1 <= self.tokens and n <= self.chunks:
            return [(0, n, 0, 0)]
        best = self._greedy(sums, self.tokens, _NO_END)
        # The smallest limit that needs no more windows makes them most even.
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
        """Add context on both sides in turn, as long as it fits."""
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
            # The context after the window moves with its end, so growing adds one chunk behind that context.
            while stop < n and (last == n or (last - stop == self.overlap and fits(first, last + 1))):
                stop += 1
                last = min(n, stop + self.overlap)
            found.append((start, stop, start - first, last - stop))
            start = stop
        return found
