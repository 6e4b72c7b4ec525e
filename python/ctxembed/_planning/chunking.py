"""Cuts a text into chunks at its structure. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

import numpy as np

from ctxembed import _core
from ctxembed._extras import require
from ctxembed._planning.packing import as_counts
from ctxembed._planning.token_counter import TokenCounter

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from ctxembed._planning.prepare import CountsTokens

__all__ = ["Chunks", "chunk", "chunk_spans"]

_Kind = Literal["text", "markdown"]

_WINDOW: Final = 64
"""Characters of a window for each token of a chunk. The splitter's time grows faster than the text it is given."""

_LEAST_WINDOW: Final = {"text": 1 << 13, "markdown": 1 << 17}
"""A cut between windows can part a code block or a table of Markdown, so nearly every file fits one."""


@dataclass(frozen=True, eq=False, repr=False)
class Chunks:
    """The chunks of a text, and where they stand in it.

    Attributes
    ----------
    texts : list of str
        The chunks, in the order of the text. None is empty or only whitespace.
    spans : ndarray of int64, shape (n, 2)
        Start and end of each chunk, in characters: ``text[start:end]`` is the chunk. Read-only.
    """

    texts: list[str]
    spans: NDArray[np.int64]

    def __post_init__(self) -> None:
        self.spans.flags.writeable = False

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Chunks({len(self)} chunks)"


