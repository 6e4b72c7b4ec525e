"""What travels between the planner, the engine and the caller: batches out, outcomes back, one matrix in the end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ctxembed._errors import CtxembedError
from ctxembed._results import NO_USAGE, Embeddings, Failure, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctxembed._client._http.transport import Reply
    from ctxembed._client.endpoint import Call

__all__ = ["Assembly", "Batch", "EmbeddingsPart", "Outcome", "Progress", "part_of"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call has come.

    Parameters
    ----------
    documents_done, chunks_done, requests_done : int
        Documents and chunks that have their vectors or their failure, and requests that are through.
    documents_total, chunks_total, requests_total : int or None
        Of the whole call, as planned: a request that is split counts as one. None in a stream that is not read to
        its end yet.
    retries : int
        Attempts beyond the first of each request.
    failures : int
        Documents that failed.
    usage : Usage
        Tokens and cost so far.
    seconds : float
        Since the call began.
    """

    documents_done: int
    documents_total: int | None
    chunks_done: int
    chunks_total: int | None
    requests_done: int
    requests_total: int | None
    retries: int
    failures: int
    usage: Usage
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens that the API has counted so far."""
        return self.usage.total_tokens or 0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EmbeddingsPart(Embeddings):
    """What one request of a stream brought: an :class:`Embeddings` that knows where its documents stood.

    Parameters
    ----------
    documents : ndarray of int64, shape (n_documents,)
        Position of each document in the stream's input. Those of ``failures`` count there too, not in the part.
    """

    documents: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(slots=True, eq=False)
class Batch:
    """One planned request.

    Parameters
    ----------
    documents : list of list of str
        Its documents.
    positions : ndarray of int64
        Where they stand in the input, ascending.
    tokens : int
        Estimate, separators included.
    root : int
        Which planned request it is, or is a piece of.
    attempts : int
        Requests sent for these documents before, as part of a larger batch.
    spent : Usage
        What the larger batch cost, in the first of its pieces.
    estimate : tuple of int
        What a calibration learns from: the estimate of its text by class. Empty where a counter counted, and in a
        piece, of which only its share is known.
    body : bytes or None
        The request, where it is written already. Its documents are the caller's then, who may change them.
    shape : list of int
        Chunks of each document.
    """

    documents: list[list[str]] = field(repr=False)
    positions: NDArray[np.int64]
    tokens: int
    root: int = 0
    attempts: int = 0
    spent: Usage = NO_USAGE
    estimate: tuple[int, ...] = ()
    body: bytes | None = field(default=None, repr=False)
    shape: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.shape:
            self.shape = [len(document) for document in self.documents]

    def slice(self, start: int, stop: int, attempts: int) -> Batch:
        """Take a run of its documents as a batch of its own."""
        n = len(self.documents)
        share = self.tokens * stop // n - self.tokens * start // n  # adds up to the whole, whatever the cuts
        return Batch(self.documents[start:stop], self.positions[start:stop], share, self.root, attempts)

    def split(self, blamed: Sequence[int], attempts: int, spent: Usage = NO_USAGE) -> list[Batch]:
        """Cut out the documents that were blamed, one by one, or else cut in two."""
        n = len(self.documents)
        cuts = sorted({0, n, *blamed, *(position + 1 for position in blamed)}) if blamed else [0, n // 2, n]
        first, *others = [self.slice(start, stop, attempts) for start, stop in pairwise(cuts)]
        return [replace(first, spent=spent), *others]


@dataclass(slots=True, eq=False)
class Outcome:
    """How a batch ended.

    Parameters
    ----------
    batch : Batch
        What was asked.
    embeddings : Embeddings or None
        Its vectors, where it succeeded.
    error : Exception or None
        What the last attempt ended with, where it failed.
    attempts : int
        Requests sent for its documents.
    retries : int
        Those of them that repeated one.
    usage : Usage
        Of all attempts.
    reply : Reply or None
        The last answer, where it was to be kept.
    """

    batch: Batch
    embeddings: Embeddings | None
    error: Exception | None
    attempts: int
    retries: int = 0
    usage: Usage = NO_USAGE
    reply: Reply | None = None

    def failures(self) -> list[Failure]:
        """One a document, by its position in the input."""
        if self.error is None:
            return []
        return [Failure(position, self.error, self.attempts) for position in self.batch.positions.tolist()]


def part_of(call: Call, outcome: Outcome) -> EmbeddingsPart:
    """Make a stream's part of an outcome."""
    documents = outcome.batch.positions
    found = outcome.embeddings
    if found is None:
        found = Assembly(call, np.zeros(len(documents) + 1, np.int64)).result()
    return EmbeddingsPart(
        vectors=found.vectors,
        offsets=found.offsets,
        model=call.model,
        dimensions=call.dimensions,
        encoding_format=call.encoding_format,
        usage=outcome.usage,
        failures=tuple(outcome.failures()),
        documents=documents,
    )


class Assembly:
    """One matrix for all rows of a call, filled as requests land.

    Parameters
    ----------
    call : Call
        Width and dtype.
    offsets : ndarray of int64, shape (n_documents + 1,)
        Rows of each document.
    """

    def __init__(self, call: Call, offsets: NDArray[np.int64]) -> None:
        self._call = call
        self._offsets = offsets
        self._vectors: NDArray[np.int8 | np.uint8] | None = None
        self._landed = np.zeros(len(offsets) - 1, np.bool_)
        self.failures: list[Failure] = []
        self.usage = NO_USAGE

    def add(self, outcome: Outcome) -> None:
        """Take what a batch brought."""
        self.usage += outcome.usage
        self.failures += outcome.failures()
        found = outcome.embeddings
        if found is None:
            return
        positions = outcome.batch.positions
        self._landed[positions] = True
        if len(positions) == len(self._landed):  # one request has it all: its matrix is the call's
            self._vectors = found.vectors
            return
        matrix = self._matrix()
        counts = np.diff(found.offsets)
        starts = self._offsets[positions]
        if len(found.vectors) and int(starts[-1] + counts[-1] - starts[0]) == len(found.vectors):
            matrix[starts[0] : starts[0] + len(found.vectors)] = found.vectors
        else:
            rows = np.repeat(starts - found.offsets[:-1], counts) + np.arange(len(found.vectors))
            matrix[rows] = found.vectors

    def _matrix(self) -> NDArray[np.int8 | np.uint8]:
        if self._vectors is None:
            self._vectors = np.empty((int(self._offsets[-1]), self._call.width), self._call.dtype)
        return self._vectors

    def interrupted(self) -> Embeddings:
        """Return everything that landed in a call that was ended early; what had not is a failure."""
        ended = CtxembedError("the call was ended before this document had landed")
        known = {failure.document for failure in self.failures}
        missing = [int(i) for i in np.flatnonzero(~self._landed) if int(i) not in known]
        self.failures += [Failure(document, ended, 0) for document in missing]
        return self.result()

    def result(self) -> Embeddings:
        """Return everything that landed: failed documents keep their position and own no row."""
        vectors, offsets = self._matrix(), self._offsets
        if not self._landed.all():
            counts = np.diff(offsets)
            vectors = vectors[np.repeat(self._landed, counts)]
            offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.where(self._landed, counts, 0))])
        return Embeddings(
            vectors=vectors,
            offsets=offsets,
            model=self._call.model,
            dimensions=self._call.dimensions,
            encoding_format=self._call.encoding_format,
            usage=self.usage,
            failures=tuple(sorted(self.failures, key=lambda failure: failure.document)),
        )
