"""Sends responses: complete ones through ASGI, broken ones directly to the connection."""

from __future__ import annotations

import gzip
import socket
import struct
import zlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from ctxembed._server.clock import wait_for_disconnect
from ctxembed._server.rate_limiter import retry_after_date

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Mapping

    from starlette.types import Receive, Scope, Send

    from ctxembed._server.clock import Clock
    from ctxembed._server.faults.fault import Fault

__all__ = ["RECORD", "TRANSPORT", "FaultyResponse"]

TRANSPORT: Final = "ctxembed.transport"
"""Key in the ASGI extensions: the connection's asyncio transport."""

RECORD: Final = "ctxembed.record"
"""Key in the ASGI scope: the request's :class:`~ctxembed._server.stats.RequestRecord`."""

_FLUSH: Final = 0.05  # seconds between the last bytes and a reset, which would discard unsent bytes
_STATUSES_WITHOUT_BODY: Final = (204, 205, 304)
_SPACES: Final = b" " * 65_536


def _encode_body(body: bytes, encoding: str | None) -> tuple[bytes, dict[str, str]]:
    """Apply the fault ``encoding``: return the body and its ``Content-Encoding``, right or wrong."""
    if encoding is None:
        return body, {}
    if encoding == "deflate":
        return zlib.compress(body, 1), {"content-encoding": "deflate"}
    if encoding == "unknown":
        return body, {"content-encoding": "x-nobody-knows"}
    label = {} if encoding == "unlabelled-gzip" else {"content-encoding": "gzip"}
    if encoding == "mislabelled-gzip":
        return body, label
    packed = gzip.compress(body, 1)
    return (packed[: len(packed) // 2] if encoding == "truncated-gzip" else packed), label


def _gzip_bomb(body: bytes, pad: int) -> bytes:
    """Compress a body and ``pad`` spaces as gzip (RFC 1952), but run the compressor on one block of spaces only."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = compressor.compress(body) + compressor.flush(zlib.Z_FULL_FLUSH)
    # A full flush resets the compressor, so each block of spaces compresses to the same bytes.
    block = compressor.compress(_SPACES) + compressor.flush(zlib.Z_FULL_FLUSH)
    blocks, rest = divmod(pad, len(_SPACES))
    last = compressor.compress(_SPACES[:rest]) + compressor.flush()
    check = zlib.crc32(body)
    for _ in range(blocks):
        check = zlib.crc32(_SPACES, check)
    check = zlib.crc32(_SPACES[:rest], check)
    trailer = struct.pack("<II", check, (len(body) + pad) % 2**32)
    return b"\x1f\x8b\x08\0\0\0\0\0\x02\xff" + start + block * blocks + last + trailer


class FaultyResponse(Response):
    """A response with a fault.

    Parameters
    ----------
    content : bytes
        The body.
    status_code : int
        The status.
    headers : mapping of str to str
        Additional headers.
    media_type : str
        Content type of the body.
    fault : Fault
        What goes wrong.
    stopping : asyncio.Event
        Set when the server shuts down; ends all pauses.
    clock : Clock
        Pauses, and gives the time.
    """

    def __init__(
        self,
        content: bytes,
        *,
        status_code: int,
        headers: Mapping[str, str],
        media_type: str,
        fault: Fault,
        stopping: asyncio.Event,
        clock: Clock,
    ) -> None:
        if fault.body is not None:
            content = fault.body.encode("utf-8", "replace")
        if status_code in _STATUSES_WITHOUT_BODY:
            content = b""
        added = {**headers, **_retry_after(fault, clock)}
        self._padding = fault.pad
        if fault.pad and fault.encoding == "gzip":
            content, label = _gzip_bomb(content, fault.pad), {"content-encoding": "gzip"}
            self._padding = 0
        else:
            content, label = _encode_body(content, fault.encoding)
        super().__init__(content, status_code, {**added, **label, **fault.headers}, media_type)
        self._content = content
        self._fault = fault
        self._stopping = stopping
        self._clock = clock
        if fault.chunked and "content-length" in self.headers:
            del self.headers["content-length"]
        elif self._padding:
            self.headers["content-length"] = str(len(content) + self._padding)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        if self._fault.breaks_connection:
            await self._break_connection(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece, seconds in self._pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await self._clock.pause(seconds, self._stopping, receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _pieces(self) -> Iterator[tuple[bytes, float]]:
        """Yield the pieces of the body, each with the seconds to pause after it."""
        fault, body = self._fault, self._content
        if fault.stall_after is not None:
            first, body = self._split(fault.stall_after)
            yield first, fault.stall_seconds
        if fault.trickle_bytes is not None:
            for start in range(0, len(body), fault.trickle_bytes):
                yield body[start : start + fault.trickle_bytes], fault.trickle_seconds
        elif body:
            yield body, 0.0
        for start in range(0, self._padding, len(_SPACES)):
            yield _SPACES[: min(len(_SPACES), self._padding - start)], 0.0

    def _split(self, after: int) -> tuple[bytes, bytes]:
        cut = min(after, max(len(self._content) - 1, 0))
        return self._content[:cut], self._content[cut:]

    async def _break_connection(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope.get("extensions", {}).get(TRANSPORT)
        if transport is None:
            reason = b"faults that break the connection need a server started by ctxembed"
            await Response(reason, 501, media_type="text/plain")(scope, receive, send)
            return
        fault, record = self._fault, scope[RECORD]
        reset = fault.reset_after is not None
        if fault.raw is not None:
            transport.write(fault.raw.encode("utf-8", "replace"))
            record.status = "raw"
        elif fault.drop:
            transport.write(self._raw_start(record.request_id) + self._raw_body(self._content))
            if fault.chunked:
                transport.write(b"0\r\n\r\n")
            record.status = self.status_code
        elif fault.hang_up or fault.reset_after == 0:
            record.status = "reset" if reset else "hung up"
        else:
            after = fault.reset_after if fault.truncate_after is None else fault.truncate_after
            transport.write(self._raw_start(record.request_id) + self._raw_body(self._split(after or 0)[0]))
            await self._clock.pause(fault.stall_seconds, self._stopping, receive)
            record.status = "reset" if reset else "truncated"
        await self._close_connection(transport, receive, reset=reset)

    def _raw_start(self, request_id: str) -> bytes:
        lines = [f"HTTP/1.1 {self.status_code} {_reason_phrase(self.status_code)}".encode()]
        lines += [name + b": " + value for name, value in self.raw_headers]
        lines.append(f"x-request-id: {request_id}".encode())
        if self._fault.chunked:
            lines.append(b"transfer-encoding: chunked")
        return b"\r\n".join([*lines, b"", b""])

    def _raw_body(self, body: bytes) -> bytes:
        if self._fault.chunked and body:
            return f"{len(body):x}\r\n".encode() + body + b"\r\n"
        return body

    async def _close_connection(self, transport: Any, receive: Receive, *, reset: bool) -> None:  # an asyncio transport
        if reset:
            await self._clock.pause(_FLUSH, self._stopping)
            # SO_LINGER with zero seconds turns the close into a TCP reset.
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        else:
            transport.close()
        await wait_for_disconnect(receive)


def _reason_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _retry_after(fault: Fault, clock: Clock) -> dict[str, str]:
    if fault.retry_after is None:
        return {}
    if fault.retry_after_date:
        return {"retry-after": retry_after_date(fault.retry_after, clock.wall())}
    return {"retry-after": f"{fault.retry_after:g}"}
