"""The exceptions of ctxembed. :class:`EmbedError`, which carries results, is defined beside these in ``_results``.

::

    CtxembedError
    ├── APIError                     a request to the API failed
    │   ├── APIConnectionError       no response: DNS, TCP, TLS, a broken connection
    │   │   └── APITimeoutError      no complete response in time
    │   ├── APIStatusError           a response with a 4xx or 5xx status, or a redirect
    │   │   ├── BadRequestError            400
    │   │   ├── AuthenticationError        401
    │   │   ├── PermissionDeniedError      403
    │   │   ├── NotFoundError              404
    │   │   ├── UnprocessableEntityError   also a ValueError: 422
    │   │   ├── RateLimitError             429
    │   │   └── InternalServerError        5xx
    │   └── BadResponseError         an invalid 200 response
    ├── DecodeError                  also a ValueError: invalid bytes, with their position
    ├── DocumentError                also a ValueError: a document or chunk that the API would reject
    ├── ChunkOrderError              also a ValueError: chunks that do not make up their document in one order
    ├── EmbedError                   some documents were not embedded; ``.partial`` holds the others
    │   └── InvalidDocumentsError    also a ValueError: documents rejected before anything was sent
    ├── MissingShardsError           shards of an index that did not answer
    ├── MissingKeyError              also a ValueError: no API key, neither given nor in the environment
    ├── IndexFileError               a file that is not an index, is damaged, or is of a newer version
    ├── CollectionError              a folder that is not a collection, is damaged, or is of a newer version
    │   └── CollectionLockedError    another process writes to the collection
    ├── LimiterError                 what listens at the address of a limiter is none, or refused a request
    └── ClosedClientError            also a RuntimeError: a call on a client after ``close()``

Invalid arguments raise ``TypeError`` or ``ValueError``, and failing disk operations raise ``OSError``. Every exception
here pickles with its ``__cause__`` and never holds the key. A cause from another package keeps its arguments only.

Each class has a ``code`` of its own, which ``docs/errors.md`` explains. A code never changes and is never reused: a new
class takes the next free number, and the code of a removed class stays listed as retired.
"""

from __future__ import annotations

import pickle
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ctxembed import _core

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "BadResponseError",
    "ChunkOrderError",
    "ClosedClientError",
    "CollectionError",
    "CollectionLockedError",
    "CtxembedError",
    "DecodeError",
    "DocumentError",
    "IndexFileError",
    "InternalServerError",
    "LimiterError",
    "MissingKeyError",
    "MissingShardsError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "UnprocessableEntityError",
]

_TAG: Final = re.compile(r"<[/!]?[A-Za-z][^<>]*>")
_TITLE_AND_HEADING: Final = re.compile(r"^(.{1,200}?) \1(?!\S)")  # of a page, where they have the same words
_SHOWN: Final = 200  # characters of the body in a message; the attribute has more


class CtxembedError(Exception):
    """The root of the tree: ``except ctxembed.CtxembedError`` catches all of the package's own errors.

    Attributes
    ----------
    code : str
        Stable code of the class, as ``CTX-001``.
    """

    code: ClassVar[str] = "CTX-001"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the constructor's arguments, with the cause and the notes."""
        state = {"__cause__": _portable(self.__cause__), "__notes__": getattr(self, "__notes__", None)}
        return type(self), self._arguments(), {name: value for name, value in state.items() if value is not None}

    def _arguments(self) -> tuple[Any, ...]:
        return self.args


class APIError(CtxembedError):
    """A request to the API failed.

    Attributes
    ----------
    message : str
        What happened.
    """

    code: ClassVar[str] = "CTX-002"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class APIConnectionError(APIError):
    """No response: name resolution, connection or TLS failed, or the connection broke. Retried."""

    code: ClassVar[str] = "CTX-003"


class APITimeoutError(APIConnectionError):
    """No complete response arrived in time. Retried."""

    code: ClassVar[str] = "CTX-004"


