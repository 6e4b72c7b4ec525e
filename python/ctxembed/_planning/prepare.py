"""Prepares documents for sending: validates, counts and packs them, and lists what the API would refuse."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ctxembed import _core
from ctxembed._models import DEFAULT_MODEL, SEPARATOR, get_model
from ctxembed._planning.calibration import CLASSES, class_of, classes_of
from ctxembed._planning.limits import Limits, check_limits
from ctxembed._planning.packing import as_counts, pack_counts
from ctxembed._results import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike, NDArray

    from ctxembed._models import Model
    from ctxembed._planning.calibration import TokenCalibration

__all__ = [
    "CountsTokens",
    "PreparedDocuments",
    "PreparedRequest",
    "as_lists",
    "chunk_problems",
    "chunk_tokens",
    "documents_of",
    "has_known_vocabulary",
    "has_more_characters",
    "iterate",
    "materialise_documents",
    "pack_documents",
    "prepare",
    "prepare_one",
    "prepare_texts",
]


class CountsTokens(Protocol):
    """A token counter: its method ``count_batch`` takes a list of str and returns (n,) ints."""

    def count_batch(self, texts: list[str], /) -> ArrayLike:
        """Count the tokens of each text."""


@dataclass(frozen=True, eq=False)
class PreparedDocuments:
    """Documents that were validated, counted and packed.

    Attributes
    ----------
    documents : list of list of str
        All documents, as lists. Those with problems are kept, so that positions do not change.
    problems : tuple of Problem
        All problems, by document and chunk; ``Problem.document`` counts from ``first_document``.
    sendable : ndarray of bool, shape (n,)
        Whether a document has no problem.
    tokens, tokens_upper : ndarray of int64, shape (n,)
        Tokens of each document, separators included, and their upper bound. ``tokens`` is exact with a token counter,
        else an estimate with a margin.
    chunk_counts : ndarray of int64, shape (n,)
        Chunks of each document.
    offsets : ndarray of int64, shape (n + 1,)
        The chunks of document i are ``offsets[i]:offsets[i + 1]`` of all chunks.
    alone : ndarray of bool, shape (n,)
        Whether a document gets a request of its own, because its estimate exceeds a limit and its minimum does not.
    requests : list of ndarray of int64
        Positions in ``documents`` that share a request. Every sendable document is in exactly one. Empty where the
        documents are not packed.
    lower_bound : int
        Proven minimum of requests for these token counts. 0 where the documents are not packed.
    exact : bool
        Whether a token counter was used.
    first_document : int
        The position of the first document in the whole input.
    estimates : ndarray of int64, shape (n, classes)
        Estimated tokens of each document's text by class, before any factor, for the calibration. It has no columns
        with a token counter or without a calibration.
    """

    documents: list[list[str]]
    problems: tuple[Problem, ...]
    sendable: NDArray[np.bool_]
    tokens: NDArray[np.int64]
    tokens_upper: NDArray[np.int64]
    chunk_counts: NDArray[np.int64]
    offsets: NDArray[np.int64]
    alone: NDArray[np.bool_]
    requests: list[NDArray[np.int64]]
    lower_bound: int
    exact: bool
    first_document: int
    estimates: NDArray[np.int64]

    def estimate_of(self, positions: NDArray[np.int64]) -> tuple[int, ...]:
        """Return the estimate of some documents' text, by class; empty where ``estimates`` is."""
        return tuple(self.estimates[positions].sum(axis=0).tolist())


@dataclass(slots=True, eq=False)
class PreparedRequest:
    """The documents of one request, validated, with its body.

    Attributes
    ----------
    documents : list of list of str
        The documents that were passed.
    body : bytes
        The request body.
    chunk_counts, tokens_upper : list of int
        As in :class:`PreparedDocuments`.
    """

    documents: list[list[str]]
    body: bytes
    chunk_counts: list[int]
    tokens_upper: list[int]

    @property
    def tokens(self) -> int:
        """Rough estimate: a quarter of the bytes."""
        return sum(self.tokens_upper) // 4 + 1


