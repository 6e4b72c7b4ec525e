"""What is known before anything is paid for: packing, token counts, problems and price. No I/O happens here."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from ctxembed import _core
from ctxembed._calibration import CLASSES, classes_of
from ctxembed._models import DEFAULT_MODEL, SEPARATOR, EncodingFormat, Limits, check_dimensions, get_model
from ctxembed._packing import Packing, as_counts, check_limits, pack, pack_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from decimal import Decimal

    from numpy.typing import ArrayLike, NDArray

    from ctxembed._calibration import TokenCalibration

__all__ = [
    "CountsTokens",
    "Packing",
    "Plan",
    "Prepared",
    "Problem",
    "chunk_tokens",
    "materialise_documents",
    "pack",
    "plan",
    "prepare",
    "prepare_one",
    "prepare_texts",
    "token_upper_bound",
]


class CountsTokens(Protocol):
    """What has the method ``count_batch``: list of str to (n,) ints."""

    def count_batch(self, texts: list[str], /) -> ArrayLike:
        """Count the tokens of each text."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that the API would refuse, or that would spoil its answer.

    Attributes
    ----------
    document : int
        Position in the input.
    chunk : int or None
        Position in the document, or None where the document as a whole is meant.
    reason : str
        What is wrong and what was expected.
    """

    document: int
    chunk: int | None
    reason: str

    def __str__(self) -> str:
        place = f"document {self.document}" if self.chunk is None else f"document {self.document}, chunk {self.chunk}"
        return f"{place}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Prepared:
    """Documents that were validated, counted and packed, for whoever sends them.

    Attributes
    ----------
    documents : list of list of str
        All documents, materialised. Those with problems are kept, so that positions stay.
    problems : tuple of Problem
        Every problem, by document and chunk; ``Problem.document`` counts from ``first_document``.
    sendable : ndarray of bool, shape (n,)
        Whether a document has no problem.
    tokens, tokens_upper : ndarray of int64, shape (n,)
        Tokens of each document, separators included: best knowledge (exact with a counter, else the estimate with
        its margin), and what it cannot exceed.
    chunk_counts : ndarray of int64, shape (n,)
        Chunks of each document.
    offsets : ndarray of int64, shape (n + 1,)
        The chunks of document i are ``offsets[i]:offsets[i + 1]`` of all chunks.
    requests : list of ndarray of int64
        Positions in ``documents`` that share a request. Every sendable document is in exactly one.
    lower_bound : int
        For these counts no packing needs fewer requests.
    exact : bool
        Whether a counter counted.
    first_document : int
        The position of the first document in the whole input.
    estimates : ndarray of int64, shape (n, classes)
        Without a counter, the estimate of each document's text by class, before any factor: what a calibration
        learns from. No columns with one.
    """

    documents: list[list[str]]
    problems: tuple[Problem, ...]
    sendable: NDArray[np.bool_]
    tokens: NDArray[np.int64]
    tokens_upper: NDArray[np.int64]
    chunk_counts: NDArray[np.int64]
    offsets: NDArray[np.int64]
    requests: list[NDArray[np.int64]]
    lower_bound: int
    exact: bool
    first_document: int
    estimates: NDArray[np.int64]

    def estimate_of(self, positions: NDArray[np.int64]) -> tuple[int, ...]:
        """Estimate of some documents' text, by class; empty where a counter counted."""
        return tuple(self.estimates[positions].sum(axis=0).tolist())


def prepare(
    documents: Iterable[Iterable[str]],
    *,
    token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    first_document: int = 0,
    calibration: TokenCalibration | None = None,
) -> Prepared:
    """Validate, count and pack documents, each chunk looked at once; estimates times what ``calibration`` has learned.

    Raises
    ------
    TypeError
        Something that is not an iterable of iterables of str; a counter or its result of another type.
    ValueError
        No documents at all; a counter's result of another length, or with a negative count.
    """
    check_limits(limits)
    rows = materialise_documents(documents, first_document)
    return _prepare(rows, token_counter, limits, first_document, calibration)