class APIStatusError(APIError):
    """A response with a 4xx or 5xx status, or a redirect, which is never followed.

    Attributes
    ----------
    status_code : int
        The HTTP status.
    body : object
        The parsed body if it is JSON, else its text, cut to a few kilobytes.
    headers : dict of str to str
        The response's headers, with lower-case names.
    request_id : str or None
        The response's ``x-request-id``, for the vendor's support.
    """

    code: ClassVar[str] = "CTX-005"

    def __init__(
        self, message: str, status_code: int, body: object = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.body = body
        self.headers = dict(headers or {})

    @property
    def request_id(self) -> str | None:
        """The response's ``x-request-id``, or None."""
        return self.headers.get("x-request-id")

    def _arguments(self) -> tuple[Any, ...]:
        return (self.message, self.status_code, self.body, self.headers)


class BadRequestError(APIStatusError):
    """400: the API could not read the request."""

    code: ClassVar[str] = "CTX-006"


class AuthenticationError(APIStatusError):
    """401: the key is missing or wrong."""

    code: ClassVar[str] = "CTX-007"


class PermissionDeniedError(APIStatusError):
    """403: the key has no permission for the request."""

    code: ClassVar[str] = "CTX-008"


class NotFoundError(APIStatusError):
    """404: no such endpoint or model."""

    code: ClassVar[str] = "CTX-009"


class UnprocessableEntityError(APIStatusError, ValueError):
    """422: the API rejected the request; ``body["detail"]`` says what is wrong with it."""

    code: ClassVar[str] = "CTX-010"


class RateLimitError(APIStatusError):
    """429: too many requests. Retried, after ``Retry-After`` if the API sends it."""

    code: ClassVar[str] = "CTX-011"


class InternalServerError(APIStatusError):
    """5xx: the API failed. Retried."""

    code: ClassVar[str] = "CTX-012"


class BadResponseError(APIError):
    """An invalid 200 response: not JSON, a missing or repeated row, a wrong length or model. Retried.

    The ``__cause__`` is a :class:`DecodeError` if decoding failed.

    Attributes
    ----------
    body : str
        The start of the body's text.
    """

    code: ClassVar[str] = "CTX-013"

    def __init__(self, message: str, body: str = "") -> None:
        super().__init__(message)
        self.body = body

    def _arguments(self) -> tuple[Any, ...]:
        return (self.message, self.body)


@_core.register_class
class DecodeError(CtxembedError, ValueError):
    """Invalid bytes, with their position.

    Attributes
    ----------
    kind : str
        A stable name of the problem: ``json``, ``truncated``, ``trailing_bytes``, ``too_deep``, ``structure``,
        ``index``, ``shape``, ``length``, ``base64_byte``, ``base64_padding`` or ``base64_trailing_bits``.
    offset : int
        Byte offset in the body, or in the string for a base64 string.
    document, chunk : int or None
        Document, and chunk in the document, that the bytes belong to, if known. For a list of strings ``chunk``
        is the position in the list.
    """

    code: ClassVar[str] = "CTX-014"

    def __init__(
        self, message: str, kind: str, offset: int, document: int | None = None, chunk: int | None = None
    ) -> None:
        place = f"byte {offset}"
        if document is not None:
            place += f", document {document}"
        if chunk is not None:
            place += f", chunk {chunk}"
        super().__init__(f"{message} ({place})")
        self.message = message
        self.kind = kind
        self.offset = offset
        self.document = document
        self.chunk = chunk

    def _arguments(self) -> tuple[Any, ...]:
        return (self.message, self.kind, self.offset, self.document, self.chunk)


class DocumentError(CtxembedError, ValueError):
    """A document or chunk that the API would reject, found before anything was sent.

    Attributes
    ----------
    document : int
        Position in the input.
    chunk : int or None
        Position in the document, or None if the problem concerns the whole document.
    reason : str
        What is wrong, and what was expected.
    subject : str
        What a document is called in the message: ``"query"`` or ``"text"`` where each has one chunk.
    """

    code: ClassVar[str] = "CTX-015"

    def __init__(self, document: int, chunk: int | None, reason: str, subject: str = "document") -> None:
        place = f"{subject} {document}"
        if chunk is not None and subject == "document":
            place += f", chunk {chunk}"
        super().__init__(f"{place}: {reason}")
        self.document = document
        self.chunk = chunk
        self.reason = reason
        self.subject = subject

    def _arguments(self) -> tuple[Any, ...]:
        return (self.document, self.chunk, self.reason, self.subject)


class ChunkOrderError(CtxembedError, ValueError):
    """Chunks of a framework that do not make up their document: one is missing, two stand at one place, or no order.

    Nothing was sent: a part of a document is never embedded as all of it.

    Attributes
    ----------
    document : str
        Id of the document.
    place : int, str or None
        Where the order breaks: a position as the framework gives it, or the id of a chunk.
    reason : str
        What is wrong there.
    """

    code: ClassVar[str] = "CTX-024"

    def __init__(self, document: str, place: int | str | None, reason: str) -> None:
        super().__init__(f"document {document!r}: {reason}")
        self.document = document
        self.place = place
        self.reason = reason

    def _arguments(self) -> tuple[Any, ...]:
        return (self.document, self.place, self.reason)


@_core.register_class
class IndexFileError(CtxembedError):
    """A file that is not an index, is damaged, or is of a newer version."""

    code: ClassVar[str] = "CTX-019"


@_core.register_class
class SpaceError(CtxembedError, ValueError):
    """Vectors of another space, of other dimensions or of the wrong role were to be stored or compared.

    The message names both sides and what to do.
    """

    code: ClassVar[str] = "CTX-021"


class CollectionError(CtxembedError):
    """A folder that is not a collection, is damaged, was written by a newer version, or cannot be used here.

    The message names the folder or the file, and what to do.
    """

    code: ClassVar[str] = "CTX-022"


class CollectionLockedError(CollectionError):
    """Another process writes to the collection.

    Attributes
    ----------
    host, since : str or None
        Where the writer runs, and when it opened the collection (ISO 8601). None where it has not said so yet.
    pid : int or None
        Its process.
    """

    code: ClassVar[str] = "CTX-023"

    def __init__(self, message: str, host: str | None = None, pid: int | None = None, since: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.host = host
        self.pid = pid
        self.since = since

    def _arguments(self) -> tuple[Any, ...]:
        return (self.message, self.host, self.pid, self.since)


class LimiterError(CtxembedError):
    """What listens at the address of a limiter is no limiter, or one of another version, or it refused a request.

    A limiter that is away is no error: requests go on at the pace that they had.
    """

    code: ClassVar[str] = "CTX-025"


class MissingShardsError(CtxembedError):
    """Shards of an index did not answer: their node or process is gone, or none could start it in time.

    Attributes
    ----------
    missing : tuple of str
        Paths of the shards.
    """

    code: ClassVar[str] = "CTX-026"

    def __init__(self, message: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.missing = missing

    def _arguments(self) -> tuple[Any, ...]:
        return (self.message, self.missing)


class MissingKeyError(CtxembedError, ValueError):
    """No API key was given to a client, and the environment has none."""

    code: ClassVar[str] = "CTX-018"


class ClosedClientError(CtxembedError, RuntimeError):
    """A call on a client after ``close()``."""

    code: ClassVar[str] = "CTX-020"


def _portable(cause: BaseException | None) -> BaseException | None:
    """Return a copy of the cause that is safe to pickle. httpx's errors hold the request, and so the key."""
    if cause is None or isinstance(cause, CtxembedError):
        return cause
    try:
        copy = type(cause)(*cause.args)
        if all(isinstance(part, (str, bytes, int, float, type(None))) for part in cause.args):
            pickle.loads(pickle.dumps(copy))  # noqa: S301  # our own pickle
            return copy
    except Exception:  # noqa: BLE001, S110  # a foreign class may raise anything; its text is kept below
        pass
    return Exception(f"{type(cause).__name__}: {cause}")


_BY_STATUS: Final[Mapping[int, type[APIStatusError]]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def status_error(
    status_code: int, body: object, headers: Mapping[str, str], reason: str | None = None, sender: str = "the API"
) -> APIStatusError:
    """Return the exception for a response with a 3xx, 4xx or 5xx status.

    ``reason`` is what the ``sender`` says of it. By default the message shows the start of the body.
    """
    cls = _BY_STATUS.get(status_code, InternalServerError if status_code >= 500 else APIStatusError)
    # The message shows the text of an HTML page on one line; `body` keeps the page.
    if isinstance(body, str):
        text, tags = _TAG.subn(" ", body)
        shown = " ".join(text.split())
        shown = _TITLE_AND_HEADING.sub(r"\1", shown) if tags else shown
    else:
        shown = repr(body)
    if len(shown) > _SHOWN:
        shown = shown[:_SHOWN] + "..."
    shown = reason or shown
    if not shown.isprintable():  # control characters would act on a terminal, and a surrogate cannot be written
        shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in shown)
    note = " (redirects are not followed)" if status_code < 400 else ""
    return cls(f"{sender} returned {status_code}{note}: {shown}", status_code, body, headers)
