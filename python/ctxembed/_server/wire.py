"""Answers on the wire: whole ones through ASGI, broken ones straight into the connection."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import struct
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from ctxembed._server.faults import NO_FAULT, Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

__all__ = ["EXCHANGE", "TRANSPORT", "FaultyResponse", "encode_body", "pause"]

TRANSPORT: Final = "ctxembed.transport"
"""Key in the scope's extensions: the connection's asyncio transport."""

EXCHANGE: Final = "ctxembed.exchange"
"""Key in the scope: the record of this request."""

_FLUSH: Final = 0.05  # seconds that written bytes get before a reset may overtake them


async def pause(seconds: float, stopping: asyncio.Event) -> None:
    """Wait, but not beyond the server's end."""
    if seconds > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), seconds)


def encode_body(body: bytes, encoding: str | None) -> tuple[bytes, dict[str, str]]:
    """Apply the fault ``encoding``: return the body and the header that (mis)labels it."""
    if encoding is None:
        return body, {}
    label = {} if encoding == "unlabelled-gzip" else {"content-encoding": "gzip"}
    return (body if encoding == "mislabelled-gzip" else gzip.compress(body, 1)), label


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
        content, label = encode_body(content, fault.encoding)
        super().__init__(content, status_code, {**headers, **label, **fault.headers}, media_type)
        self._content = content
        self._fault = fault
        self._stopping = stopping
        if fault.chunked and "content-length" in self.headers:
            del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        if self._fault.breaks_connection:
            await self._break(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        first, rest = self._content, b""
        if self._fault.stall_after is not None:
            first, rest = self._split(self._fault.stall_after)
        if rest:
            await send({"type": "http.response.body", "body": first, "more_body": True})
            await pause(self._fault.stall_seconds, self._stopping)
            first = rest
        await send({"type": "http.response.body", "body": first, "more_body": False})

    def _split(self, after: int) -> tuple[bytes, bytes]:
        cut = min(after, max(len(self._content) - 1, 0))
        return self._content[:cut], self._content[cut:]

    async def _break(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope.get("extensions", {}).get(TRANSPORT)
        if transport is None:
            reason = b"faults that break the connection need a server started by ctxembed"
            await Response(reason, 501, media_type="text/plain")(scope, receive, send)
            return
        after = self._fault.reset_after if self._fault.truncate_after is None else self._fault.truncate_after
        reset = self._fault.reset_after is not None
        if not (reset and after == 0):
            transport.write(self._raw_start(scope[EXCHANGE].request_id) + self._raw_body(self._split(after or 0)[0]))
            await pause(self._fault.stall_seconds if self._fault.stall_after is not None else 0, self._stopping)
        scope[EXCHANGE].status = "reset" if reset else "truncated"
        await self._hang_up(transport, receive, reset=reset)

    def _raw_start(self, request_id: str) -> bytes:
        lines = [f"HTTP/1.1 {self.status_code} {HTTPStatus(self.status_code).phrase}".encode()]
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
        while (await receive())["type"] != "http.disconnect":
            pass
