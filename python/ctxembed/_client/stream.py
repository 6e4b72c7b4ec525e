"""The state of a stream: which documents to read, batches to send and parts to return. No I/O."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._client.batches import Assembly, Batch, EmbeddingsPart, Outcome, failures_of, part_of
from ctxembed._client.progress import Progress
from ctxembed._planning.packing import pack_counts
from ctxembed._results import NO_USAGE, Embeddings, EmbedError, Failure, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from ctxembed._client._policy.clock import Clock
    from ctxembed._client.endpoint import RequestTemplate
    from ctxembed._planning.limits import Limits
    from ctxembed._planning.prepare import PreparedDocuments

__all__ = ["Lookup", "StreamState"]

_AHEAD: Final = 4
"""Full requests of documents that are read before the packer chooses among them. Fewer leave room in requests."""

_COUNTED_AT_ONCE: Final = 64
"""Documents whose tokens are counted in one call: a call a document would cost more than the counting."""

_COUNTED_IF_STEADY: Final = 256
"""As many in a steady stream, of which nobody waits for the first request."""

_READ_FOR: Final = 0.05
"""Seconds for which documents are read in one go. Responses that arrive meanwhile wait for so long."""


class StreamState:
    """The state of a stream. One thread or one event loop calls it.

    Parameters
    ----------
    template : RequestTemplate
        What all requests have in common.
    prepare : callable
        Checks and counts a list of documents, given the position of the first.
    limits : Limits
        Limits of a request.
    concurrency : int
        Requests in flight at most.
    ordered : bool
        Whether parts come in input order, each a range of the input.
    on_error : {"raise", "return"}
        Whether the first failure ends the stream.
    progress : callable or None
        Called for each part that is returned.
    clock : Clock
        For the seconds of ``progress`` and ``flush_after``.
    flush_after : float or None
        Maximum seconds to hold a partly filled request.
    key_of : callable or None
        With a journal: the keys of its documents. Each document then goes through :meth:`lookup` and
        :meth:`add_known` before it is sent.
    steady : bool
        Whether the requests depend on the documents alone, and not on when responses arrive. Documents are read while
        fewer than ``concurrency`` requests are in flight, and packed as soon as they fill 4 requests.
    checked : bool
        Whether each document is known to be a list of str that nobody changes.

    Notes
    -----
    A document is held from when it is read until its part is returned. At most as many documents are held as fill
    ``concurrency + 4`` requests (``concurrency + 8`` where ``steady``) by documents, chunks or tokens, whichever comes
    first, and with :meth:`feed_from` 255 more. That is the back-pressure on the source and the bound on memory.
    """

    def __init__(
        self,
        template: RequestTemplate,
        prepare: Callable[[list[list[str]], int], PreparedDocuments],
        limits: Limits,
        concurrency: int,
        *,
        ordered: bool,
        on_error: str,
        progress: Callable[[Progress], object] | None,
        clock: Clock,
        flush_after: float | None = None,
        key_of: Callable[[int, list[str]], bytes] | None = None,
        steady: bool = False,
        checked: bool = False,
    ) -> None:
        self.template = template
        self._prepare = prepare
        self._limits = limits
        self._concurrency = concurrency
        self._ordered = ordered
        self._raises = on_error == "raise"
        self._progress = progress
        self._clock = clock
        self._started = clock.monotonic()
        self.flush_after = flush_after
        self._key_of = key_of
        self.is_steady = steady
        self._is_checked = checked
        self._lookup: list[_CountedDocument] = []  # counted, to be looked up in the journal
        # By key, of documents without an outcome. Most have none, and a list for each would cost time.
        self._copies: dict[bytes, list[_CountedDocument] | None] = {}
        self._waiting_since: float | None = None  # when the oldest document that is not sent was read

        self._uncounted: list[list[str]] = []  # read, not counted yet
        self._uncounted_size = 0  # its characters
        self._pending: list[_CountedDocument] = []  # counted, not sent
        self._pending_size = _Size()
        self._read = 0
        self._held = _Size()
        self._exhausted = False
        self._source_error: Exception | None = None
        self._failures: list[Failure] = []  # on_error="raise"
        self._in_flight: dict[int, int] = {}  # requests: documents of each without an outcome
        self._roots = 0
        self._ready: deque[tuple[EmbeddingsPart, _Size]] = deque()
        self._early: list[tuple[int, EmbeddingsPart, _Size]] = []  # ordered: a heap of parts that come later
        self._next = 0  # ordered: the next position
        self._done = _Size()
        self._requests = self._retries = self._failed = 0
        self._usage = Usage()
        self._request = _Size(limits.documents, limits.chunks, limits.tokens)
        self._counted_at_once = min(_COUNTED_IF_STEADY if steady else _COUNTED_AT_ONCE, limits.documents)

    @property
    def wants_document(self) -> bool:
        """Whether to read another document."""
        if self._exhausted or (self.is_steady and len(self._in_flight) >= self._concurrency):
            return False
        return not self._is_full

    @property
    def _is_full(self) -> bool:
        ahead = 2 * _AHEAD if self.is_steady else _AHEAD
        return self._held.reaches(self._request, self._concurrency + ahead)

    @property
    def _must_send(self) -> bool:
        """Whether no more is read before something is sent."""
        if self.is_steady:
            # Documents of equal content are held and fill no request, so they may leave no room for others.
            return self._exhausted or (self._is_full and not (self._in_flight or self._ready))
        return not self.wants_document

    @property
    def in_flight(self) -> int:
        """Requests that were planned and have no outcome yet."""
        return len(self._in_flight)

    @property
    def retries(self) -> int:
        """Retries so far."""
        return self._retries

    @property
    def exhausted(self) -> bool:
        """Whether no more documents are read: the source has ended, or a failure has ended the stream."""
        return self._exhausted

    @property
    def is_over(self) -> bool:
        """Whether there are no more parts."""
        return self._exhausted and not (self._in_flight or self._uncounted or self._pending or self._ready)

    @property
    def waits_for_outcome(self) -> bool:
        """Whether the next part is still in flight."""
        return bool(self._in_flight) and not self._ready

    @property
    def raises(self) -> bool:
        """Whether a failure ends the stream."""
        return self._raises

    def error(self) -> Exception | None:
        """Return the error that the stream ends with, or None."""
        if not self._failures:
            return self._source_error
        first = self._failures[0]
        message = (
            f"{len(self._failures)} documents of the stream were not embedded (all other parts were "
            f"returned before); document {first.document}: {type(first.error).__name__}: {first.error}"
        )
        nothing = Assembly(self.template, np.zeros(1, np.int64)).result()
        error = EmbedError(message, nothing, tuple(self._failures))
        error.__cause__, error.__context__ = first.error, self._source_error
        return error

    def feed(self, document: Any) -> None:
        """Take the next document of the source."""
        try:
            # A generator is read here, in the thread of its source.
            chunks = document if self._is_checked else _chunks_of(document, self._read)
        except Exception as error:  # noqa: BLE001  # handled as an error of the source
            self.exhaust(error)
            return
        if self._waiting_since is None:
            self._waiting_since = self._clock.monotonic()
        self._uncounted_size += sum(map(len, chunks))
        self._uncounted.append(chunks)
        self._read += 1
        self._held += _Size(1)

    def feed_from(self, source: Iterator[Any]) -> None:
        """Take documents until enough are read to be counted, or for a moment.

        Going back to the stream after each document would cost more than reading it.
        """
        read, monotonic = self._read, self._clock.monotonic
        until = monotonic() + _READ_FOR
        try:
            if self._is_checked:
                self._take_checked(source, monotonic, until)
            else:
                while not (self._exhausted or self.counts_now):
                    self.feed(next(source))
                    if monotonic() >= until:
                        break
        except StopIteration:
            self.exhaust()
        except Exception as error:  # noqa: BLE001  # raised when all requests in flight have ended
            self.exhaust(error)
        if self._is_checked and self._read > read:
            self._held += _Size(self._read - read)
            if self._waiting_since is None:
                self._waiting_since = monotonic()

    def _take_checked(self, source: Iterator[list[str]], monotonic: Callable[[], float], until: float) -> None:
        """Take documents that need no check until enough are read to be counted, or ``until``."""
        uncounted, most = self._uncounted, self._counted_at_once
        while len(uncounted) < most and self._uncounted_size < self._limits.tokens:
            document = next(source)
            self._uncounted_size += sum(map(len, document))
            self._read += 1
            uncounted.append(document)
            if monotonic() >= until:
                break

    def exhaust(self, error: Exception | None = None) -> None:
        """Record the end or the error of the source. Documents that it gave before are embedded."""
        self._exhausted = True
        if error is not None and self._source_error is None:
            self._source_error = error

    def stop(self, error: Exception) -> None:
        """Read no more documents; ``error`` is raised at the end, unless a failure is."""
        if not self._exhausted:
            self.exhaust(error)

    def add_outcome(self, outcome: Outcome) -> None:
        """Add the outcome of a batch."""
        batch = outcome.batch
        remaining = self._in_flight.pop(batch.root) - len(batch.documents)
        if remaining:
            self._in_flight[batch.root] = remaining
        else:
            self._requests += 1
        self._usage += outcome.usage
        self._retries += outcome.retries
        copies = [self._copies.pop(key, None) or () for key in batch.keys]
        if outcome.error is not None and self._raises:
            same = [Failure(copy.position, outcome.error, outcome.attempts) for group in copies for copy in group]
            self._fail([*outcome.failures(), *same])
            return
        self._add_outcome(outcome)
        if any(copies):
            found = outcome.embeddings
            rows = [None] * len(copies) if found is None else list(found)
            equal = [(copy, vectors) for group, vectors in zip(copies, rows, strict=True) for copy in group]
            self._add_rows(equal, None if found is None else found.space, outcome.error, outcome.attempts)

    def flush_delay(self) -> float | None:
        """Return the seconds until held documents are to be sent; None where there are none or no limit."""
        if self.flush_after is None or self._waiting_since is None:
            return None
        return max(0.0, self._waiting_since + self.flush_after - self._clock.monotonic())

    def next_batches(self) -> list[Batch]:
        """Return the batches to send now."""
        late = self.flush_delay() == 0.0
        must_send = late or self._must_send
        if self._key_of is None:
            self._count_if_due(must_send=must_send)
        if not self._pending:
            if not self._uncounted:
                self._waiting_since = None
            return []
        ahead = _AHEAD if self.is_steady or len(self._in_flight) >= self._concurrency else 1
        if not must_send and not self._pending_size.reaches(self._request, ahead):
            return []
        requests = self._pack()
        # The last request is not full yet, unless it is the end.
        self._pending = [] if self._exhausted or late or len(requests) < 2 else requests.pop()
        self._waiting_since = self._clock.monotonic() if self._pending else None
        self._pending_size = sum((counted.size for counted in self._pending), _Size())
        return [self._batch(request) for request in requests]

    def lookup(self) -> Lookup | None:
        """Return the documents to look up in the journal now; None where there are none, or no journal."""
        if self._key_of is None:
            return None
        self._count_if_due(must_send=self.flush_delay() == 0.0 or self._must_send)
        found, self._lookup = self._lookup, []
        documents: dict[bytes, _CountedDocument] = {}
        key_of, copies = self._key_of, self._copies
        for counted in found:
            counted.key = key = key_of(counted.position, counted.chunks)
            if key not in copies:
                copies[key] = None
                documents[key] = counted
            elif (others := copies[key]) is None:
                copies[key] = [counted]
            else:
                others.append(counted)
        return Lookup(documents) if documents else None

    def add_known(self, lookup: Lookup, known: Mapping[bytes, NDArray[Any]]) -> None:
        """Add the rows of the documents that the journal knows. The others are sent."""
        if self._failures:  # the stream ends
            return
        rows: list[tuple[_CountedDocument, NDArray[Any] | None]] = []
        missing: list[_CountedDocument] = []
        for key, counted in lookup.documents.items():
            if key in known:
                rows += [(copy, known[key]) for copy in (counted, *(self._copies.pop(key) or ()))]
            else:
                missing.append(counted)
        self._pending += missing
        sizes = [counted.size for counted in missing]
        self._pending_size += _Size(len(sizes), sum(size.chunks for size in sizes), sum(size.tokens for size in sizes))
        if self._pending and self._waiting_since is None:
            self._waiting_since = self._clock.monotonic()
        self._add_rows(rows, None, None, 0)

    def next_part(self) -> EmbeddingsPart | None:
        """Return the next part, or None where there is none yet."""
        if not self._ready:
            return None
        part, size = self._ready.popleft()
        self._held -= size
        self._done += _Size(len(part), len(part.vectors))
        self._failed += len(part.failures)
        if self._progress is not None:
            self._progress(
                Progress(
                    documents_done=self._done.documents,
                    documents_total=self._read if self._exhausted else None,
                    chunks_done=self._done.chunks,
                    chunks_total=None,
                    requests_done=self._requests,
                    requests_total=None,
                    retries=self._retries,
                    failures=self._failed,
                    usage=self._usage,
                    seconds=self._clock.monotonic() - self._started,
                )
            )
        return part

    def _count_if_due(self, *, must_send: bool) -> None:
        if self._uncounted and (must_send or self.counts_now):
            self._count()

    @property
    def has_more_to_do(self) -> bool:
        """Whether a document that was read leads to more than being held."""
        return self.counts_now or not self.wants_document or self.flush_delay() == 0.0

    @property
    def counts_now(self) -> bool:
        """Whether so much is read that it is counted."""
        return len(self._uncounted) >= self._counted_at_once or self._uncounted_size >= self._limits.tokens

    def _count(self) -> None:
        base, raw = self._read - len(self._uncounted), self._uncounted
        self._uncounted, self._uncounted_size = [], 0
        try:
            prepared = self._prepare(raw, base)
        except Exception as error:  # noqa: BLE001  # the caller's token counter's
            self.exhaust(error)
            return
        failures = failures_of(prepared.problems)
        invalid = {failure.document for failure in failures}
        for position, chunks in enumerate(prepared.documents):
            if position + base not in invalid:
                counted = _CountedDocument(
                    position + base, chunks, int(prepared.tokens[position]), prepared.estimates[position]
                )
                if self._key_of is None:
                    self._pending.append(counted)
                    self._pending_size += counted.size
                else:
                    self._lookup.append(counted)
                self._held += _Size(0, counted.size.chunks, counted.size.tokens)
        if failures and self._raises:
            self._fail(list(failures))
            return
        for failure in failures:
            batch = Batch([[]], np.array([failure.document], np.int64), 0)
            self._add_part(part_of(self.template, Outcome(batch, None, failure.error, 0)), _Size(1))

    def _pack(self) -> list[list[_CountedDocument]]:
        """Divide the pending documents into requests, the oldest document in the first."""
        requests: list[list[_CountedDocument]] = []
        for run in self._shareable():
            tokens = np.array([counted.size.tokens - counted.size.chunks + 1 for counted in run], np.int64)
            chunks = np.array([counted.size.chunks for counted in run], np.int64)
            packing = pack_counts(tokens, chunks, self._limits, "input" if self._ordered else "window", 0.0)
            requests += [[run[at] for at in request.tolist()] for request in packing.requests]
        alone = [[counted] for counted in self._pending if self._may_exceed(counted)]
        return sorted(requests + alone, key=lambda request: request[0].position)

    def _may_exceed(self, counted: _CountedDocument) -> bool:
        """Return whether a document is too large by its estimate. It is sent alone, and the API decides."""
        return counted.size.tokens > min(self._limits.tokens_per_document, self._limits.tokens)

    def _shareable(self) -> list[list[_CountedDocument]]:
        """Return the documents that may share requests: all, or each unbroken range where order matters.

        With a journal all may: known documents leave gaps, at which an outcome is divided into parts.
        """
        fitting = [counted for counted in self._pending if not self._may_exceed(counted)]
        if not self._ordered or self._key_of is not None:
            return [fitting] if fitting else []
        runs: list[list[_CountedDocument]] = []
        for counted in fitting:
            if runs and runs[-1][-1].position == counted.position - 1:
                runs[-1].append(counted)
            else:
                runs.append([counted])
        return runs

    def _batch(self, request: list[_CountedDocument]) -> Batch:
        self._roots += 1
        self._in_flight[self._roots] = len(request)
        return Batch(
            [counted.chunks for counted in request],
            np.array([counted.position for counted in request], np.int64),
            sum(counted.size.tokens for counted in request),
            self._roots,
            estimate=tuple(np.sum([counted.estimate for counted in request], axis=0).tolist()),
            keys=[] if self._key_of is None else [counted.key for counted in request],
        )

    def _add_rows(
        self,
        rows: list[tuple[_CountedDocument, NDArray[Any] | None]],
        space: str | None,
        error: Exception | None,
        attempts: int,
    ) -> None:
        """Add documents that no request held: known ones, and those whose content another document had."""
        if not rows:
            return
        rows.sort(key=lambda found: found[0].position)
        template, documents = self.template, [counted for counted, _ in rows]
        batch = Batch(
            [counted.chunks for counted in documents],
            np.array([counted.position for counted in documents], np.int64),
            sum(counted.size.tokens for counted in documents),
        )
        embeddings = None
        if error is None:
            vectors = [found for _, found in rows if found is not None]
            embeddings = Embeddings(
                vectors=vectors[0] if len(vectors) == 1 else np.concatenate(vectors),
                offsets=np.cumsum([0, *batch.shape]),
                model=template.model,
                dimensions=template.dimensions,
                encoding_format=template.encoding_format,
                usage=NO_USAGE,
                space=space,
                input_type=template.input_type,
            )
        self._add_outcome(Outcome(batch, embeddings, error, attempts))

    def _add_outcome(self, outcome: Outcome) -> None:
        """Add the part of an outcome; in order, and with a journal, a part for each unbroken range."""
        batch = outcome.batch
        pieces = [outcome]
        if self._ordered and self._key_of is not None:
            cuts = (np.flatnonzero(np.diff(batch.positions) != 1) + 1).tolist()
            pieces = list(_divided(outcome, [0, *cuts, len(batch.positions)])) if cuts else pieces
        for piece in pieces:
            size = _Size(len(piece.batch.documents), sum(piece.batch.shape), piece.batch.tokens)
            self._add_part(part_of(self.template, piece), size)

    def _add_part(self, part: EmbeddingsPart, size: _Size) -> None:
        if not self._ordered:
            self._ready.append((part, size))
            return
        heapq.heappush(self._early, (int(part.documents[0]), part, size))
        while self._early and self._early[0][0] == self._next:
            _, part, size = heapq.heappop(self._early)
            self._ready.append((part, size))
            self._next += len(part)

    def _fail(self, failures: list[Failure]) -> None:
        """With on_error="raise": send no more, return the parts in flight, then raise."""
        self._failures += failures
        self._exhausted = True
        self._uncounted, self._lookup, self._pending, self._pending_size = [], [], [], _Size()
        # Parts that wait for failed documents are paid for: they are returned all the same.
        if self._ordered:
            self._ordered = False
            while self._early:
                _, part, size = heapq.heappop(self._early)
                self._ready.append((part, size))


@dataclass(frozen=True, slots=True)
class _Size:
    """Documents, chunks and tokens, as the limits of a request count them."""

    documents: int = 0
    chunks: int = 0
    tokens: int = 0

    def __add__(self, other: _Size) -> _Size:
        return _Size(self.documents + other.documents, self.chunks + other.chunks, self.tokens + other.tokens)

    def __sub__(self, other: _Size) -> _Size:
        return _Size(self.documents - other.documents, self.chunks - other.chunks, self.tokens - other.tokens)

    def reaches(self, limit: _Size, times: int) -> bool:
        """Return whether any of the three is at least ``times`` that of the limit."""
        return (
            self.documents >= limit.documents * times
            or self.chunks >= limit.chunks * times
            or self.tokens >= limit.tokens * times
        )


@dataclass(frozen=True, slots=True)
class Lookup:
    """Documents that are looked up in the journal, by their keys."""

    documents: dict[bytes, _CountedDocument]

    @property
    def chunks(self) -> dict[bytes, int]:
        """The chunks of each."""
        return {key: len(counted.chunks) for key, counted in self.documents.items()}


class _CountedDocument:
    """A document whose tokens are counted."""

    __slots__ = ("chunks", "estimate", "key", "position", "size")

    def __init__(self, position: int, chunks: list[str], tokens: int, estimate: NDArray[np.int64]) -> None:
        self.estimate = estimate
        self.position = position
        self.chunks = chunks
        self.size = _Size(1, len(chunks), tokens)
        self.key = b""


def _divided(outcome: Outcome, cuts: list[int]) -> Iterator[Outcome]:
    """Divide an outcome between its documents. The first piece has the usage."""
    found, usage = outcome.embeddings, outcome.usage
    for start, stop in pairwise(cuts):
        piece = None
        if found is not None:
            offsets = found.offsets[start : stop + 1]
            piece = replace(found, vectors=found.vectors[offsets[0] : offsets[-1]], offsets=offsets - offsets[0])
        batch = outcome.batch.slice(start, stop, outcome.attempts)
        yield Outcome(batch, piece, outcome.error, outcome.attempts, usage=usage)
        usage = NO_USAGE


def _chunks_of(document: Any, position: int) -> list[str]:
    if isinstance(document, str | bytes | bytearray):
        raise TypeError(
            f"document {position} is a {type(document).__name__}, but a document is a list of chunks: for documents of "
            "one chunk give [text]"
        )
    try:
        chunks = list(document)
    except TypeError:
        raise TypeError(f"document {position} must be an iterable of str, got {type(document).__name__}") from None
    for number, chunk in enumerate(chunks):
        if not isinstance(chunk, str):
            raise TypeError(f"document {position}, chunk {number}: must be a str, got {type(chunk).__name__}")
    return chunks
