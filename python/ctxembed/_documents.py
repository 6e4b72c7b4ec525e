"""Documents of a collection, and what a collection returns: hits, reports, statistics. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ctxembed._results import NO_USAGE, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal

__all__ = [
    "CollectionStats",
    "Document",
    "ExportReport",
    "FailedDocument",
    "Hit",
    "IngestProgress",
    "IngestReport",
    "MigrationReport",
    "NearDuplicate",
    "StoredGeneration",
]


@dataclass(frozen=True, slots=True)
class Document:
    """A document to store in a collection, or one that is stored.

    Parameters
    ----------
    id : str
        Unique in the collection.
    chunks : list of str
        The chunks in their order. A document from a collection without text (``store_text=False``) has an empty list.
    metadata : mapping of str to JSON values, optional
        Top-level strings, numbers, bools and None can be filtered by ``where``. No field is named ``id`` or ``source``.
    spans : sequence of (int, int), optional
        Where each chunk stands in its source, in characters.
    source : str, optional
        Where the document comes from, such as a path or a URL.

    Notes
    -----
    Nothing is checked here: a document that cannot be stored fails alone when it is ingested.
    """

    id: str
    chunks: Sequence[str]
    metadata: Mapping[str, Any] | None = None
    spans: Sequence[tuple[int, int]] | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that a search found.

    Parameters
    ----------
    document : str
        Id of the document.
    chunk : int
        Position of the chunk in the document.
    score : float
        What hits are ranked by, higher first. Of a hybrid search the sum of reciprocal ranks, which is no similarity.
    text : str or None
        The chunk; None in a collection without text.
    metadata : dict
        Of the document; empty where it has none.
    span : (int, int) or None
        Where the chunk stands in its source, in characters.
    vector_score : float or None
        Cosine of int8 vectors. Of packed bits ``1 - distance / dimensions``, or the cosine of an int8 query with the
        bits as +1 and -1.
    text_score : float or None
        BM25 score of the words in a hybrid search, 0.0 where the chunk has none of them; else None.
    source : str or None
        Source of the document.
    passage : str or None
        The text of the chunk and of its neighbours: of the chunk alone without ``neighbours=``. Text in which chunks
        overlap by their spans stands once.
    passage_chunks : (int, int) or None
        The chunks of the passage: the first, and the one behind the last.
    passage_span : (int, int) or None
        Where the passage stands in its source, in characters; None where its chunks have no spans.
    passage_offset : int or None
        Where ``text`` begins in the passage: ``passage[passage_offset:][:len(text)] == text``.
    """

    document: str
    chunk: int
    score: float
    text: str | None
    metadata: dict[str, Any] = field(default_factory=dict)
    span: tuple[int, int] | None = None
    vector_score: float | None = None
    text_score: float | None = None
    source: str | None = None
    passage: str | None = None
    passage_chunks: tuple[int, int] | None = None
    passage_span: tuple[int, int] | None = None
    passage_offset: int | None = None


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two documents with chunks that are near each other.

    Parameters
    ----------
    documents : (str, str)
        Their ids, in order of ingestion.
    chunks : (int, int)
        The nearest two chunks: one of each document.
    score : float
        Of these two chunks: the cosine of int8 vectors, and of packed bits ``1 - distance / dimensions``.
    pairs : int
        How many pairs of their chunks reach the threshold.
    """

    documents: tuple[str, str]
    chunks: tuple[int, int]
    score: float
    pairs: int


@dataclass(frozen=True, slots=True)
class FailedDocument:
    """A document that could not be embedded.

    Parameters
    ----------
    id : str
        Its id.
    error : str
        Class and message of the error.
    attempts : int
        Requests sent for it; 0 where it was refused before.
    when : datetime
        When it failed, in UTC.
    """

    id: str
    error: str
    attempts: int
    when: datetime


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What :meth:`Collection.ingest` did.

    Parameters
    ----------
    added, updated, unchanged, deleted, failed : int
        Documents: new ones, ones with other chunks or metadata than before, ones that stay as they are, ones that
        ``prune=True`` deleted, ones that could not be embedded, or failed before and were not sent again.
    usage : Usage
        Tokens and cost of the requests.
    stopped : {None, "max_cost_usd", "max_errors", "interrupted"}
        Why it ended before the last document. None: it did not.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    failed: int = 0
    usage: Usage = NO_USAGE
    stopped: str | None = None


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """How far an ingestion is.

    Parameters
    ----------
    documents_read, documents_done : int
        Documents of the input so far, and those that need nothing more: stored, unchanged or failed.
    added, updated, unchanged, failed : int
        As in :class:`IngestReport`.
    chunks : int
        Chunks stored.
    usage : Usage
        Tokens and cost of the requests so far.
    cost_usd : Decimal
        Cost so far; where it is not reported, at list price.
    in_flight : int
        Requests without a response yet.
    retries : int
        Attempts that repeated one.
    seconds : float
        Since the ingestion began.
    waiting_since : float or None
        ``time.monotonic()`` since which the API is down; None where it is not.
    """

    documents_read: int
    documents_done: int
    added: int
    updated: int
    unchanged: int
    failed: int
    chunks: int
    usage: Usage
    cost_usd: Decimal
    in_flight: int
    retries: int
    seconds: float
    waiting_since: float | None = None


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What :meth:`Collection.migrate` or :meth:`Collection.rollback` did.

    Parameters
    ----------
    model, encoding_format : str
        Of the generation that it is about.
    dimensions : int
        Of its vectors.
    switched : bool
        Whether searches are answered from it now.
    embedded, unchanged : int
        Documents that this call embedded, or that a dry run would send, and those whose vectors were there.
    usage : Usage
        Tokens and cost of the requests.
    stopped : {None, "max_cost_usd", "max_errors", "interrupted", "not accepted", "dry run"}
        Why there was no switch. The same call goes on.
    requests, tokens : int
        What was sent. Of a dry run an estimate with a margin, unless a token counter counts.
    cost_usd : Decimal or None
        As reported. Of a dry run the list price of the tokens. None where it is not known.
    comparison : tuple of (Evaluation, Evaluation) or None
        Results of the judgements that were given: of the old generation, and of the new one.
    """

    model: str
    dimensions: int
    encoding_format: str
    switched: bool
    embedded: int = 0
    unchanged: int = 0
    usage: Usage = NO_USAGE
    stopped: str | None = None
    requests: int = 0
    tokens: int = 0
    cost_usd: Decimal | None = None
    comparison: tuple[Any, Any] | None = None


