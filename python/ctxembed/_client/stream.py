"""A stream's bookkeeping, without I/O: what to read, what to send, what to hand out, and when it is over."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._client.batches import Assembly, Batch, EmbeddingsPart, Outcome, Progress, part_of
from ctxembed._client.planned import refusals
from ctxembed._errors import EmbedError
from ctxembed._planning.packing import pack_counts
from ctxembed._results import Failure, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctxembed._client._policy.retry import Clock
    from ctxembed._client.endpoint import Call
    from ctxembed._models import Limits
    from ctxembed._planning.prepare import Prepared

__all__ = ["StreamState"]

_AHEAD: Final = 4
"""Requests' worth of documents that are read before the packer chooses among them. Fewer waste room in requests."""

_TOGETHER: Final = 64
"""Documents that are counted at one go: a call a document would cost more than the counting."""


class StreamState:
    """What a stream knows. One thread (or one event loop) calls it.

    Parameters
    ----------
    call : Call
        What all requests have in common.
    prepare : callable
        Checks and counts a list of documents, the first of which has the position given.
    limits : Limits
        What a request may hold.
    concurrency : int
        Requests in flight at most.
    ordered : bool
        Whether parts come in input order, each a run of the input.
    on_error : {"raise", "return"}
        What becomes of failures.
    progress : callable or None
        Told about each part that is handed out.
    clock : Clock
        For the seconds in ``progress`` and in ``flush_after``.
    flush_after : float or None
        Seconds after which a document is sent though its request is not full.

    Notes
    -----
    A document is held from when it is read until its part is handed out. At most ``concurrency + 4`` requests'
    worth of documents are held, whichever of documents, chunks and tokens comes first: that is the back-pressure on
    the source, and the bound on memory.
    """

    def __init__(
        self,
        call: Call,
        prepare: Callable[[list[list[str]], int], Prepared],
        limits: Limits,
        concurrency: int,
        *,
        ordered: bool,
        on_error: str,
        progress: Callable[[Progress], object] | None,
        clock: Clock,
        flush_after: float | None = None,
    ) -> None:
        self.call = call
        self._prepare = prepare
        self._limits = limits
        self._concurrency = concurrency
        self._ordered = ordered
        self._raises = on_error == "raise"
        self._progress = progress
        self._clock = clock
        self._began = clock.monotonic()
        self.flush_after = flush_after
        self._waiting_since: float | None = None  # the document that has waited longest to be sent

        self._raw: list[list[str]] = []  # read, not counted yet
        self._raw_size = 0  # its characters
        self._pool: list[_Counted] = []  # counted, not sent
        self._pool_size = _Size()
        self._read = 0
        self._held = _Size()
        self._exhausted = False
        self._source_error: Exception | None = None
        self._failures: list[Failure] = []  # on_error="raise"
        self._open: dict[int, int] = {}  # requests in flight: documents of each that are not back
        self._roots = 0
        self._ready: deque[tuple[EmbeddingsPart, _Size]] = deque()
        self._early: list[tuple[int, EmbeddingsPart, _Size]] = []  # ordered: a heap of parts whose turn has not come
        self._turn = 0  # ordered: the position that is next
        self._done = _Size()
        self._requests = self._retries = self._failed = 0
        self._usage = Usage()
        self._request = _Size(limits.documents, limits.chunks, limits.tokens)

    # What the driver asks

    @property
    def wants(self) -> bool:
        """Whether to read another document."""
        return not self._exhausted and not self._held.reaches(self._request, self._concurrency + _AHEAD)

    @property
    def exhausted(self) -> bool:
        """Whether nothing more is read: the source has ended, or a failure has ended the stream."""
        return self._exhausted

    @property
    def over(self) -> bool:
        """Whether nothing will come any more."""
        return self._exhausted and not (self._open or self._raw or self._pool or self._ready)

    @property
    def waits(self) -> bool:
        """Whether the next part is still under way."""
        return bool(self._open) and not self._ready

    @property
    def raises(self) -> bool:
        """Whether a failure ends the stream."""
        return self._raises

    def error(self) -> Exception | None:
        """Return what a stream that is over ends with."""
        if not self._failures:
            return self._source_error
        first = self._failures[0]
        message = (
            f"{len(self._failures)} documents of the stream were not embedded (every part that landed was handed "
            f"out before); document {first.document}: {type(first.error).__name__}: {first.error}"
        )
        nothing = Assembly(self.call, np.zeros(1, np.int64)).result()
        error = EmbedError(message, nothing, tuple(self._failures))
        error.__cause__, error.__context__ = first.error, self._source_error
        return error

    # What the driver tells

    def feed(self, document: Any) -> None:
        """Take the next document of the source."""
        try:
            # It may be a generator: it is read here, where the source belongs.
            chunks = _chunks_of(document, self._read)
        except Exception as error:  # noqa: BLE001  # as if the source had raised
            self.exhaust(error)
            return
        if self._waiting_since is None:
            self._waiting_since = self._clock.monotonic()
        self._raw_size += sum(map(len, chunks))
        self._raw.append(chunks)
        self._read += 1
        self._held += _Size(1)

    def exhaust(self, error: Exception | None = None) -> None:
        """Note that the source has ended, or what it has raised: what it had given before is embedded all the same."""
        self._exhausted = True
        if error is not None and self._source_error is None:
            self._source_error = error

    def stop(self, error: Exception) -> None:
        """Read nothing more; ``error`` is raised at the end, unless a failure is."""
        if not self._exhausted:
            self.exhaust(error)

    def land(self, outcome: Outcome) -> None:
        """Take what came of a batch."""
        batch = outcome.batch
        left = self._open.pop(batch.root) - len(batch.documents)
        if left:
            self._open[batch.root] = left
        else:
            self._requests += 1
        self._usage += outcome.usage
        self._retries += outcome.retries
        if outcome.error is not None and self._raises:
            self._fail(outcome.failures())
            return
        counts = _Size(len(batch.documents), sum(batch.shape), batch.tokens)
        self._file(part_of(self.call, outcome), counts)

    # What the driver does next

    def patience(self) -> float | None:
        """Return the seconds after which to launch again though nothing more was read; None: that changes nothing."""
        if self.flush_after is None or self._waiting_since is None:
            return None
        return max(0.0, self._waiting_since + self.flush_after - self._clock.monotonic())

    def launch(self) -> list[Batch]:
        """Return what to send now."""
        late = self.patience() == 0.0
        pressed = late or not self.wants  # nothing more will be read before something is sent
        if self._raw and (
            pressed or len(self._raw) >= min(_TOGETHER, self._limits.documents) or self._raw_size >= self._limits.tokens
        ):
            self._count()
        if not self._pool:
            return []
        if not pressed and not self._pool_size.reaches(
            self._request, 1 if len(self._open) < self._concurrency else _AHEAD
        ):
            return []
        requests = self._pack()
        # The last is not full yet, unless nothing more comes.
        self._pool = [] if self._exhausted or late or len(requests) < 2 else requests.pop()
        self._waiting_since = self._clock.monotonic() if self._pool else None
        self._pool_size = sum((counted.size for counted in self._pool), _Size())
        return [self._send(request) for request in requests]

    def next_part(self) -> EmbeddingsPart | None:
        """Return the next part to hand out, if there is one."""
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
                    seconds=self._clock.monotonic() - self._began,
                )
            )
        return part

    # Inside

    def _count(self) -> None:
        base, raw = self._read - len(self._raw), self._raw
        self._raw, self._raw_size = [], 0
        try:
            prepared = self._prepare(raw, base)
        except Exception as error:  # noqa: BLE001  # the caller's token counter's
            self.exhaust(error)
            return
        failures = refusals(prepared.problems)
        refused = {failure.document for failure in failures}
        for position, chunks in enumerate(prepared.documents):
            if position + base not in refused:
                counted = _Counted(
                    position + base, chunks, int(prepared.tokens[position]), prepared.estimates[position]
                )
                self._pool.append(counted)
                self._pool_size += counted.size
                self._held += _Size(0, counted.size.chunks, counted.size.tokens)
        if failures and self._raises:
            self._fail(list(failures))
            return
        for failure in failures:
            batch = Batch([[]], np.array([failure.document], np.int64), 0)
            self._file(part_of(self.call, Outcome(batch, None, failure.error, 0)), _Size(1))

    def _pack(self) -> list[list[_Counted]]:
        """Divide the pool into requests, the oldest document in the first."""
        requests: list[list[_Counted]] = []
        for run in self._runs():
            tokens = np.array([counted.size.tokens - counted.size.chunks + 1 for counted in run], np.int64)
            chunks = np.array([counted.size.chunks for counted in run], np.int64)
            packing = pack_counts(tokens, chunks, self._limits, "input" if self._ordered else "window", 0.0)
            requests += [[run[at] for at in request.tolist()] for request in packing.requests]
        alone = [[counted] for counted in self._pool if self._fills(counted)]
        return sorted(requests + alone, key=lambda request: request[0].position)

    def _fills(self, counted: _Counted) -> bool:
        """Whether a document may be too large, by an estimate: it goes alone, and the API decides."""
        return counted.size.tokens > min(self._limits.tokens_per_document, self._limits.tokens)

    def _runs(self) -> list[list[_Counted]]:
        """Documents that may share requests: all, or each unbroken run where order matters."""
        fitting = [counted for counted in self._pool if not self._fills(counted)]
        if not self._ordered:
            return [fitting] if fitting else []
        runs: list[list[_Counted]] = []
        for counted in fitting:
            if runs and runs[-1][-1].position == counted.position - 1:
                runs[-1].append(counted)
            else:
                runs.append([counted])
        return runs

    def _send(self, request: list[_Counted]) -> Batch:
        self._roots += 1
        self._open[self._roots] = len(request)
        return Batch(
            [counted.chunks for counted in request],
            np.array([counted.position for counted in request], np.int64),
            sum(counted.size.tokens for counted in request),
            self._roots,
            estimate=tuple(np.sum([counted.estimate for counted in request], axis=0).tolist()),
        )

    def _file(self, part: EmbeddingsPart, size: _Size) -> None:
        if not self._ordered:
            self._ready.append((part, size))
            return
        heapq.heappush(self._early, (int(part.documents[0]), part, size))
        while self._early and self._early[0][0] == self._turn:
            _, part, size = heapq.heappop(self._early)
            self._ready.append((part, size))
            self._turn += len(part)

    def _fail(self, failures: list[Failure]) -> None:
        """With on_error="raise": start nothing more, hand out what lands, then raise."""
        self._failures += failures
        self._exhausted = True
        self._drop()
        # What waits for the failed ones has landed and is paid: it is handed out all the same.
        if self._ordered:
            self._ordered = False
            while self._early:
                _, part, size = heapq.heappop(self._early)
                self._ready.append((part, size))

    def _drop(self) -> None:
        self._raw, self._pool, self._pool_size = [], [], _Size()


@dataclass(frozen=True, slots=True)
class _Size:
    """Documents, chunks and tokens: what a request's limits count."""

    documents: int = 0
    chunks: int = 0
    tokens: int = 0

    def __add__(self, other: _Size) -> _Size:
        return _Size(self.documents + other.documents, self.chunks + other.chunks, self.tokens + other.tokens)

    def __sub__(self, other: _Size) -> _Size:
        return _Size(self.documents - other.documents, self.chunks - other.chunks, self.tokens - other.tokens)

    def reaches(self, limit: _Size, times: int) -> bool:
        """Whether any of the three is at least so many times the limit's."""
        return (
            self.documents >= limit.documents * times
            or self.chunks >= limit.chunks * times
            or self.tokens >= limit.tokens * times
        )


class _Counted:
    """A document that is ready to be sent."""

    __slots__ = ("chunks", "estimate", "position", "size")

    def __init__(self, position: int, chunks: list[str], tokens: int, estimate: NDArray[np.int64]) -> None:
        self.estimate = estimate
        self.position = position
        self.chunks = chunks
        self.size = _Size(1, len(chunks), tokens)


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
