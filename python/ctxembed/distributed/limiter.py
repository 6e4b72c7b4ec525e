"""The limiter of a machine: a process that grants the starts of requests to others, over a socket.

``_client/limiter_connection.py`` describes what goes over it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from ctxembed._client._policy.clock import SYSTEM_CLOCK
from ctxembed._client._policy.reservations import Ending, Reservations
from ctxembed._client.limiter_connection import HEARTBEAT, LONGEST_LINE, PROTOCOL
from ctxembed._client.limiters import check_limiter_name

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["LimiterService", "SharedLimit"]

_HELLO_TIMEOUT: Final = 10.0
"""Seconds in which a connection must have said what it is."""

_MAX_NAMES: Final = 1024
"""Names that are remembered without a connection."""

_MAX_UNREAD: Final = 65_536
"""Bytes that a connection may leave unread."""

_LOGGER: Final = logging.getLogger("ctxembed.limiter")


class SharedLimit:
    """The limit of one name: its reservations, and the timer of the next start.

    Parameters
    ----------
    reservations : Reservations
        The arithmetic.
    grant : callable
        Called with a ticket and the seconds until its start, in the event loop.
    monotonic : callable
        The clock.
    """

    def __init__(
        self,
        reservations: Reservations,
        grant: Callable[[Any, float], object],
        monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic,
    ) -> None:
        self._reservations = reservations
        self._grant = grant
        self._monotonic = monotonic
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, holder: Any, requests: int, tokens: int, ticket: Any) -> None:
        """Take a place in the order."""
        self._reservations.ask(holder, requests, tokens, ticket)
        self._advance()

    def settle(self, holder: Any, ending: Ending) -> None:
        """Record how one request ended."""
        self._reservations.settle(holder, ending, self._monotonic())
        self._advance()

    def cancel(self, ticket: Any) -> bool:
        """Give up a place in the order; return whether it was still waiting."""
        cancelled = self._reservations.cancel(ticket)
        self._advance()
        return cancelled

    def release(self, holder: Any) -> None:
        """Forget a holder that has gone."""
        self._reservations.release(holder)
        self._advance()

    def add_pace(self, pace: float) -> None:
        """Add the pace of a process that another limiter had served."""
        self._reservations.add_pace(pace, self._monotonic())

    def _advance(self) -> None:
        """Grant what may start now, and set the timer for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        granted, seconds = self._reservations.grant(self._monotonic())
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._advance)
        for ticket, wait in granted:
            self._grant(ticket, wait)


class LimiterService:
    """Limits by name, and the connections of the processes that share them.

    Parameters
    ----------
    requests_per_minute, tokens_per_minute : float or None
        Limits of each name that are known. Rates are learned besides.
    """

    def __init__(self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None) -> None:
        self._known = requests_per_minute, tokens_per_minute
        self._limits: OrderedDict[str, SharedLimit] = OrderedDict()
        self.connections: set[_Connection] = set()

    async def serve(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Serve on a socket that listens, until ``stop`` is set."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), sock=listener)
        beat = loop.create_task(self._beat())
        try:
            await stop.wait()
        finally:
            beat.cancel()
            server.close()
            for connection in [*self.connections]:
                connection.abort()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            for connection in [*self.connections]:
                connection.beat()

    def limit(self, name: str) -> SharedLimit:
        """Return the limit of a name."""
        found = self._limits.get(name)
        if found is None:
            used = {connection.name for connection in self.connections}
            unused = (known for known in self._limits if known not in used)
            if len(self._limits) >= _MAX_NAMES and (oldest := next(unused, None)) is not None:
                del self._limits[oldest]
            found = self._limits[name] = SharedLimit(Reservations(*self._known), _Connection.grant)
        self._limits.move_to_end(name)
        return found


class _StrangerError(ValueError):
    """A connection sent what no client sends."""


class _Connection(asyncio.Protocol):
    """One client's event loop. It is the holder of its reservations, and the ticket of the one that waits."""

    def __init__(self, service: LimiterService) -> None:
        self._service = service
        self._transport: Any = None
        self._buffer = bytearray()
        self._limit: SharedLimit | None = None
        self._waits = False
        self._hello: asyncio.TimerHandle | None = None
        self.name: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the greeting."""
        self._transport = transport
        self._service.connections.add(self)
        self._hello = asyncio.get_running_loop().call_later(_HELLO_TIMEOUT, self.abort)

    def data_received(self, data: bytes) -> None:
        """Take whole lines."""
        self._buffer += data
        try:
            while (end := self._buffer.find(b"\n")) >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                self._take(line)
            if len(self._buffer) > LONGEST_LINE:
                raise _StrangerError(f"a line has {LONGEST_LINE} bytes at most")
        except ValueError as error:
            self._buffer.clear()
            _LOGGER.warning("a connection was refused: %s", error)
            self._write({"error": str(error)})
            self._transport.close()

    def _take(self, line: bytes) -> None:
        if not line or self._transport.is_closing():
            return
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            shown = ascii(line[:80].decode("latin-1"))
            raise _StrangerError(f"this is a ctxembed limiter, and a line is a JSON object: got {shown}")
        if self._limit is None:
            self._greet(message)
        elif "reserve" in message:
            requests, tokens = _parts("reserve", message["reserve"], 2)
            if self._waits:
                raise _StrangerError("a connection reserves one start at a time")
            self._waits = True
            self._limit.ask(self, requests, tokens, self)
        elif "settle" in message:
            self._limit.settle(self, Ending(*_parts("settle", message["settle"], 4)))
        elif "cancel" in message:
            if self._waits and self._limit.cancel(self):
                self._waits = False
                self._write({"cancelled": True})
        else:
            raise _StrangerError("a line is one of reserve, settle and cancel")

    def _greet(self, message: dict[str, Any]) -> None:
        version = message.get("ctxembed_limiter")
        if version != PROTOCOL:
            raise _StrangerError(
                f"this is a ctxembed limiter of protocol {PROTOCOL}, and the first line says "
                f"ctxembed_limiter: {version!r:.40}: run the same version of ctxembed on both sides"
            )
        try:
            name = check_limiter_name(message.get("name"))
        except TypeError as error:
            raise _StrangerError(str(error)) from None
        if self._hello is not None:
            self._hello.cancel()
        self.name, self._limit = name, self._service.limit(name)
        if message.get("pace") is not None:
            self._limit.add_pace(message["pace"])
        self._write({"ctxembed_limiter": PROTOCOL})

    def grant(self, seconds: float) -> None:
        """Tell the client that its start comes in so many seconds."""
        self._waits = False
        self._write({"wait": seconds})

    def beat(self) -> None:
        """Let a client that waits see that the limiter lives."""
        if self._waits:
            self._transport.write(b"\n")

    def _write(self, message: dict[str, Any]) -> None:
        if self._transport.get_write_buffer_size() > _MAX_UNREAD:
            self.abort()
        else:
            self._transport.write(json.dumps(message).encode() + b"\n")

    def abort(self) -> None:
        """Close the connection now."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back what the client has left."""
        del exc
        if self._hello is not None:
            self._hello.cancel()
        self._service.connections.discard(self)
        self._waits = False
        if self._limit is not None:
            self._limit.release(self)


def _parts(name: str, value: object, count: int) -> list[Any]:
    if not isinstance(value, list) or len(value) != count:
        raise _StrangerError(f"{name} takes a list of {count}")
    return value
