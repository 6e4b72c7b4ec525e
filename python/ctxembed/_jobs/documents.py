"""Turns what a caller gives as a document into one that can be stored, or says why it cannot be."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ctxembed._documents import Document
from ctxembed._jobs.store import NewDocument

if TYPE_CHECKING:
    from ctxembed._planning.document_key import DocumentKeys

__all__ = [
    "InputBatch",
    "InputDocument",
    "InvalidDocumentError",
    "UnchangedDocument",
    "check_document",
    "document_of",
]

_KEYS: Final = ("id", "chunks", "metadata", "spans", "source")
_RESERVED: Final = ("id", "source")
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
_JSON: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_ASCII: Final = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))


class InvalidDocumentError(ValueError):
    """A document that cannot be stored.

    Attributes
    ----------
    id : str or None
        Its id, if that is one.
    place : str or None
        Where it was read.
    """

    def __init__(self, reason: str, id: str | None, place: str | None = None) -> None:  # noqa: A002
        super().__init__(reason)
        self.id = id
        self.place = place


class UnchangedDocument:
    """A part of the input from which a document was read before, as it is stored.

    Parameters
    ----------
    number : int
        Of the stored document.
    id : str
        Its id.
    file : str
        Where it was read.
    line : int or None
        The line in it.
    """

    __slots__ = ("_file", "_line", "id", "number")

    def __init__(self, number: int, id: str, file: str, line: int | None = None) -> None:  # noqa: A002
        self.number = number
        self.id = id
        self._file = file
        self._line = line

    @property
    def place(self) -> str:
        """The file, and the line in it."""
        return self._file if self._line is None else f"{self._file}, line {self._line}"


@dataclass(slots=True)
class InputDocument:
    """A document of the input.

    Attributes
    ----------
    id : str
        Its id. Nothing here checks that it is unique.
    chunks : list of str
        Its chunks, as the record has them or as the text was cut.
    metadata : dict or None
        The other fields of the record, as JSON values.
    spans : list of (int, int), or None
        Start and end of each chunk in the text that was cut.
    source : str or None
        The path of a file that is one document, or the field ``source`` of a record.
    place : str
        Where it was read, for messages: the file, and the line or row in it.
    record : bytes or None
        Digest of what it was read from, and of how it was read.
    has_valid_texts : bool
        Whether id, chunks and source are known to be valid, and the chunks a list that nobody else has.
    """

    id: str
    chunks: list[str]
    metadata: dict[str, Any] | None = None
    spans: list[tuple[int, int]] | None = None
    source: str | None = None
    place: str = ""
    record: bytes | None = None
    has_valid_texts: bool = field(default=False, repr=False, compare=False)


class InputBatch(list[InputDocument]):
    """Documents that follow each other in the input."""

    at = 0
    """Position of the one that was taken last."""

    @property
    def place(self) -> str:
        """Where that one was read."""
        return self[self.at].place


_DOCUMENTS: Final = (Document, InputDocument)


def document_of(value: object) -> Document | InputDocument:
    """Return what a caller gave as a :class:`Document`: that, a mapping with its fields, or a pair (id, chunks).

    Raises
    ------
    TypeError
        It is none of these.
    """
    if isinstance(value, _DOCUMENTS):
        return value
    if isinstance(value, Mapping):
        unknown = [key for key in value if key not in _KEYS]
        if unknown or "id" not in value or "chunks" not in value:
            got = ", ".join(repr(key) for key in value)
            raise TypeError(
                f"a document as a dict has the keys {', '.join(_KEYS)} (the last three optional), got {got}"
            )
        return Document(**value)
    if isinstance(value, tuple | list) and len(value) == 2:
        return Document(value[0], value[1])
    raise TypeError(f"a document must be a Document, a dict or a pair (id, chunks), got {value!r:.100}")


def check_document(
    document: Document | InputDocument, number: int, keys: DocumentKeys, types: Mapping[str, str]
) -> NewDocument:
    """Check a document, and return it in the form in which it is stored.

    Parameters
    ----------
    document : Document or InputDocument
        The document.
    number : int
        Its number.
    keys : DocumentKeys
        For its key.
    types : mapping of str to str
        The declared metadata fields.

    Raises
    ------
    InvalidDocumentError
        It cannot be stored.
    """
    place: str | None = None
    record: bytes | None = None
    if type(document) is InputDocument:
        place, record = document.place, document.record
        if document.has_valid_texts and document.metadata is None and document.source is None:
            chunks = document.chunks
            return NewDocument(
                number, document.id, keys.key(chunks), b"", chunks, None, (), None, None, None, place, record
            )
    name = _id(document.id)
    try:
        chunks = _chunks(document.chunks)
        key = keys.key(chunks)
        spans = _spans(document.spans, len(chunks))
        source = _source(document.source)
        metadata, fields = _metadata(document.metadata, types)
    except (TypeError, ValueError) as error:
        raise InvalidDocumentError(str(error), name) from None
    if metadata is None and spans is None and source is None:
        details = b""
    else:
        details = hashlib.blake2b(_ASCII.encode([metadata, source, spans]).encode(), digest_size=16).digest()
    return NewDocument(number, name, key, details, chunks, metadata, fields, spans, source, None, place, record)


def _id(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidDocumentError(f"an id must be a non-empty str, got {value!r:.100}", None)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidDocumentError(
                f"the id {value!r:.100} holds a lone surrogate (character {error.start}), which is no text", None
            ) from None
    return str(value)


def _chunks(value: object) -> list[str]:
    if type(value) is not list and (isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable)):
        raise TypeError(f"chunks must be a list of str, got {type(value).__name__}")
    chunks = list(value)
    if not chunks:
        raise ValueError("a document must have at least one chunk")
    if "" in chunks:
        raise ValueError(f"chunks[{chunks.index('')}] is empty")
    return chunks  # what is no str is refused by the key


def _spans(value: Any, count: int) -> list[tuple[int, int]] | None:
    if value is None:
        return None
    try:
        spans = [(int(start), int(stop)) for start, stop in value]
    except (TypeError, ValueError):
        raise TypeError(f"spans must be a sequence of (start, stop), got {value!r:.100}") from None
    if len(spans) != count:
        raise ValueError(f"spans must have one entry per chunk: {len(spans)} spans, {count} chunks")
    for number, (start, stop) in enumerate(spans):
        if not 0 <= start <= stop < 1 << 62:
            raise ValueError(f"spans[{number}] must be 0 <= start <= stop, got ({start}, {stop})")
    return spans


def _source(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"source must be a str or None, got {type(value).__name__}")
    # The bytes of a path that are no UTF-8 stand as lone surrogates in Python.
    return str(value) if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def _metadata(value: Any, types: Mapping[str, str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the metadata as JSON, and the names of the fields that can be filtered."""
    if value is None:
        return None, ()
    if not isinstance(value, Mapping):
        raise TypeError(f"metadata must be a mapping, got {type(value).__name__}")
    fields = []
    for name, content in value.items():
        if not isinstance(name, str):
            raise TypeError(f"a metadata field must be named by a str, got {name!r:.100}")
        if name in _RESERVED or "\0" in name:
            raise ValueError(f"a metadata field may not be named {name!r:.100}")
        if content is None or isinstance(content, str | int | float):
            fields.append(name)
        if name in types:
            _check_type(name, content, types[name])
    value = value if type(value) is dict else dict(value)
    try:
        text = _JSON.encode(value)
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"metadata holds a lone surrogate (character {error.start} of its JSON), which is no text"
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        found = [name for name, content in value.items() if isinstance(content, float) and not math.isfinite(content)]
        named = f" (field {found[0]!r})" if found else ""
        raise ValueError(f"metadata must be JSON{named}: {error}") from None
    return text, tuple(fields)


def _check_type(name: str, content: object, declared: str) -> None:
    fits = isinstance(content, _TYPES[declared]) and (declared == "bool") == isinstance(content, bool)
    if content is not None and not fits:
        raise TypeError(f"the metadata field {name!r} is declared as {declared}, got {content!r:.100}")