def prepare_texts(
    texts: Iterable[str],
    *,
    token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    first_document: int = 0,
    calibration: TokenCalibration | None = None,
) -> Prepared:
    """Prepare independent texts, each a document of one chunk. Raises as :func:`prepare` does."""
    check_limits(limits)
    if isinstance(texts, (str, bytes, bytearray)):
        raise TypeError(f"texts must be an iterable of str, got one {type(texts).__name__}: pass [text]")
    entries = list(_iterate("texts", texts))
    if not entries:
        raise ValueError("texts is empty: expected at least one text")
    if set(map(type, entries)) != {str}:
        for position, entry in enumerate(entries):
            if not isinstance(entry, str):
                hint = ": documents of several chunks go to embed" if isinstance(entry, (list, tuple)) else ""
                raise TypeError(f"texts[{position}] must be a str, got {type(entry).__name__}{hint}")
    return _prepare([[entry] for entry in entries], token_counter, limits, first_document, calibration)


def prepare_one(documents: Iterable[Iterable[str]], limits: Limits) -> Prepared | None:
    """Prepare documents that go into one request whatever they count, without an estimate.

    Returns
    -------
    Prepared or None
        ``tokens`` is rough: a quarter of the bytes. None where there is a problem, or where only a count could tell
        that there is none: then :func:`prepare` has to look.

    Raises
    ------
    TypeError, ValueError
        As :func:`prepare` does.
    """
    check_limits(limits)
    rows = materialise_documents(documents)
    flat = list(chain.from_iterable(rows))
    upper, faults = _core.check_chunks(flat)
    chunk_counts = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(chunk_counts, out=offsets[1:])
    if faults or not chunk_counts.all() or len(flat) > limits.chunks:
        return None
    tokens_upper = np.add.reduceat(upper, offsets[:-1]) + chunk_counts - 1
    if tokens_upper.max() > min(limits.tokens_per_document, limits.tokens):
        return None
    everything = [np.arange(len(rows), dtype=np.int64)]
    return Prepared(
        documents=rows,
        problems=(),
        sendable=np.ones(len(rows), dtype=np.bool_),
        tokens=-(-tokens_upper // 4),
        tokens_upper=tokens_upper,
        chunk_counts=chunk_counts,
        offsets=offsets,
        requests=everything,
        lower_bound=1,
        exact=False,
        first_document=0,
        estimates=np.zeros((len(rows), 0), dtype=np.int64),
    )


def _iterate(name: str, values: Iterable[Any]) -> Iterable[Any]:
    """Return an iterator over an ordered iterable, or raise the error that says what was passed instead."""
    if isinstance(values, (Mapping, AbstractSet)):
        raise TypeError(f"{name} must be an ordered iterable, got {type(values).__name__}")
    try:
        return iter(values)
    except TypeError:
        raise TypeError(f"{name} must be an iterable, got {type(values).__name__}") from None


def materialise_documents(documents: Iterable[Iterable[str]], first_document: int = 0) -> list[list[str]]:
    """Return the documents as lists of str; messages count them from ``first_document``."""
    if isinstance(documents, (str, bytes, bytearray)):
        raise TypeError(f"documents must be an iterable of documents, got one {type(documents).__name__}")
    rows: list[list[str]] = []
    for position, document in enumerate(_iterate("documents", documents), first_document):
        if type(document) is list:  # the usual case, without the question whether it is a mapping or a set
            rows.append(document.copy())
            continue
        if isinstance(document, str):
            raise TypeError(
                f"document {position} is a str, but a document is a list of chunks: for documents of one chunk pass "
                "[[text] for text in texts], for questions use embed_queries, for independent texts embed_texts"
            )
        if isinstance(document, (bytes, bytearray)):
            raise TypeError(f"document {position} must be an iterable of str, got {type(document).__name__}")
        rows.append(list(_iterate(f"document {position}", document)))
    if not rows:
        raise ValueError("documents is empty: expected at least one document")
    if not set(map(type, chain.from_iterable(rows))) <= {str}:
        for position, row in enumerate(rows, first_document):
            for number, chunk in enumerate(row):
                if not isinstance(chunk, str):
                    raise TypeError(f"document {position}, chunk {number}: must be a str, got {type(chunk).__name__}")
    return rows


_FAULTS = {
    "empty": "is empty: a chunk needs at least one character",
    "separator": f"holds the separator {SEPARATOR!r} (character {{0}}), which would misalign every later chunk",
    "surrogate": "holds a lone surrogate (character {0}), which UTF-8 cannot encode",
}


def _prepare(
    rows: list[list[str]],
    token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None,
    limits: Limits,
    first_document: int,
    calibration: TokenCalibration | None = None,
) -> Prepared:
    flat = list(chain.from_iterable(rows))
    chunk_counts = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(chunk_counts, out=offsets[1:])
    lower, best, upper, faults = chunk_tokens(flat, token_counter)
    separators = np.maximum(chunk_counts - 1, 0)

    def of_documents(per_chunk: NDArray[np.int64]) -> NDArray[np.int64]:
        sums = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(per_chunk)))
        return cast("NDArray[np.int64]", sums[offsets[1:]] - sums[offsets[:-1]] + separators)

    least, tokens, tokens_upper = of_documents(lower), of_documents(best), of_documents(upper)
    exact = token_counter is not None
    suspected = tokens  # one document alone errs more than a request of many: no factor here
    estimates = np.zeros((len(rows), 0), dtype=np.int64)
    if not exact and calibration is not None:
        characters = np.fromiter(map(len, flat), dtype=np.int64, count=len(flat))
        classes = classes_of(of_documents(characters) - separators, tokens_upper - separators)
        estimates = np.zeros((len(rows), CLASSES), dtype=np.int64)
        estimates[np.arange(len(rows)), classes] = tokens - separators
        learned = np.ceil((tokens - separators) * calibration.factors[classes]).astype(np.int64)
        tokens = np.clip(learned + separators, least, tokens_upper)
    problems = [
        *_document_problems(chunk_counts, least, limits, exact=exact, first_document=first_document),
        *_chunk_problems(faults, offsets, first_document),
    ]
    # The sort is stable and None sorts first: a document's own problems come before its chunks'.
    problems.sort(key=lambda problem: (problem.document, -1 if problem.chunk is None else problem.chunk))
    sendable = np.ones(len(rows), dtype=np.bool_)
    sendable[[problem.document - first_document for problem in problems]] = False

    # Without a counter, a document that seems too large and is not proven to be goes alone, at its own risk.
    cap = min(limits.tokens_per_document, limits.tokens)
    alone = sendable & (np.maximum(suspected, tokens) > cap)
    shared = np.flatnonzero(sendable & ~alone)
    packing = pack_counts(tokens[shared] - separators[shared], chunk_counts[shared], limits, "any", 0.05)
    requests = [shared[request] for request in packing.requests]
    if alone.any():
        requests.extend(np.flatnonzero(alone).reshape(-1, 1))
        requests.sort(key=lambda request: int(request[0]))
    return Prepared(
        documents=rows,
        problems=tuple(problems),
        sendable=sendable,
        tokens=tokens,
        tokens_upper=tokens_upper,
        chunk_counts=chunk_counts,
        offsets=offsets,
        requests=requests,
        lower_bound=packing.lower_bound + int(alone.sum()),
        exact=exact,
        first_document=first_document,
        estimates=estimates,
    )