@dataclass(frozen=True, slots=True)
class StoredGeneration:
    """The vectors of a collection by one model.

    Parameters
    ----------
    number : int
        Ascending: the one that is searched has a higher number than those that were kept.
    state : {"searched", "kept", "under way"}
        "kept" by ``migrate(..., keep_old=True)``; "under way": a migration fills it.
    model, encoding_format : str
        How its documents were embedded.
    dimensions : int
        Of each vector.
    space : str or None
        Name of the vector space.
    documents, chunks : int
        What it has vectors of.
    bytes : int
        Size of its files. Of those that are not searched, files that the collection shares with them count too.
    """

    number: int
    state: str
    model: str
    dimensions: int
    encoding_format: str
    space: str | None
    documents: int
    chunks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What :meth:`Collection.export` wrote.

    Parameters
    ----------
    format : str
        The format.
    vectors : {"int8", "bytes", "bits", "float16", "float32"}
        What the vectors became.
    chunks : int
        Rows written.
    files : tuple of str
        Paths: the target first.
    note : str or None
        Why the format does not get int8; None where it can, or the collection has bits.
    """

    format: str
    vectors: str
    chunks: int
    files: tuple[str, ...]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """The size of a collection, and what it has cost.

    Parameters
    ----------
    documents, chunks : int
        What can be found.
    deleted_chunks : int
        Rows of deleted and replaced documents, which ``compact`` removes.
    failed : int
        Documents that could not be embedded.
    segments : int
        Sealed files of vectors.
    bytes : int
        Size of all files.
    model, encoding_format : str
        How documents are embedded.
    dimensions : int
        Of each vector.
    space : str or None
        Name of the vector space, once vectors are stored.
    usage : Usage
        Tokens and cost of all responses. ``usage.discarded`` is the part that was paid for nothing.
    """

    documents: int
    chunks: int
    deleted_chunks: int
    failed: int
    segments: int
    bytes: int
    model: str
    dimensions: int
    encoding_format: str
    space: str | None
    usage: Usage
