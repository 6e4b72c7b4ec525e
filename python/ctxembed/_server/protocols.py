"""HTTP/1.1 on a connection, with a time for headers, and with the connection for faults that break it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ctxembed._server.faults.response import TRANSPORT
from ctxembed._server.requests import ARRIVED

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

__all__ = ["CONNECTION", "FastProtocol", "StrictProtocol"]

HEAD_TIMEOUT = 30.0
"""Seconds from the first byte of a request to the end of its headers, and for the first request."""

_MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's headers, as h11 has it."""


CONNECTION: Final = "ctxembed.connection"
"""Key in the ASGI extensions: the protocol. It calls ``on_lost``, which a request sets, when the client disconnects."""


def _with_connection(app: Any, protocol: StrictProtocol | FastProtocol) -> Any:
    """Return an application whose requests know their connection."""
    extensions = {TRANSPORT: protocol.transport, CONNECTION: protocol}

    async def with_connection(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("extensions", {}).update(extensions)
        await app(scope, receive, send)

    return with_connection


class StrictProtocol(H11Protocol):
    """By h11, which checks everything, in Python."""

    on_lost: Callable[[], object] | None = None
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn declares it so
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT, transport.close)
        self.app = _with_connection(self.app, self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waits_for_head = self.conn.their_state is h11.IDLE and not self.transport.is_closing()
        if not waits_for_head and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        elif waits_for_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()


class FastProtocol(HttpToolsProtocol):
    """By httptools, the parser of Node.js, in C."""

    on_lost: Callable[[], object] | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _has_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn declares it so
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT, transport.close)
        self.app = _with_connection(self.app, self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._has_head or self.transport.is_closing():
            return
        self._head_bytes += len(data)  # httptools takes any number
        if self._head_bytes > _MAX_HEAD:
            self.send_400_response(f"The headers of a request have {_MAX_HEAD} bytes at most.")
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self.transport.close)

    def on_headers_complete(self) -> None:
        self._has_head = True
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.scope[ARRIVED] = True  # type: ignore[typeddict-unknown-key]
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._has_head = bool(self.pipeline)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()