def chunk(
    text: str,
    *,
    max_tokens: int = 256,
    overlap: int = 0,
    token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None = None,
    kind: Literal["text", "markdown"] = "text",
) -> Chunks:
    r"""Cut a text into chunks of at most ``max_tokens`` tokens, at the largest boundaries that allow it.

    Needs ``semantic-text-splitter`` (``pip install 'ctxembed[chunk]'``).

    Parameters
    ----------
    text : str
        The text. Line ends may be of any kind.
    max_tokens : int
        Maximum tokens of a chunk. Only a single character can exceed it.
    overlap : int
        Maximum tokens that a chunk repeats from the end of the one before it. Less than ``max_tokens``.
    token_counter : TokenCounter or callable, optional
        Counts tokens exactly: a :class:`TokenCounter`, or a callable from a list of str to counts. Default: the
        estimate that :func:`plan` uses, made for the vocabulary of the v1 models. It errs on the safe side: over a
        text an exact count is 0.91 to 0.93 of it. A chunk of code or tables can have a fifth more than estimated.
    kind : {"text", "markdown"}
        Boundaries of ``"text"`` are, from the largest: runs of line ends, the longest first, then sentences, words,
        grapheme clusters and characters. ``"markdown"`` prefers headings, then blocks (paragraphs, lists, tables,
        code), then inline elements.

    Returns
    -------
    Chunks
        The chunks without the whitespace around them, and their spans. There are none for a text of whitespace.

    Raises
    ------
    ImportError
        The package is not installed.
    TypeError
        An argument has a wrong type, or the counter returned something other than integers.
    ValueError
        ``text`` holds a lone surrogate, which UTF-8 cannot encode; ``max_tokens`` is less than 1; ``overlap`` is
        negative or not less than ``max_tokens``; ``kind`` is neither of the two; or the counter returned an invalid
        result.

    Notes
    -----
    ``semantic-text-splitter`` finds the boundaries. It is given a long text in windows, each beginning at the last
    chunk of the one before, so the time grows with the length of the text, whatever the text holds. A window has at
    least 8,192 characters of a text and 131,072 of Markdown, and 64 for each of ``max_tokens``.

    The counter is called with one text at a time, four to ten times for each chunk; an exception that it raises is
    passed on. The GIL is held. Thread-safe where the counter is.

    Examples
    --------
    >>> import ctxembed
    >>> text = "Kingfishers dive for fish.\n\nHerons wait. They stand in shallow water."
    >>> words = lambda texts: [len(text.split()) for text in texts]
    >>> chunks = ctxembed.chunk(text, max_tokens=6, token_counter=words)
    >>> chunks.texts
    ['Kingfishers dive for fish.', 'Herons wait.', 'They stand in shallow water.']
    >>> chunks.spans
    array([[ 0, 26],
           [28, 40],
           [41, 69]])
    >>> start, end = chunks.spans[1]
    >>> text[start:end]
    'Herons wait.'
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}")
    spans = chunk_spans(text, check_chunking(max_tokens, overlap, token_counter), kind)
    return Chunks([text[start:end] for start, end in spans], np.array(spans, dtype=np.int64).reshape(-1, 2))


@dataclass(frozen=True, slots=True)
class Chunking:
    """Checked options of :func:`chunk`."""

    max_tokens: int
    overlap: int
    count: Callable[[str], int]


def check_chunking(max_tokens: Any, overlap: Any, token_counter: Any) -> Chunking:
    """Check the options of :func:`chunk`.

    Raises
    ------
    TypeError, ValueError
        As :func:`chunk` raises them.
    """
    for name, value, least in (("max_tokens", max_tokens, 1), ("overlap", overlap, 0)):
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} must be an int, got {value!r}")
        if not least <= value < 2**31:
            raise ValueError(f"{name} must be at least {least} and less than 2**31, got {value}")
    if overlap >= max_tokens:
        raise ValueError(f"overlap must be less than max_tokens = {max_tokens}, got {overlap}")
    return Chunking(int(max_tokens), int(overlap), _count_of(token_counter))


def chunk_spans(text: str, options: Chunking, kind: str) -> list[tuple[int, int]]:
    """Return the spans of the chunks of a text. It raises what :func:`chunk` does."""
    if kind not in get_args(_Kind):
        raise ValueError(f"kind must be 'text' or 'markdown', got {kind!r}")
    library = require("semantic_text_splitter", "chunk", "ctxembed.chunk")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):04X}"
        message = f"text has a lone surrogate, {surrogate}, at character {error.start}: UTF-8 cannot encode it"
        raise ValueError(message) from None
    failed: list[BaseException] = []

    def count(piece: str) -> int:
        # Versions of the library panic on an exception. A count of 0 ends their work soon.
        if failed:
            return 0
        try:
            return options.count(piece)
        except BaseException as error:  # noqa: BLE001  # raised below
            failed.append(error)
            return 0

    split_text = library.TextSplitter.from_callback(count, options.max_tokens, options.overlap).chunk_indices
    split_markdown = library.MarkdownSplitter.from_callback(count, options.max_tokens, options.overlap).chunk_indices

    def split(window: str) -> list[tuple[int, str]]:
        if kind == "markdown":
            try:
                return cast("list[tuple[int, str]]", split_markdown(window))
            except BaseException as error:
                # Versions up to 0.33 panic where an overlap ends in an indentation with wide spaces.
                if type(error).__name__ != "PanicException":
                    raise
        return cast("list[tuple[int, str]]", split_text(window))

    spans: list[tuple[int, int]] = []
    least = max(_LEAST_WINDOW[kind], _WINDOW * options.max_tokens)
    start, size = 0, least
    while start < len(text):
        pieces = split(text[start : start + size])
        if failed:
            raise failed[0]
        found = [(start + at, start + at + len(piece)) for at, piece in pieces if piece and not piece.isspace()]
        if start + size >= len(text):
            _extend(spans, found)
            break
        if found and found[-1][0] > start:
            # The end of the window, not of the text, may have ended the last chunk: the next window begins with it.
            start, size = found.pop()[0], least
            _extend(spans, found)
        elif found:
            size *= 2
        else:
            start, size = start + size, least
    return spans


def _extend(spans: list[tuple[int, int]], found: list[tuple[int, int]]) -> None:
    """Add spans, without those inside another: the library cuts off whitespace after it has chosen an overlap."""
    for start, end in found:
        while spans and spans[-1][0] >= start:
            spans.pop()
        if not spans or spans[-1][1] < end:
            spans.append((start, end))


def _count_of(counter: Any) -> Callable[[str], int]:
    """Return a function that counts the tokens of one text."""
    if counter is None:
        return _estimate
    if isinstance(counter, TokenCounter):
        return counter.count
    method = getattr(counter, "count_batch", None)
    call = method if callable(method) else counter
    if not callable(call):
        raise TypeError(
            "token_counter must have the method count_batch, or be callable with a list of str, "
            f"got {type(counter).__name__}"
        )

    def count(text: str) -> int:
        counts = as_counts("token_counter(texts)", call([text]))
        if len(counts) != 1:
            raise ValueError(f"token_counter returned {len(counts)} counts for 1 text")
        if counts[0] < 0:
            raise ValueError(f"token_counter returned {counts[0]} for {text[:40]!r}")
        return max(int(counts[0]), 1)

    return count


def _estimate(text: str) -> int:
    return int(_core.token_estimate([text])[1][0])