def _document_problems(
    chunk_counts: NDArray[np.int64],
    least: NDArray[np.int64],
    limits: Limits,
    *,
    exact: bool,
    first_document: int,
) -> Iterable[Problem]:
    for i in np.flatnonzero(chunk_counts == 0).tolist():
        yield Problem(first_document + i, None, "has no chunks: a document needs at least one")
    for i in np.flatnonzero(chunk_counts > limits.chunks).tolist():
        reason = f"has {chunk_counts[i]} chunks, more than limits.chunks = {limits.chunks} allows a request"
        yield Problem(first_document + i, None, reason)
    name = "tokens_per_document" if limits.tokens_per_document <= limits.tokens else "tokens"
    limit = getattr(limits, name)
    for i in np.flatnonzero(least > limit).tolist():
        quantity = f"{least[i]}" if exact else f"at least {least[i]}"
        yield Problem(first_document + i, None, f"has {quantity} tokens, more than limits.{name} = {limit}")


def _chunk_problems(
    faults: list[tuple[int, str, int]], offsets: NDArray[np.int64], first_document: int
) -> Iterable[Problem]:
    places = np.array([position for position, _, _ in faults], dtype=np.int64)
    rows = np.searchsorted(offsets, places, side="right") - 1
    for (position, kind, character), row in zip(faults, rows.tolist(), strict=True):
        yield Problem(first_document + row, position - int(offsets[row]), _FAULTS[kind].format(character))