def prepare(
    documents: Iterable[Iterable[str]],
    *,
    token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    first_document: int = 0,
    calibration: TokenCalibration | None = None,
    model: Model | None = None,
    allow_empty: bool = False,
    pack: bool = True,
    checked: bool = False,
) -> PreparedDocuments:
    """Validate, count and (with ``pack``) pack documents. Estimates are multiplied by the factors of ``calibration``.

    The separator and the vocabulary are those of ``model``, by default of the default model. With ``checked`` the
    documents are known to be lists of str that nobody changes, and are not copied.

    Raises
    ------
    TypeError
        ``documents`` is not an iterable of iterables of str, or the counter or its result has a wrong type.
    ValueError
        There are no documents and ``allow_empty`` is False, or the counter's result has another length or a negative
        count.
    """
    check_limits(limits)
    rows = documents if checked and isinstance(documents, list) else materialise_documents(documents, first_document)
    if not rows and not allow_empty:
        raise ValueError("documents is empty: expected at least one document")
    found = _prepare(rows, token_counter, limits, first_document, calibration=calibration, model=model)
    return pack_documents(found, limits) if pack else found


def prepare_texts(
    texts: Iterable[str],
    *,
    token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    first_document: int = 0,
    calibration: TokenCalibration | None = None,
    model: Model | None = None,
    allow_empty: bool = False,
) -> PreparedDocuments:
    """Prepare independent texts, each a document of one chunk. Raises as :func:`prepare` does."""
    check_limits(limits)
    if isinstance(texts, (str, bytes, bytearray)):
        raise TypeError(f"texts must be an iterable of str, got one {type(texts).__name__}: pass [text]")
    entries = list(iterate("texts", texts))
    if not entries and not allow_empty:
        raise ValueError("texts is empty: expected at least one text")
    if not set(map(type, entries)) <= {str}:
        for position, entry in enumerate(entries):
            if not isinstance(entry, str):
                hint = ": documents of several chunks go to embed" if isinstance(entry, (list, tuple)) else ""
                raise TypeError(f"texts[{position}] must be a str, got {type(entry).__name__}{hint}")
    found = _prepare(
        [[entry] for entry in entries], token_counter, limits, first_document, calibration=calibration, model=model
    )
    return pack_documents(found, limits)


def pack_documents(
    prepared: PreparedDocuments, limits: Limits, wanted: NDArray[np.bool_] | None = None
) -> PreparedDocuments:
    """Pack the sendable documents, or those of them that are ``wanted``, a bool for each document."""
    sendable = prepared.sendable if wanted is None else prepared.sendable & wanted
    if len(sendable) == 1 and sendable[0]:  # a query
        return replace(prepared, requests=[np.zeros(1, np.int64)], lower_bound=1)
    tokens, chunk_counts = prepared.tokens, prepared.chunk_counts
    shared, alone = np.flatnonzero(sendable & ~prepared.alone), np.flatnonzero(sendable & prepared.alone)
    texts = tokens[shared] - np.maximum(chunk_counts[shared] - 1, 0)
    packing = pack_counts(texts, chunk_counts[shared], limits, "any", 0.05)
    requests = [shared[request] for request in packing.requests]
    if len(alone):
        requests.extend(alone.reshape(-1, 1))
        requests.sort(key=lambda request: int(request[0]))
    return replace(prepared, requests=requests, lower_bound=packing.lower_bound + len(alone))


def prepare_one(
    documents: Any, limits: Limits, rest: bytes, separator: str | None = SEPARATOR
) -> PreparedRequest | None:
    """Prepare the documents of one request, without estimating their tokens.

    Parameters
    ----------
    documents : list of list of str
        The documents.
    limits : Limits
        Only its chunks and its tokens a document are checked.
    rest : bytes
        The part of the body after the documents.
    separator : str or None
        The model's.

    Returns
    -------
    PreparedRequest or None
        None where there is a problem, or where there may be one: call :func:`prepare` then.
    """
    check_limits(limits)
    found = _core.prepare_request(documents, rest, separator) if isinstance(documents, list) else None
    if found is None:
        return None
    body, chunk_counts, tokens_upper = found
    if not chunk_counts or sum(chunk_counts) > limits.chunks:
        return None
    if max(tokens_upper) > min(limits.tokens_per_document, limits.tokens):
        return None
    return PreparedRequest(documents, body, chunk_counts, tokens_upper)


