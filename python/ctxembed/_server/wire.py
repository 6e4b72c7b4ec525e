"""Answers on the wire: whole ones through ASGI, broken ones straight into the connection."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import struct
import time
import zlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from ctxembed._server.faults import NO_FAULT, Fault
from ctxembed._server.limiter import retry_date

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.types import Receive, Scope, Send

__all__ = ["EXCHANGE", "TRANSPORT", "FaultyResponse", "GoneError", "encode_body", "pause"]

TRANSPORT: Final = "ctxembed.transport"
"""Key in the scope's extensions: the connection's asyncio transport."""

EXCHANGE: Final = "ctxembed.exchange"
"""Key in the scope: the record of this request."""

_FLUSH: Final = 0.05  # seconds that written bytes get before a reset may overtake them
_BODILESS: Final = (204, 205, 304)
_BLANKS: Final = b" " * 65_536


class GoneError(Exception):
    """The client has hung up while its answer was awaited."""


async def pause(seconds: float, stopping: asyncio.Event, receive: Receive | None = None) -> None:
    """Wait, but not beyond the server's end.

    Parameters
    ----------
    seconds : float
        How long.
    stopping : asyncio.Event
        Ends the wait.
    receive : callable or None
        Of a request whose body has been read: tells when the client hangs up.

    Raises
    ------
    GoneError
        The client has hung up.
    """
    if seconds <= 0:
        return
    waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(stopping.wait())]
    if receive is not None:
        waits.append(asyncio.ensure_future(_hung_up(receive)))
    try:
        done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*waits, return_exceptions=True)
    if waits[0] not in done and done:
        raise GoneError


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def encode_body(body: bytes, encoding: str | None) -> tuple[bytes, dict[str, str]]:
    """Apply the fault ``encoding``: return the body and the header that (mis)labels it."""
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


def _bomb(body: bytes, pad: int) -> bytes:
    """Pack a body with blanks after it as gzip (RFC 1952), at the cost of one block of them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = packer.compress(body) + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush the packer knows nothing of what came before: the same blanks give the same bytes.
    block = packer.compress(_BLANKS) + packer.flush(zlib.Z_FULL_FLUSH)
    blocks, rest = divmod(pad, len(_BLANKS))
    last = packer.compress(_BLANKS[:rest]) + packer.flush()
    check = zlib.crc32(body)
    for _ in range(blocks):
        check = zlib.crc32(_BLANKS, check)
    check = zlib.crc32(_BLANKS[:rest], check)
    tail = struct.pack("<II", check, (len(body) + pad) % 2**32)
    return b"\x1f\x8b\x08\0\0\0\0\0\x02\xff" + head + block * blocks + last + tail


class FaultyResponse(Response):
    """A response that is sent as a fault asks.

    Parameters
    ----------
    content : bytes
        The body.
    status_code : int
        The status.
    headers : mapping of str to str
        More headers.
    media_type : str
        The body's type.
    fault : Fault
        What goes wrong.
    stopping : asyncio.Event
        Set when the server ends: waits end with it.
    """

    def __init__(
        self,
        content: bytes,
        *,
        status_code: int,
        headers: Mapping[str, str],
        media_type: str,
        fault: Fault = NO_FAULT,
        stopping: asyncio.Event,
    ) -> None:
        if fault.body is not None:
            content = fault.body.encode("utf-8", "replace")
        if status_code in _BODILESS:
            content = b""
        added = {**headers, **_retry_after(fault)}
        self._blanks = fault.pad
        if fault.pad and fault.encoding == "gzip":
            content, label = _bomb(content, fault.pad), {"content-encoding": "gzip"}
            self._blanks = 0
        else:
            content, label = encode_body(content, fault.encoding)
        super().__init__(content, status_code, {**added, **label, **fault.headers}, media_type)
        self._content = content
        self._fault = fault
        self._stopping = stopping
        if fault.chunked and "content-length" in self.headers:
            del self.headers["content-length"]
        elif self._blanks:
            self.headers["content-length"] = str(len(content) + self._blanks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        if self._fault.breaks_connection:
            await self._break(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece, wait in self._pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await pause(wait, self._stopping, receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _pieces(self) -> Iterator[tuple[bytes, float]]:
        """Cut the body, each piece with the seconds to wait after it."""
        fault, body = self._fault, self._content
        if fault.stall_after is not None:
            first, body = self._split(fault.stall_after)
            yield first, fault.stall_seconds
        if fault.trickle_bytes is not None:
            for at in range(0, len(body), fault.trickle_bytes):
                yield body[at : at + fault.trickle_bytes], fault.trickle_seconds
        elif body:
            yield body, 0.0
        for at in range(0, self._blanks, len(_BLANKS)):
            yield _BLANKS[: min(len(_BLANKS), self._blanks - at)], 0.0

    def _split(self, after: int) -> tuple[bytes, bytes]:
        cut = min(after, max(len(self._content) - 1, 0))
        return self._content[:cut], self._content[cut:]

    async def _break(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope.get("extensions", {}).get(TRANSPORT)
        if transport is None:
            reason = b"faults that break the connection need a server started by ctxembed"
            await Response(reason, 501, media_type="text/plain")(scope, receive, send)
            return
        fault, exchange = self._fault, scope[EXCHANGE]
        reset = fault.reset_after is not None
        if fault.raw is not None:
            transport.write(fault.raw.encode("utf-8", "replace"))
            exchange.status = "raw"
        elif fault.drop:
            transport.write(self._raw_start(exchange.request_id) + self._raw_body(self._content))
            if fault.chunked:
                transport.write(b"0\r\n\r\n")
            exchange.status = self.status_code
        elif fault.hang_up or fault.reset_after == 0:
            exchange.status = "reset" if reset else "hung up"
        else:
            after = fault.reset_after if fault.truncate_after is None else fault.truncate_after
            transport.write(self._raw_start(exchange.request_id) + self._raw_body(self._split(after or 0)[0]))
            await pause(fault.stall_seconds if fault.stall_after is not None else 0, self._stopping, receive)
            exchange.status = "reset" if reset else "truncated"
        await self._hang_up(transport, receive, reset=reset)

    def _raw_start(self, request_id: str) -> bytes:
        lines = [f"HTTP/1.1 {self.status_code} {_phrase(self.status_code)}".encode()]
        lines += [name + b": " + value for name, value in self.raw_headers]
        lines.append(f"x-request-id: {request_id}".encode())
        if self._fault.chunked:
            lines.append(b"transfer-encoding: chunked")
        return b"\r\n".join([*lines, b"", b""])

    def _raw_body(self, body: bytes) -> bytes:
        if self._fault.chunked and body:
            return f"{len(body):x}\r\n".encode() + body + b"\r\n"
        return body

    async def _hang_up(self, transport: Any, receive: Receive, *, reset: bool) -> None:  # an asyncio transport
        if reset:
            await pause(_FLUSH, self._stopping)
            # Lingering for no time turns the close into a TCP reset.
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        else:
            transport.close()
        await _hung_up(receive)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _retry_after(fault: Fault) -> dict[str, str]:
    if fault.retry_after is None:
        return {}
    if fault.retry_after_date:
        return {"retry-after": retry_date(fault.retry_after, time.time())}
    return {"retry-after": f"{fault.retry_after:g}"}