def chunk_tokens(
    chunks: list[str], token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], list[tuple[int, str, int]]]:
    """Tokens of each chunk: at least, best knowledge, at most (all the count, with a counter); and the faults."""
    lower, best, upper, faults = _core.inspect_chunks(chunks)
    if token_counter is not None:
        best = upper = lower = _count(token_counter, chunks, faults)
    return lower, best, upper, faults


def _count(
    counter: CountsTokens | Callable[[list[str]], ArrayLike], chunks: list[str], faults: list[tuple[int, str, int]]
) -> NDArray[np.int64]:
    """Count with the caller's counter, in one call over all chunks that can be counted."""
    bad = {position for position, _, _ in faults}
    usable = [i for i in range(len(chunks)) if i not in bad] if bad else None
    texts = chunks if usable is None else [chunks[i] for i in usable]
    method = getattr(counter, "count_batch", None)
    call = method if callable(method) else counter
    if not callable(call):
        raise TypeError(
            "token_counter must have the method count_batch, or be callable, list of str to counts; "
            f"got {type(counter).__name__}"
        )
    # A copy, so that a counter that changes its argument changes nothing here.
    counts = as_counts("token_counter(chunks)", call(list(texts))) if texts else np.zeros(0, dtype=np.int64)
    if len(counts) != len(texts):
        raise ValueError(f"token_counter returned {len(counts)} counts for {len(texts)} chunks")
    if counts.size and counts.min() < 0:
        position = int(counts.argmin())
        raise ValueError(f"token_counter returned {counts[position]} for chunk {position} of {len(texts)}")
    result = np.zeros(len(chunks), dtype=np.int64)
    # No text that has characters has no tokens, whatever a rough counter says.
    result[slice(None) if usable is None else usable] = np.maximum(counts, 1)
    return result


