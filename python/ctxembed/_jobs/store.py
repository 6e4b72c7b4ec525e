"""What a job writes to, as the job knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ctxembed._models import EncodingFormat
    from ctxembed._results import Usage

__all__ = ["DocumentStore", "FailureRecord", "InFlight", "NewDocument", "StoredDocument"]


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document in the store, as far as a job needs it.

    Parameters
    ----------
    number : int
        Its number, ascending in order of ingestion.
    key : bytes
        Its ``document_key``.
    details : bytes
        Digest of metadata, source and spans.
    first_row, rows : int
        Its rows.
    record : bytes or None
        Digest of the part of the input that it was read from, and of how it was read.
    """

    number: int
    key: bytes
    details: bytes
    first_row: int
    rows: int
    record: bytes | None = None


@dataclass(slots=True)
class NewDocument:
    """A document that was checked, to be stored.

    Parameters
    ----------
    number : int
        Its number: the order in which the documents were read.
    id : str
        Its id.
    key, details : bytes
        As in :class:`StoredDocument`.
    chunks : list of str
        Its chunks.
    metadata : str or None
        JSON.
    fields : tuple of str
        The metadata fields that can be filtered.
    spans : list of (int, int) or None
        One for each chunk.
    source : str or None
        Where it comes from.
    replaces : StoredDocument or None
        The document with this id that is stored.
    place : str or None
        Where it was read, for messages.
    record : bytes or None
        As in :class:`StoredDocument`.
    """

    number: int
    id: str
    key: bytes
    details: bytes
    chunks: list[str]
    metadata: str | None
    fields: tuple[str, ...]
    spans: list[tuple[int, int]] | None
    source: str | None
    replaces: StoredDocument | None = None
    place: str | None = None
    record: bytes | None = None


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """A document that could not be embedded.

    Parameters
    ----------
    id : str
        Its id.
    key : bytes or None
        Its ``document_key``; None where it has none.
    error : str
        Class and message.
    attempts : int
        Requests sent for it.
    """

    id: str
    key: bytes | None
    error: str
    attempts: int


@dataclass(frozen=True, slots=True)
class InFlight:
    """What was handed to the client and has no result yet. If the process is killed, so much may be paid in vain."""

    requests: int = 0
    documents: int = 0
    chunks: int = 0


class DocumentStore(Protocol):
    """The store of a job. All calls but ``find`` are made by one thread at a time."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def dimensions(self) -> int:
        """Of the vectors."""

    @property
    def encoding_format(self) -> EncodingFormat:
        """Of the vectors."""

    @property
    def space(self) -> str | None:
        """The space of the vectors that are stored."""

    @property
    def field_types(self) -> Mapping[str, str]:
        """The declared metadata fields, and the names of their types."""

    def begin(self) -> int:
        """Check that the store can be written, and return the first number for new documents."""

    def find(self, id: str) -> StoredDocument | None:  # noqa: A002
        """Return the stored document with an id."""

    def find_record(self, record: bytes) -> tuple[int, str] | None:
        """Return number and id of the document that follows the one that was found last, if it has this record."""

    def failed_key(self, id: str) -> bytes | None:  # noqa: A002
        """Return the key with which a document failed; None where it did not, or has no key."""

    def vectors_of(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[Any]]:
        """Return the rows of the stored documents and windows that have one of these keys."""

    def commit(
        self,
        documents: Sequence[NewDocument],
        vectors: NDArray[Any] | Sequence[NDArray[Any]],
        *,
        usage: Usage,
        space: str | None,
        windows: Mapping[bytes, NDArray[Any]],
        spent_windows: Sequence[bytes],
        in_flight: InFlight,
    ) -> None:
        """Store documents with their rows, windows of documents that are not complete, and what they cost.

        ``vectors`` are the rows of each document, or one matrix of all of them. All of it is on disk afterwards, or
        nothing.
        """

    def change_details(self, documents: Sequence[NewDocument]) -> None:
        """Store metadata, source and spans of documents whose chunks are unchanged."""

    def set_records(self, records: Sequence[tuple[bytes, int]]) -> None:
        """Store the records (record, number of the document) from which unchanged documents were read."""

    def record_failures(self, failures: Sequence[FailureRecord], usage: Usage) -> None:
        """Store why documents failed, and what that cost."""

    def delete_unseen(self, seen: bytes | bytearray, before: int) -> int:
        """Delete the documents numbered below ``before`` whose byte in ``seen`` is 0, and return how many."""

    def end(self) -> None:
        """Record that nothing is in flight."""
