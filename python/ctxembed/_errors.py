"""Every exception that ctxembed raises on its own behalf.

::

    CtxembedError
    ├── APIError                     something about a request to the API
    │   ├── APIConnectionError       no response: DNS, TCP, TLS, a broken connection
    │   │   └── APITimeoutError      ... or none in time
    │   ├── APIStatusError           a response with a 4xx or 5xx status
    │   │   ├── BadRequestError            400
    │   │   ├── AuthenticationError        401
    │   │   ├── PermissionDeniedError      403
    │   │   ├── NotFoundError              404
    │   │   ├── UnprocessableEntityError   422
    │   │   ├── RateLimitError             429
    │   │   └── InternalServerError        5xx
    │   └── BadResponseError         a 200 that does not prove itself
    ├── DecodeError                  also a ValueError: bytes that are not what they should be, with their place
    ├── DocumentError                also a ValueError: a document or chunk that the API would refuse
    ├── EmbedError                   a job that did not embed every document; ``.partial`` holds what it did
    │   └── InvalidDocumentsError    also a ValueError: refused before anything was sent
    ├── MissingKeyError              also a ValueError: no API key was given, and none is in the environment
    ├── IndexFileError               a file that is not an index, is damaged, or was written by a newer version
    └── ClosedClientError            also a RuntimeError: a call on a client after ``close()``

Bad arguments raise ``TypeError`` or ``ValueError``, and a disk that refuses raises ``OSError``, as elsewhere in
Python. Every exception here pickles with its ``__cause__``, and holds no key. A cause of another package goes without
what it holds beside its arguments.
"""

from __future__ import annotations

import pickle
import re
from typing import TYPE_CHECKING, Any, Final

from ctxembed import _core

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctxembed._planning.prepare import Problem
    from ctxembed._results import Embeddings, Failure

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "BadResponseError",
    "ClosedClientError",
    "CtxembedError",
    "DecodeError",
    "DocumentError",
    "EmbedError",
    "IndexFileError",
    "InternalServerError",
    "InvalidDocumentsError",
    "MissingKeyError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "UnprocessableEntityError",
]

_TAG: Final = re.compile(r"<[/!]?[A-Za-z][^<>]*>")
_SHOWN: Final = 200  # characters of a body that a message shows; the whole (cut) text is an attribute


class CtxembedError(Exception):
    """The root: ``except ctxembed.CtxembedError`` catches all of the package's own errors."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the constructor's arguments, with the cause and the notes."""
        state = {"__cause__": _portable(self.__cause__), "__notes__": getattr(self, "__notes__", None)}
        return type(self), self._arguments(), {name: value for name, value in state.items() if value is not None}

    def _arguments(self) -> tuple[Any, ...]:
        return self.args


