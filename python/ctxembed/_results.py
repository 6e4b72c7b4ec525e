"""The results of embedding: the matrix with the rows of each document, usage, failures, problems."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar

import numpy as np

from ctxembed import _core
from ctxembed._costs import add_costs
from ctxembed._errors import CtxembedError
from ctxembed._models import registered_space
from ctxembed._parsed_response import parse_response

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    import pyarrow as pa
    from numpy.typing import NDArray

    from ctxembed._models import EncodingFormat, InputType

__all__ = [
    "NO_USAGE",
    "EmbedError",
    "Embeddings",
    "Failure",
    "InvalidDocumentsError",
    "Problem",
    "Usage",
    "document_rows",
]


def document_rows(vectors: NDArray[Any], offsets: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    """Iterate over the rows of each document, as views."""
    return (vectors[start:stop] for start, stop in pairwise(offsets.tolist()))


@_core.register_class
@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and cost of requests, as the API reports them.

    Parameters
    ----------
    prompt_tokens, total_tokens : int or None
        Tokens as reported; None where no response reported them.
    cost_usd : Decimal or None
        ``usage.cost.total_cost``, exactly as in the response; None where no response reported it. A number that is no
        plausible cost counts as not reported: one that is negative, or has more than 40 digits on either side of the
        point. Sums are exact, whatever the decimal context.
    requests : int
        Responses that these numbers come from.
    discarded : Usage or None
        The part for discarded responses: invalid ones, and hedges that came second. None where there were none.
    unreported : int
        Requests without a reported usage: the connection broke, the request timed out, or a hedge was cancelled. They
        may have been charged.

    Examples
    --------
    >>> from decimal import Decimal
    >>> Usage(10, 10, Decimal("0.00000008"), 1) + Usage(5, 5, Decimal("0.00000004"), 1)
    Usage(prompt_tokens=15, total_tokens=15, cost_usd=Decimal('1.2E-7'), requests=2)
    >>> (Usage(10, 10, None, 1) + Usage(5, 5, None, 1).thrown_away()).discarded
    Usage(prompt_tokens=5, total_tokens=5, cost_usd=None, requests=1)
    """

    prompt_tokens: int | None = None
    total_tokens: int | None = None
    cost_usd: Decimal | None = None
    requests: int = 0
    discarded: Usage | None = field(default=None, repr=False)
    unreported: int = field(default=0, repr=False)

    def __add__(self, other: Usage) -> Usage:
        """Add field by field. None counts as unknown: the sum is the other value."""
        if not isinstance(other, Usage):
            return NotImplemented
        if self is NO_USAGE or other is NO_USAGE:
            return other if self is NO_USAGE else self
        return Usage(
            _sum(self.prompt_tokens, other.prompt_tokens),
            _sum(self.total_tokens, other.total_tokens),
            self.cost_usd if other.cost_usd is None else _sum_of_costs(self.cost_usd, other.cost_usd),
            self.requests + other.requests,
            _sum(self.discarded, other.discarded),
            self.unreported + other.unreported,
        )

    def thrown_away(self) -> Usage:
        """Return the same usage, counted as discarded."""
        return replace(self, discarded=replace(self, discarded=None, unreported=0)) if self.requests else self


NO_USAGE: Final = Usage()
"""The usage of nothing. Adding to it creates no object."""

_T = TypeVar("_T", int, Usage)


def _sum(a: _T | None, b: _T | None) -> _T | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _sum_of_costs(a: Decimal | None, b: Decimal) -> Decimal:
    return b if a is None else add_costs(a, b)


@dataclass(frozen=True, slots=True)
class Failure:
    """A document without vectors, and its error.

    Parameters
    ----------
    document : int
        Position in the input.
    error : Exception
        The error of the last attempt, or of the check before the first.
    attempts : int
        Requests sent for it; 0 where it was found invalid before anything was sent.
    """

    document: int
    error: Exception
    attempts: int