def iterate(name: str, values: Iterable[Any], of: str = "str") -> Iterator[Any]:
    """Return an iterator over an ordered iterable, or raise a ``TypeError`` that names the type."""
    if isinstance(values, (Mapping, AbstractSet)):
        raise TypeError(f"{name} must be an ordered iterable of {of}, got {type(values).__name__}")
    try:
        return iter(values)
    except TypeError:
        raise TypeError(f"{name} must be an iterable of {of}, got {type(values).__name__}") from None


def documents_of(name: str, documents: Iterable[Any]) -> Iterator[Any]:
    """Return an iterator over documents, or raise a ``TypeError`` that names the type."""
    if isinstance(documents, (str, bytes, bytearray)):
        raise TypeError(f"{name} must be an iterable of documents, got one {type(documents).__name__}")
    return iterate(name, documents, "documents")


def as_lists(documents: Iterable[Iterable[str]]) -> Any:
    """Read the chunks of all documents into lists; return anything else unchanged, for the checks to refuse."""
    if type(documents) is not list and (
        isinstance(documents, str | bytes | bytearray | Mapping | AbstractSet) or not isinstance(documents, Iterable)
    ):
        return documents
    return [
        row if type(row) is list or isinstance(row, str) or not isinstance(row, Iterable) else list(row)
        for row in documents
    ]


def has_more_characters(documents: Any, limit: int) -> bool:
    """Return whether the documents have more than ``limit`` characters in all."""
    total = 0
    try:
        for document in documents:
            total += sum(map(len, document))
            if total > limit:
                return True
    except TypeError:  # not documents: the checks refuse them
        pass
    return False


def materialise_documents(documents: Iterable[Iterable[str]], first_document: int = 0) -> list[list[str]]:
    """Return the documents as lists of str. Error messages count documents from ``first_document``."""
    rows: list[list[str]] = []
    for position, document in enumerate(documents_of("documents", documents), first_document):
        if type(document) is list:  # the common case, without the check for mappings and sets
            rows.append(document.copy())
            continue
        if isinstance(document, str):
            raise TypeError(
                f"document {position} is a str, but a document is a list of chunks: for documents of one chunk pass "
                "[[text] for text in texts], for questions use embed_queries, for independent texts embed_texts"
            )
        if isinstance(document, (bytes, bytearray)):
            raise TypeError(f"document {position} must be an iterable of str, got {type(document).__name__}")
        rows.append(list(iterate(f"document {position}", document)))
    if not set(map(type, chain.from_iterable(rows))) <= {str}:
        for position, row in enumerate(rows, first_document):
            for number, chunk in enumerate(row):
                if not isinstance(chunk, str):
                    raise TypeError(f"document {position}, chunk {number}: must be a str, got {type(chunk).__name__}")
    return rows


_ALONE = 16
"""A document whose estimate and a sixteenth exceed a limit gets its own request. In the corpora no error is larger."""

_OTHER_VOCABULARY = 4
"""A quarter is added to the estimate for a model of another vocabulary, of which no counts are known here."""

_FAULTS = {
    "empty": "is empty: a chunk needs at least one character",
    "separator": "holds the separator {1!r} (character {0}), which would misalign every later chunk",
    "surrogate": "holds a lone surrogate (character {0}), which UTF-8 cannot encode",
}