class APIError(CtxembedError):
    """Something about a request to the API went wrong.

    Attributes
    ----------
    message : str
        What happened, without the place's details.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class APIConnectionError(APIError):
    """No response came: name resolution, connection, TLS, or the connection broke. Retried."""


class APITimeoutError(APIConnectionError):
    """No response, or not all of it, came in time. Retried."""


class APIStatusError(APIError):
    """The API answered with a status of 4xx or 5xx, or with a redirect, which is never followed.

    Attributes
    ----------
    status_code : int
        The HTTP status.
    body : object
        The JSON value of the body where it is JSON, else its text, cut to some kilobytes.
    headers : dict of str to str
        The response's headers, names in lower case.
    request_id : str or None
        The response's ``x-request-id``, for the vendor's support.
    """

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
    """400: the API could not use the request."""


class AuthenticationError(APIStatusError):
    """401: the key is missing or wrong."""


class PermissionDeniedError(APIStatusError):
    """403: the key may not do this."""


class NotFoundError(APIStatusError):
    """404: no such endpoint or model."""


class UnprocessableEntityError(APIStatusError):
    """422: the request was understood and refused; ``body["detail"]`` says where."""


class RateLimitError(APIStatusError):
    """429: too many requests. Retried, after ``Retry-After`` where the API sends one."""


class InternalServerError(APIStatusError):
    """5xx: the API failed. Retried."""


class BadResponseError(APIError):
    """A 200 that does not prove itself: not JSON, a missing or repeated row, a wrong length or model. Retried.

    The ``__cause__`` is the :class:`DecodeError` where decoding found it.

    Attributes
    ----------
    body : str
        The start of the body's text, for a look.
    """

    def __init__(self, message: str, body: str = "") -> None:
        super().__init__(message)
        self.body = body

    def _arguments(self) -> tuple[Any, ...]:
        return (self.message, self.body)


@_core.register_class
class DecodeError(CtxembedError, ValueError):
    """Bytes that are not what they should be, with their place.

    Attributes
    ----------
    kind : str
        What is wrong, as a stable name: ``json``, ``truncated``, ``trailing_bytes``, ``too_deep``, ``structure``,
        ``index``, ``shape``, ``length``, ``base64_byte``, ``base64_padding`` or ``base64_trailing_bits``.
    offset : int
        Bytes into the body (into the string, for a base64 string).
    document, chunk : int or None
        Where the place belongs to one: its document, and its chunk in the document. For a list of strings
        ``chunk`` is the position in the list.
    """

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
    """A document or chunk that the API would refuse, found before anything was sent.

    Attributes
    ----------
    document : int
        Position in the input.
    chunk : int or None
        Position in the document, or None where the document as a whole is meant.
    reason : str
        What is wrong and what was expected.
    """

    def __init__(self, document: int, chunk: int | None, reason: str) -> None:
        place = f"document {document}" if chunk is None else f"document {document}, chunk {chunk}"
        super().__init__(f"{place}: {reason}")
        self.document = document
        self.chunk = chunk
        self.reason = reason

    def _arguments(self) -> tuple[Any, ...]:
        return (self.document, self.chunk, self.reason)


class EmbedError(CtxembedError):
    """Not every document was embedded.

    Attributes
    ----------
    partial : Embeddings
        All that did succeed: every document keeps its position, a failed one owns zero rows.
    failures : tuple of Failure
        The documents that have none, each with its cause.
    """

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

    def __init__(
        self, message: str, partial: Embeddings, failures: tuple[Failure, ...], problems: tuple[Problem, ...]
    ) -> None:
        super().__init__(message, partial, failures)
        self.problems = problems

    def _arguments(self) -> tuple[Any, ...]:
        return (self.message, self.partial, self.failures, self.problems)


@_core.register_class
class IndexFileError(CtxembedError):
    """A file that is not an index, is damaged, or was written by a newer version."""


class MissingKeyError(CtxembedError, ValueError):
    """No API key was given to a client, and none is in the environment."""


class ClosedClientError(CtxembedError, RuntimeError):
    """A call on a client after ``close()``."""


def _portable(cause: BaseException | None) -> BaseException | None:
    """Return the cause as another process can have it: httpx's errors hold the request, and so the key."""
    if cause is None or isinstance(cause, CtxembedError):
        return cause
    try:
        again = type(cause)(*cause.args)
        if all(isinstance(part, (str, bytes, int, float, type(None))) for part in cause.args):
            pickle.loads(pickle.dumps(again))  # noqa: S301 - of our own making
            return again
    except Exception:  # noqa: BLE001, S110 - whatever a foreign class raises, words are left
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


def status_error(status_code: int, body: object, headers: Mapping[str, str]) -> APIStatusError:
    """Build the exception for a response with a 3xx, 4xx or 5xx status."""
    cls = _BY_STATUS.get(status_code, InternalServerError if status_code >= 500 else APIStatusError)
    # A page is shown by its words, on one line; `body` keeps it as it came.
    shown = " ".join(_TAG.sub(" ", body).split()) if isinstance(body, str) else repr(body)
    if len(shown) > _SHOWN:
        shown = shown[:_SHOWN] + "..."
    note = " (redirects are not followed)" if status_code < 400 else ""
    return cls(f"the API answered {status_code}{note}: {shown}", status_code, body, headers)