@_core.register_class
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Embeddings:
    """The vectors of all chunks of some documents.

    Parameters
    ----------
    vectors : ndarray, shape (n_chunks, width)
        One row a chunk, documents in input order, chunks in source order. int8 with ``width == dimensions``, or
        uint8 with ``width == dimensions // 8``, least significant bit first.
    offsets : ndarray of int64, shape (n_documents + 1,)
        The rows of document ``i`` are ``offsets[i]:offsets[i + 1]``; a failed document has none.
    model : str or None
        Name of the model in the response.
    dimensions : int
        Dimensions of a vector.
    encoding_format : {"base64_int8", "base64_binary"}
        Encoding of ``vectors``.
    usage : Usage
        Tokens and cost as reported, summed over the requests.
    failures : tuple of Failure
        The documents without vectors.
    space : str or None
        Name of the vector space: vectors of one space can be compared. None where it is not known.
    input_type : {"document", "query"} or None
        The role with which they were embedded; None for a model without input types.

    Notes
    -----
    Immutable. int8 vectors are not normalised: the API rounds ``127 * tanh(x)``. Compare them by cosine.

    Examples
    --------
    >>> chunks = [{"embedding": "AQID"}, {"embedding": "BAUG"}]
    >>> emb = Embeddings.from_response({"data": [{"data": chunks}]})
    >>> emb
    Embeddings(1 documents, 2 chunks, 3 dimensions, base64_int8, model=None)
    >>> emb[0]
    array([[1, 2, 3],
           [4, 5, 6]], dtype=int8)
    """

    vectors: NDArray[Any]  # int8 or uint8; a union would make every typed caller cast
    offsets: NDArray[np.int64]
    model: str | None
    dimensions: int
    encoding_format: EncodingFormat
    usage: Usage = Usage()
    failures: tuple[Failure, ...] = ()
    space: str | None = None
    input_type: InputType | None = None

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.offsets) - 1

    def __getitem__(self, document: int) -> NDArray[Any]:
        """Return the rows of one document, shape (its chunks, width), as a view. Negative positions are allowed."""
        try:
            position = operator.index(document)
        except TypeError:
            raise TypeError(f"the position of one document must be an int, got {document!r}") from None
        n = len(self)
        if not -n <= position < n:
            raise IndexError(f"document {position} is out of range for {n} documents")
        position %= n
        return self.vectors[self.offsets[position] : self.offsets[position + 1]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Iterate over the documents, as views."""
        return document_rows(self.vectors, self.offsets)

    def __repr__(self) -> str:
        """Show sizes, never the vectors."""
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return (
            f"Embeddings({len(self)} documents{failed}, {len(self.vectors)} chunks, {self.dimensions} dimensions, "
            f"{self.encoding_format}, model={self.model!r})"
        )

    @classmethod
    def from_response(
        cls,
        response: object,
        *,
        encoding_format: EncodingFormat = "base64_int8",
        space: str | None = None,
        input_type: InputType | None = None,
    ) -> Self:
        """Create embeddings from a response that another client has parsed.

        Parameters
        ----------
        response : object or dict
            The official package's response object (of either embeddings endpoint), or the same as a dict.
        encoding_format : {"base64_int8", "base64_binary"}
            As requested. The response does not contain it.
        space : str, optional
            The vector space, if a server named it (header ``x-ctxembed-space``). Default: that of the model in the
            response, if it is registered.
        input_type : {"document", "query"}, optional
            As requested. The response does not contain it.

        Raises
        ------
        DecodeError
            As for :func:`decode_response`; ``offset`` counts bytes of the one base64 string at fault.
        TypeError
            ``response`` has no ``data``.
        """
        vectors, offsets, model, dimensions, usage = parse_response(response, encoding_format)
        if space is None and model is not None:
            space = registered_space(model, dimensions)
        return cls(
            vectors,
            offsets,
            model,
            dimensions,
            encoding_format,
            Usage(*usage, requests=1),
            space=space,
            input_type=input_type,
        )

    def truncate(self, dims: int) -> Self:
        """Return a copy with the first ``dims`` dimensions of every vector (Matryoshka), in the space of these.

        Raises
        ------
        ValueError
            ``dims`` is not from 1 to ``dimensions``, or not a multiple of 8 for bits.
        """
        vectors = _core.truncate(self.vectors, dims)
        space = None if self.space is None else _core.space_of_prefix(self.space, self.dimensions, int(dims))
        return replace(self, vectors=vectors, dimensions=int(dims), space=space)

    def to_binary(self) -> Self:
        """Return the same documents as packed bits, least significant bit first: 1 where the value is >= 0.

        Binary embeddings return themselves.
        """
        if self.encoding_format == "base64_binary":
            return self
        return replace(self, vectors=_core.pack_bits(self.vectors), encoding_format="base64_binary")

    def normalized(self) -> NDArray[np.float32]:
        """Return float32 unit vectors, shape (n_chunks, dimensions). Zero vectors stay zero; bits become +1 and -1."""
        if self.encoding_format == "base64_binary":
            return _core.normalize(_core.unpack_bits(self.vectors))
        return _core.normalize(self.vectors)

    def to_arrow(self) -> pa.Table:
        """Return a table with one row a chunk: ``document`` and ``chunk`` (int64), ``vector`` (fixed-size list).

        Needs ``pyarrow`` (``pip install 'ctxembed[arrow]'``). The vectors are not copied.
        """
        import pyarrow as pa

        counts = np.diff(self.offsets)
        documents = np.repeat(np.arange(len(self), dtype=np.int64), counts)
        chunks = np.arange(len(self.vectors), dtype=np.int64) - np.repeat(self.offsets[:-1], counts)
        vector = pa.FixedSizeListArray.from_arrays(pa.array(self.vectors.reshape(-1)), self.vectors.shape[1])
        return pa.table({"document": documents, "chunk": chunks, "vector": vector})


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that the API would refuse, or that would damage its response.

    Attributes
    ----------
    document : int
        Position in the input.
    chunk : int or None
        Position in the document; None for a problem of the whole document.
    reason : str
        What is wrong and what was expected.
    """

    document: int
    chunk: int | None
    reason: str
    subject: str = field(default="document", repr=False, compare=False)
    """What a document is called in messages: ``"query"`` or ``"text"`` where each has one chunk."""

    def __str__(self) -> str:
        chunk = "" if self.chunk is None or self.subject != "document" else f", chunk {self.chunk}"
        return f"{self.subject} {self.document}{chunk}: {self.reason}"


class EmbedError(CtxembedError):
    """Some documents were not embedded.

    Attributes
    ----------
    partial : Embeddings
        All that succeeded: every document keeps its position, a failed one has no rows.
    failures : tuple of Failure
        The documents that failed, each with its error.
    """

    code: ClassVar[str] = "CTX-016"

    def __init__(self, message: str, partial: Embeddings, failures: tuple[Failure, ...]) -> None:
        super().__init__(message)
        self.message = message
        self.partial = partial
        self.failures = failures

    def _arguments(self) -> tuple[Any, ...]:
        return (self.message, self.partial, self.failures)


class InvalidDocumentsError(EmbedError, ValueError):
    """Documents that the API would refuse. Nothing was sent, and nothing was paid.

    Attributes
    ----------
    problems : tuple of Problem
        Every (document, chunk, reason) found.
    """

    code: ClassVar[str] = "CTX-017"

    def __init__(
        self, message: str, partial: Embeddings, failures: tuple[Failure, ...], problems: tuple[Problem, ...]
    ) -> None:
        super().__init__(message, partial, failures)
        self.problems = problems

    def _arguments(self) -> tuple[Any, ...]:
        return (self.message, self.partial, self.failures, self.problems)