def _prepare(
    rows: list[list[str]],
    token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None,
    limits: Limits,
    first_document: int,
    *,
    calibration: TokenCalibration | None,
    model: Model | None,
) -> PreparedDocuments:
    model = get_model(DEFAULT_MODEL) if model is None else model
    if len(rows) == 1 and len(rows[0]) == 1 and token_counter is None and calibration is not None:
        found = _prepare_text(rows, limits, first_document, calibration, model)
        if found is not None:
            return found
    flat = list(chain.from_iterable(rows))
    chunk_counts = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    chunk_counts.cumsum(out=offsets[1:])
    lower, best, upper, faults = chunk_tokens(flat, token_counter, model)
    separators = np.maximum(chunk_counts - 1, 0)
    exact = token_counter is not None
    learning = not exact and calibration is not None
    per_chunk = [lower, best, upper]
    if learning:
        per_chunk.append(np.fromiter(map(len, flat), dtype=np.int64, count=len(flat)))
    sums = np.zeros((len(per_chunk), len(flat) + 1), dtype=np.int64)
    np.array(per_chunk).cumsum(axis=1, out=sums[:, 1:])
    ends = sums[:, offsets]
    texts = ends[:, 1:] - ends[:, :-1]  # of documents, separators not included
    least, tokens, tokens_upper = texts[:3] + separators
    # The estimate of one document has a larger error than that of a request.
    suspected = tokens if exact else tokens + tokens // _ALONE
    estimates = np.zeros((len(rows), CLASSES if learning else 0), dtype=np.int64)
    if learning and calibration is not None:
        _, text_tokens, size, characters = texts
        classes = classes_of(characters, size)
        estimates[np.arange(len(rows)), classes] = text_tokens
        learned = np.ceil(text_tokens * calibration.factors[classes]).astype(np.int64)
        tokens = np.minimum(np.maximum(learned + separators, least), tokens_upper)
    problems = [
        *_document_problems(chunk_counts, least, limits, exact=exact, first_document=first_document),
        *chunk_problems(faults, offsets, first_document, model.separator),
    ]
    # The sort is stable and None sorts first: a document's own problems come before its chunks'.
    problems.sort(key=lambda problem: (problem.document, -1 if problem.chunk is None else problem.chunk))
    sendable = np.ones(len(rows), dtype=np.bool_)
    sendable[[problem.document - first_document for problem in problems]] = False

    cap = min(limits.tokens_per_document, limits.tokens)
    return PreparedDocuments(
        documents=rows,
        problems=tuple(problems),
        sendable=sendable,
        tokens=tokens,
        tokens_upper=tokens_upper,
        chunk_counts=chunk_counts,
        offsets=offsets,
        alone=sendable & (np.maximum(suspected, tokens) > cap),
        requests=[],
        lower_bound=0,
        exact=exact,
        first_document=first_document,
        estimates=estimates,
    )


_ONE = np.ones(1, dtype=np.int64)
_OFFSETS_OF_ONE = np.arange(2, dtype=np.int64)
_SENDABLE = np.ones(1, dtype=np.bool_)
_ALONE_OR_NOT = (np.zeros(1, dtype=np.bool_), np.ones(1, dtype=np.bool_))
for _constant in (_ONE, _OFFSETS_OF_ONE, _SENDABLE, *_ALONE_OR_NOT):
    _constant.flags.writeable = False