@dataclass(frozen=True, repr=False)
class Plan:
    """What embedding documents would take.

    Attributes
    ----------
    documents, chunks : int
        All that were given.
    requests : int
        Requests that would be made. Documents with problems are in none.
    tokens, tokens_upper : int
        Tokens that would be sent, separators included: best knowledge (exact with a counter, else an estimate with
        its safety margin), and what they cannot exceed. Equal where exact.
    exact_tokens : bool
        Whether a counter counted.
    lower_bound : int
        For these counts no packing needs fewer requests.
    optimal : bool
        Whether ``requests`` is proven to be the fewest, for these counts.
    cost_usd, cost_usd_upper : Decimal or None
        List price of ``tokens`` and ``tokens_upper``; None where the model's price is not known.
    problems : tuple of Problem
        Everything that the API would refuse.
    model, dimensions, encoding_format : str, int, str
        What would be asked for.
    fill : tuple of int
        Requests by how full they are in tokens: up to a tenth, up to two tenths, and so on to all (ten counts).
    requests_per_minute, minutes : float or None
        The rate that was given, and how long the requests take at it; None where none was given.
    """

    documents: int
    chunks: int
    requests: int
    tokens: int
    tokens_upper: int
    exact_tokens: bool
    lower_bound: int
    optimal: bool
    cost_usd: Decimal | None
    cost_usd_upper: Decimal | None
    problems: tuple[Problem, ...]
    model: str
    dimensions: int
    encoding_format: str
    fill: tuple[int, ...]
    requests_per_minute: float | None = None
    minutes: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types; prices as strings, so that they stay exact."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("cost_usd", "cost_usd_upper"):
            fields[name] = None if fields[name] is None else format(fields[name], "f")
        fields["problems"] = [
            {"document": problem.document, "chunk": problem.chunk, "reason": problem.reason}
            for problem in self.problems
        ]
        fields["fill"] = list(self.fill)
        return fields

    def __str__(self) -> str:
        bound = "proven fewest" if self.optimal else f"at least {self.lower_bound:,} are needed"
        lines = [
            f"{_plural(self.documents, 'document')}, {_plural(self.chunks, 'chunk')}",
            f"{_plural(self.requests, 'request')} ({bound})",
        ]
        if self.exact_tokens:
            lines.append(f"{_plural(self.tokens, 'token')} (counted)")
        else:
            lines.append(f"{_plural(self.tokens, 'token')} (estimated with a margin; at most {self.tokens_upper:,})")
        if self.cost_usd is None or self.cost_usd_upper is None:
            lines.append(f"price of {self.model} not known")
        elif self.exact_tokens:
            lines.append(f"USD {_usd(self.cost_usd)} for {self.model}, {self.dimensions} dimensions")
        else:
            prices = f"USD {_usd(self.cost_usd)} to {_usd(self.cost_usd_upper)}"
            lines.append(f"{prices} for {self.model}, {self.dimensions} dimensions")
        if self.minutes is not None:
            lines.append(f"{_duration(self.minutes)} at {self.requests_per_minute:g} requests a minute")
        lines.extend(self._histogram())
        if self.problems:
            lines.append(f"problems ({len(self.problems):,}):")
            lines.extend(f"  {problem}" for problem in self.problems[:_SHOWN])
            if len(self.problems) > _SHOWN:
                lines.append(f"  ... and {len(self.problems) - _SHOWN:,} more")
        return "\n".join(lines)

    __repr__ = __str__

    def _histogram(self) -> Iterable[str]:
        most = max(self.fill)
        for tenth, count in enumerate(self.fill):
            if count:
                bar = "#" * max(1, round(24 * count / most))
                yield f"  {10 * tenth:3}-{10 * tenth + 10:<3}% full {bar} {count:,}"


_SHOWN = 20  # problems that a plan's text shows; all of them are in the attribute


def _duration(minutes: float) -> str:
    """Return minutes as people say them."""
    return f"{60 * minutes:.0f} seconds" if minutes < 1 else f"{minutes:,.1f} minutes"


