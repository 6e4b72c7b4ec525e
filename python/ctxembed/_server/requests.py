"""What all endpoints share: reading a body within its bounds, the key of a request, and responses other than a 200."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING, Final

from starlette.requests import ClientDisconnect

from ctxembed._server.contract import error_body

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from fastapi import Request

__all__ = [
    "ARRIVED",
    "CLOSES",
    "JSON",
    "LOADING",
    "ErrorResponse",
    "discard_body",
    "has_key",
    "is_json",
    "read_body",
    "unavailable",
]

JSON: Final = "application/json"

ARRIVED: Final = "ctxembed.arrived"
"""In the scope of a request whose body is there to its end."""

CLOSES: Final = "ctxembed.closes"
"""In the scope of a request whose body was not read to its end: the connection is closed after the response."""

_BODY_TIMEOUT: Final = 60.0  # seconds without a byte of a body
_DISCARD_TIMEOUT: Final = 30.0  # seconds for a body that is not used
LOADING: Final = {"retry-after": "5"}  # how long a model takes to load is not known


class ErrorResponse(Exception):  # noqa: N818  # a response, not an error
    """Ends the handling of a request with a status other than 200."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str] | None = None, media_type: str = JSON) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = headers or {}
        self.media_type = media_type

    @classmethod
    def of(cls, status: int, message: str | None = None, headers: dict[str, str] | None = None) -> Self:
        """Return the response with the usual JSON body of its status."""
        return cls(status, error_body(status, message), headers)


def unavailable(message: str) -> ErrorResponse:
    """Return a 503 that says when to try again."""
    return ErrorResponse(503, error_body(503, message), LOADING)


def is_json(request: Request) -> bool:
    """Return whether a body is declared to be JSON. A page of another site can send any other without asking."""
    given = next((value for name, value in request.scope["headers"] if name == b"content-type"), b"")
    return given.partition(b";")[0].strip().lower() == JSON.encode()


def has_key(request: Request, keys: Sequence[bytes], *, required: bool) -> bool:
    """Return whether a request has one of the keys, or where there are none, whether it has any that is required."""
    if not keys and not required:
        return True
    given = next((value for name, value in request.scope["headers"] if name == b"authorization"), b"")
    scheme, _, token = given.partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not token:
        return False
    # All are compared, so that the time does not tell which of them is near.
    accepted = [hmac.compare_digest(token, key) for key in keys]
    return not accepted or any(accepted)


async def read_body(request: Request, limit: int) -> bytes:
    """Return a body of at most ``limit`` bytes, or raise a 408 or a 413."""
    pieces: list[bytes] = []
    size, more = 0, True
    while more and size <= limit:
        try:
            # A timer would take longer than to read a body that is there.
            async with asyncio.timeout(None if ARRIVED in request.scope else _BODY_TIMEOUT):
                message = await request.receive()
        except TimeoutError:
            raise ErrorResponse(408, error_body(408), {"connection": "close"}) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        more = message.get("more_body", False)
    if size <= limit:
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    pieces.clear()
    if more:
        await discard_body(request, size, limit)
    raise ErrorResponse(413, error_body(413))


async def discard_body(request: Request, size: int, limit: int) -> None:
    """Read the rest of a body without keeping it: many clients read the response when they have sent all.

    What is left after twice the limit, or after some time, is not read, and the connection is closed.
    """
    try:
        async with asyncio.timeout(_DISCARD_TIMEOUT):
            while size <= 2 * limit:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        pass
    request.scope[CLOSES] = True