def _prepare_text(
    rows: list[list[str]], limits: Limits, first_document: int, calibration: TokenCalibration, model: Model
) -> PreparedDocuments | None:
    """Prepare a single text, such as a query, as :func:`_prepare` does; return None where it has a problem.

    Arithmetic with numbers takes a third of the time of arrays with one element.
    """
    [[text]] = rows
    lower, best, upper, faults = chunk_tokens([text], None, model)
    least, estimate, size = lower.item(), best.item(), upper.item()
    cap = min(limits.tokens_per_document, limits.tokens)
    if faults or least > cap:
        return None
    place = class_of(len(text), size)
    tokens = min(max(math.ceil(estimate * calibration.factors.item(place)), least), size)
    estimates = np.zeros((1, CLASSES), dtype=np.int64)
    estimates[0, place] = estimate
    return PreparedDocuments(
        documents=rows,
        problems=(),
        sendable=_SENDABLE,
        tokens=np.array((tokens,), dtype=np.int64),
        tokens_upper=upper,
        chunk_counts=_ONE,
        offsets=_OFFSETS_OF_ONE,
        alone=_ALONE_OR_NOT[max(estimate + estimate // _ALONE, tokens) > cap],
        requests=[],
        lower_bound=0,
        exact=False,
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
    for i in (chunk_counts == 0).nonzero()[0].tolist():
        yield Problem(first_document + i, None, "has no chunks: a document needs at least one")
    for i in (chunk_counts > limits.chunks).nonzero()[0].tolist():
        reason = f"has {chunk_counts[i]} chunks, more than limits.chunks = {limits.chunks} allows a request"
        yield Problem(first_document + i, None, reason)
    name = "tokens_per_document" if limits.tokens_per_document <= limits.tokens else "tokens"
    limit = getattr(limits, name)
    for i in (least > limit).nonzero()[0].tolist():
        quantity = f"{least[i]}" if exact else f"at least {least[i]}"
        yield Problem(first_document + i, None, f"has {quantity} tokens, more than limits.{name} = {limit}")


def chunk_problems(
    faults: list[tuple[int, str, int]], offsets: NDArray[np.int64], first_document: int, separator: str | None
) -> Iterable[Problem]:
    """Yield the faults of chunks as problems of their documents."""
    if not faults:
        return
    positions = np.array([position for position, _, _ in faults], dtype=np.int64)
    rows = np.searchsorted(offsets, positions, side="right") - 1
    for (position, kind, character), row in zip(faults, rows.tolist(), strict=True):
        yield Problem(first_document + row, position - int(offsets[row]), _FAULTS[kind].format(character, separator))


def chunk_tokens(
    chunks: list[str], token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None, model: Model
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], list[tuple[int, str, int]]]:
    """Return minimum, estimate and maximum of each chunk's tokens, and the faults. With a counter the three agree."""
    if token_counter is None:
        lower, estimate, upper, faults = _core.inspect_chunks(chunks, model.separator)
        if not has_known_vocabulary(model):
            lower = np.minimum(lower, 1)  # the minimum is proven for the vocabulary of v1
            estimate = np.minimum(estimate + estimate // _OTHER_VOCABULARY, upper)
        return lower, estimate, upper, faults
    _, faults = _core.check_chunks(chunks, model.separator)  # without the estimate
    counts = _count(token_counter, chunks, faults)
    return counts, counts, counts, faults


def has_known_vocabulary(model: Model) -> bool:
    """Return whether the token estimate is made for the vocabulary of a model: that of the v1 models."""
    return model.separator == SEPARATOR


def _count(
    counter: CountsTokens | Callable[[list[str]], ArrayLike], chunks: list[str], faults: list[tuple[int, str, int]]
) -> NDArray[np.int64]:
    """Count with the caller's counter, in one call for all chunks without a fault."""
    bad = {position for position, _, _ in faults}
    usable = [i for i in range(len(chunks)) if i not in bad] if bad else None
    texts = chunks if usable is None else [chunks[i] for i in usable]
    method = getattr(counter, "count_batch", None)
    call = method if callable(method) else counter
    if not callable(call):
        raise TypeError(
            "token_counter must have the method count_batch, or be callable with a list of str, "
            f"got {type(counter).__name__}"
        )
    # The counter receives a copy, which it may change.
    counts = as_counts("token_counter(chunks)", call(list(texts))) if texts else np.zeros(0, dtype=np.int64)
    if len(counts) != len(texts):
        raise ValueError(f"token_counter returned {len(counts)} counts for {len(texts)} chunks")
    if counts.size and counts.min() < 0:
        position = int(counts.argmin())
        raise ValueError(f"token_counter returned {counts[position]} for chunk {position} of {len(texts)}")
    result = np.zeros(len(chunks), dtype=np.int64)
    # A text with characters has at least one token, whatever the counter returns.
    result[slice(None) if usable is None else usable] = np.maximum(counts, 1)
    return result