def _plural(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _usd(price: Decimal) -> str:
    """Return a price with as many digits as tell something."""
    digits = max(2, 1 - price.adjusted()) if price else 2
    return f"{price:,.{digits}f}"


def plan(
    documents: Iterable[Iterable[str]],
    *,
    model: str = DEFAULT_MODEL,
    dimensions: int | None = None,
    encoding_format: EncodingFormat = "base64_int8",
    token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    requests_per_minute: float | None = None,
) -> Plan:
    """Say what embedding documents would take, without making a request.

    Parameters
    ----------
    documents : iterable of iterables of str
        Documents as lists of chunks, of any length.
    model : str
        A contextualized model's name.
    dimensions : int, optional
        Dimensions to ask for; the model's own where absent.
    encoding_format : {"base64_int8", "base64_binary"}
        How vectors would travel.
    token_counter : TokenCounter or callable, optional
        Counts exactly: what has ``count_batch``, or a callable, list of str to counts. It is called once, over all
        chunks. Where absent, an estimate with a safety margin: about 1.1 times the exact count for English, Chinese
        and Korean.
    limits : Limits
        What a request and a document may hold.
    requests_per_minute : float, optional
        A rate that you keep; the plan then says how many minutes its requests take at it.

    Returns
    -------
    Plan
        Its ``problems`` hold everything that the API would refuse, not the first only.

    Raises
    ------
    TypeError
        Something that is not an iterable of iterables of str (a flat list of str included), or an argument of
        another type.
    ValueError
        No documents at all; a model that is not known or not contextualized; dimensions or an encoding that the API
        would refuse; a counter's result that cannot be; a rate that is not above 0.

    Notes
    -----
    An iterator is used up. The documents are held while the plan is made, and the interpreter is released for the
    counting and the packing. A document that is estimated to be too large but is not proven to be is planned for a
    request of its own. One that is proven to be is a problem: :func:`split_long` cuts such documents.

    Examples
    --------
    >>> import ctxembed
    >>> p = ctxembed.plan([["One chunk.", "Another chunk."], ["A document of one chunk."], []])
    >>> p.requests, p.documents, p.chunks
    (1, 3, 3)
    >>> print(p.problems[0])
    document 2: has no chunks: a document needs at least one
    """
    rate = _check_rate(requests_per_minute)
    entry = get_model(model, contextualized=True)
    dimensions = check_dimensions(entry, dimensions, encoding_format)
    prepared = prepare(documents, token_counter=token_counter, limits=limits)
    tokens = int(prepared.tokens[prepared.sendable].sum())
    tokens_upper = int(prepared.tokens_upper[prepared.sendable].sum())
    loads = np.array([prepared.tokens[request].sum() for request in prepared.requests], dtype=np.int64)
    tenths = np.clip((10 * loads - 1) // limits.tokens, 0, 9)
    return Plan(
        documents=len(prepared.documents),
        chunks=int(prepared.offsets[-1]),
        requests=len(prepared.requests),
        tokens=tokens,
        tokens_upper=tokens_upper,
        exact_tokens=prepared.exact,
        lower_bound=prepared.lower_bound,
        optimal=prepared.lower_bound == len(prepared.requests),
        cost_usd=entry.cost(tokens),
        cost_usd_upper=entry.cost(tokens_upper),
        problems=prepared.problems,
        model=entry.name,
        dimensions=dimensions,
        encoding_format=encoding_format,
        fill=tuple(np.bincount(tenths, minlength=10).tolist()),
        requests_per_minute=rate,
        minutes=None if rate is None else len(prepared.requests) / rate,
    )


def _check_rate(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"requests_per_minute must be a number or None, got {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"requests_per_minute must be finite and above 0, got {value!r}")
    return float(value)


def token_upper_bound(texts: Iterable[str]) -> NDArray[np.int64]:
    """Count at most how many tokens each text has: the UTF-8 bytes of its NFC form.

    The models' tokenizer, a byte-level BPE, works on the NFC form, and none of its tokens is shorter than a byte, so
    this is never too small. English has between four and five bytes a token, Chinese about four.

    Parameters
    ----------
    texts : iterable of str
        The texts, of any length.

    Returns
    -------
    ndarray of int64, shape (n,)
        Bytes of each text's NFC form.

    Raises
    ------
    TypeError
        ``texts`` is not an iterable of str; one str alone is an error too.
    ValueError
        A text holds a lone surrogate, which UTF-8 cannot encode.

    Notes
    -----
    The interpreter is released while counting.

    Examples
    --------
    >>> import ctxembed
    >>> ctxembed.token_upper_bound(["hello", "\u00e9", "e\u0301"])
    array([5, 2, 2])
    """
    if not isinstance(texts, (str, bytes, list)):
        texts = list(_iterate("texts", texts))
    return _core.token_upper_bound(cast("list[str]", texts))
