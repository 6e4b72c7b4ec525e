"""The batches of a call, their outcomes, and the assembly of one matrix from them. No I/O."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from ctxembed._errors import ClosedClientError, CtxembedError, DocumentError, SpaceError
from ctxembed._results import NO_USAGE, Embeddings, EmbedError, Failure, InvalidDocumentsError, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ctxembed._client._http.body import Response
    from ctxembed._client.endpoint import RequestTemplate
    from ctxembed._planning.prepare import PreparedDocuments
    from ctxembed._results import Problem

__all__ = [
    "Assembly",
    "Batch",
    "EmbeddingsPart",
    "Outcome",
    "PlannedCall",
    "attach_no_vectors",
    "attach_partial",
    "batches_of",
    "failures_of",
    "part_of",
    "plan_call",
    "result_or_error",
    "single_result",
]


_PLURAL: Final = {"document": "documents", "query": "queries", "text": "texts"}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EmbeddingsPart(Embeddings):
    """The embeddings of one request of a stream, with the positions of its documents.

    Parameters
    ----------
    documents : ndarray of int64, shape (n_documents,)
        Position of each document in the stream's input. The positions in ``failures`` are also those of the input.
    """

    documents: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(slots=True, eq=False)
class Batch:
    """The documents of one planned request.

    Parameters
    ----------
    documents : list of list of str
        The documents.
    positions : ndarray of int64
        Their positions in the input, ascending.
    tokens : int
        Estimated tokens, separators included.
    root : int
        Number of the planned request that this batch is, or is a piece of.
    attempts : int
        Requests sent for these documents before, as part of a larger batch.
    spent : Usage
        Usage of the larger batch, in the first of its pieces.
    estimate : tuple of int
        Estimated tokens of its text by class, for the calibration. Empty where a counter counted, and in a piece, of
        which only the share is known.
    body : bytes or None
        The body of the request, where it is written already. The caller may change the documents then.
    shape : list of int
        Chunks of each document.
    keys : list of bytes
        The key of each document, for the journal. Empty without a journal.
    alone : bool
        Whether its one document shares no request, because it may be too large.
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
    keys: list[bytes] = field(default_factory=list, repr=False)
    alone: bool = False

    def __post_init__(self) -> None:
        if not self.shape:
            self.shape = [len(document) for document in self.documents]

    def slice(self, start: int, stop: int, attempts: int) -> Batch:
        """Return a range of its documents as a batch."""
        n = len(self.documents)
        share = self.tokens * stop // n - self.tokens * start // n  # the shares add up to the whole
        keys = self.keys[start:stop]
        return Batch(self.documents[start:stop], self.positions[start:stop], share, self.root, attempts, keys=keys)

    def split(self, refused: Sequence[int], attempts: int, spent: Usage = NO_USAGE) -> list[Batch]:
        """Isolate the refused documents, or cut the batch in two where none is named."""
        n = len(self.documents)
        cuts = sorted({0, n, *refused, *(position + 1 for position in refused)}) if refused else [0, n // 2, n]
        first, *others = [self.slice(start, stop, attempts) for start, stop in pairwise(cuts)]
        return [replace(first, spent=spent), *others]


@dataclass(slots=True, eq=False)
class Outcome:
    """The end of a batch.

    Parameters
    ----------
    batch : Batch
        The batch.
    embeddings : Embeddings or None
        Its vectors, where it succeeded.
    error : Exception or None
        The error of its last attempt, where it failed.
    attempts : int
        Requests sent for its documents.
    retries : int
        Attempts that repeated one.
    usage : Usage
        Usage of all attempts.
    response : Response or None
        The last response, where it was to be kept.
    """

    batch: Batch
    embeddings: Embeddings | None
    error: Exception | None
    attempts: int
    retries: int = 0
    usage: Usage = NO_USAGE
    response: Response | None = None

    def failures(self) -> list[Failure]:
        """Return one failure a document, by its position in the input."""
        if self.error is None:
            return []
        return [Failure(position, self.error, self.attempts) for position in self.batch.positions.tolist()]


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A call whose documents are checked and divided into batches.

    Parameters
    ----------
    template : RequestTemplate
        What all its requests have in common.
    documents : list of list of str
        All documents.
    offsets : ndarray of int64
        The rows of document ``i`` are ``offsets[i]:offsets[i + 1]``.
    batches : list of Batch
        The planned requests.
    invalid : tuple of Failure
        Documents with problems, which are in no batch.
    subject : str
        What a document is called in messages: "document", "query" or "text".
    copies : dict of int to list of int
        Documents of equal content, which are in no batch, by the position of the first of them.
    known : dict of int to ndarray
        The rows of the documents that the journal knows, which are in no batch, by position.
    """

    template: RequestTemplate
    documents: list[list[str]]
    offsets: NDArray[np.int64]
    batches: list[Batch]
    invalid: tuple[Failure, ...] = ()
    subject: str = "document"
    copies: Mapping[int, list[int]] = field(default_factory=dict)
    known: Mapping[int, NDArray[np.int8 | np.uint8]] = field(default_factory=dict)

    @property
    def chunks(self) -> int:
        """Chunks of all documents."""
        return int(self.offsets[-1])

    def assembly(self) -> Assembly:
        """Create the assembly of the outcomes, which holds the invalid and the known documents already."""
        assembly = Assembly(self.template, self.offsets, self.subject, self.copies)
        assembly.failures += self.invalid
        for position, rows in self.known.items():
            assembly.add_known(position, rows)
        return assembly


def plan_call(
    template: RequestTemplate, prepared: PreparedDocuments, on_error: str, subject: str = "document"
) -> PlannedCall:
    """Create the batches of prepared documents.

    Raises
    ------
    InvalidDocumentsError
        With ``on_error="raise"``, where the API would refuse a document.
    """
    batches, problems = batches_of(prepared), prepared.problems
    if subject != "document":
        problems = tuple(replace(problem, subject=subject) for problem in problems)
    planned = PlannedCall(template, prepared.documents, prepared.offsets, batches, failures_of(problems), subject)
    if planned.invalid and on_error == "raise":
        invalid = planned.invalid
        message = (
            f"nothing was sent: the API would refuse {len(invalid)} of {len(planned.documents)} {_PLURAL[subject]}; "
            f"{invalid[0].error}" + ("" if len(invalid) == 1 else f"; ... and {len(invalid) - 1} more in .problems")
        )
        raise InvalidDocumentsError(message, planned.assembly().result(), invalid, problems)
    return planned


def batches_of(prepared: PreparedDocuments, keys: Mapping[int, bytes] | None = None) -> list[Batch]:
    """Create the batches of prepared documents, with the key of each document where ``keys`` has them."""
    batches = []
    for root, positions in enumerate(prepared.requests):
        at = positions.tolist()
        batch = Batch(
            [prepared.documents[position] for position in at],
            positions,
            int(prepared.tokens[positions].sum()),
            root,
            estimate=prepared.estimate_of(positions),
            alone=bool(prepared.alone[at[0]]),
        )
        if keys is not None:
            batch.keys = [keys[position] for position in at]
        batches.append(batch)
    return batches


def failures_of(problems: Sequence[Problem]) -> tuple[Failure, ...]:
    """Return one failure for each document with problems: its first problem."""
    first: dict[int, Failure] = {}
    for problem in problems:
        error = DocumentError(problem.document, problem.chunk, problem.reason, problem.subject)
        first.setdefault(problem.document, Failure(problem.document, error, 0))
    return tuple(first.values())


class Assembly:
    """Assemble one matrix from the outcomes of a call.

    Parameters
    ----------
    template : RequestTemplate
        Width and dtype of the vectors.
    offsets : ndarray of int64, shape (n_documents + 1,)
        The rows of document ``i`` are ``offsets[i]:offsets[i + 1]``.
    subject, copies
        As in :class:`PlannedCall`.
    """

    def __init__(
        self,
        template: RequestTemplate,
        offsets: NDArray[np.int64],
        subject: str = "document",
        copies: Mapping[int, list[int]] | None = None,
    ) -> None:
        self.subject = subject
        self._copies = copies or {}
        self._has_known = False
        self._template = template
        self._offsets = offsets
        self._vectors: NDArray[np.int8 | np.uint8] | None = None
        self._has_rows = np.zeros(len(offsets) - 1, np.bool_)
        self._space: str | None = None
        self.failures: list[Failure] = []
        self.usage = NO_USAGE

    def add(self, outcome: Outcome) -> None:
        """Add the vectors and failures of a batch."""
        self.usage += outcome.usage
        found, error = outcome.embeddings, outcome.error
        if found is None:
            if error is not None:
                self._fail(outcome, error)
            return
        positions = outcome.batch.positions
        if self._space is None:
            self._space = found.space
        elif found.space != self._space:  # servers behind one address may differ
            error = SpaceError(
                f"the response holds vectors of the space {found.space!r}, and those before it of {self._space!r}"
            )
            self._fail(outcome, error)
            return
        self._has_rows[positions] = True
        if len(positions) == len(self._has_rows):  # one request holds all documents: its matrix is the call's
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
        if self._copies:
            for position, vectors in zip(positions.tolist(), found, strict=True):
                self._add_rows(self._copies.get(position, ()), vectors)

    def add_known(self, position: int, vectors: NDArray[np.int8 | np.uint8]) -> None:
        """Add the rows of a document that was not requested, and of its copies."""
        self._has_known = True
        self._add_rows([position, *self._copies.get(position, ())], vectors)

    def _add_rows(self, positions: Sequence[int], vectors: NDArray[np.int8 | np.uint8]) -> None:
        for position in positions:
            self._matrix()[self._offsets[position] : self._offsets[position + 1]] = vectors
            self._has_rows[position] = True

    def _fail(self, outcome: Outcome, error: Exception) -> None:
        for position in outcome.batch.positions.tolist():
            failed = [position, *self._copies.get(position, ())]
            self.failures += [Failure(document, error, outcome.attempts) for document in failed]

    def _matrix(self) -> NDArray[np.int8 | np.uint8]:
        if self._vectors is None:
            self._vectors = np.empty((int(self._offsets[-1]), self._template.width), self._template.dtype)
        return self._vectors

    def interrupted_result(self) -> Embeddings:
        """Return the vectors of a call that ended early; documents without vectors are failures."""
        error = CtxembedError("the call ended before this document had its vectors")
        known = {failure.document for failure in self.failures}
        missing = [document for document in np.flatnonzero(~self._has_rows).tolist() if document not in known]
        self.failures += [Failure(document, error, 0) for document in missing]
        return self.result()

    def result(self) -> Embeddings:
        """Return all vectors. A failed document keeps its position and owns no row."""
        vectors, offsets = self._matrix(), self._offsets
        if not self._has_rows.all():
            counts = np.diff(offsets)
            vectors = vectors[np.repeat(self._has_rows, counts)]
            offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.where(self._has_rows, counts, 0))])
        return Embeddings(
            vectors=vectors,
            offsets=offsets,
            model=self._template.model,
            dimensions=self._template.dimensions,
            encoding_format=self._template.encoding_format,
            usage=self.usage,
            failures=tuple(sorted(self.failures, key=lambda failure: failure.document)),
            space=self._result_space(),
            input_type=self._template.input_type,
        )

    def _result_space(self) -> str | None:
        """Return the space of the vectors. A journal does not say from which server its rows came."""
        return self._space if self._space is not None or self._has_known else self._template.space


def result_or_error(assembly: Assembly, on_error: str) -> Embeddings:
    """Return the embeddings of a call, or raise :class:`EmbedError` where documents failed.

    Raises
    ------
    EmbedError
        With ``on_error="raise"``, where documents failed.
    """
    result = assembly.result()
    if not result.failures or on_error == "return":
        return result
    first = next((failure for failure in result.failures if failure.attempts), result.failures[0])
    message = (
        f"{len(result.failures)} of {len(result)} {_PLURAL[assembly.subject]} were not embedded "
        f"(.partial holds the others); {assembly.subject} {first.document}: {type(first.error).__name__}: {first.error}"
    )
    raise EmbedError(message, result, result.failures) from first.error


def single_result(outcome: Outcome) -> Embeddings:
    """Return the embeddings of a single request, with the usage of all its attempts, or raise its error."""
    if outcome.embeddings is None:
        raise outcome.error if outcome.error is not None else ClosedClientError("the request did not end")
    found = outcome.embeddings
    return found if outcome.usage is found.usage else replace(found, usage=outcome.usage)


@contextlib.contextmanager
def attach_partial(assembly: Assembly) -> Iterator[None]:
    """Attach the vectors so far as ``.partial`` to an exception that ends a call early, such as Ctrl-C."""
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(Exception):  # a class that takes no attribute
            error.partial = assembly.interrupted_result()  # type: ignore[attr-defined]
        raise


@contextlib.contextmanager
def attach_no_vectors(template: RequestTemplate) -> Iterator[None]:
    """Attach a ``.partial`` without documents to an interruption, such as Ctrl-C, before anything was sent."""
    try:
        yield
    except Exception:
        raise
    except BaseException as interrupt:
        with contextlib.suppress(Exception):
            interrupt.partial = Assembly(template, np.zeros(1, np.int64)).result()  # type: ignore[attr-defined]
        raise


def part_of(template: RequestTemplate, outcome: Outcome) -> EmbeddingsPart:
    """Create the part of a stream from an outcome."""
    documents = outcome.batch.positions
    found = outcome.embeddings
    if found is None:
        found = Assembly(template, np.zeros(len(documents) + 1, np.int64)).result()
    return EmbeddingsPart(
        vectors=found.vectors,
        offsets=found.offsets,
        model=template.model,
        dimensions=template.dimensions,
        encoding_format=template.encoding_format,
        usage=outcome.usage,
        failures=tuple(outcome.failures()),
        space=found.space,
        input_type=template.input_type,
        documents=documents,
    )
