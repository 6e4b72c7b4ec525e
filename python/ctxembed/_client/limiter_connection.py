"""The connection to a limiter in another process: lines of JSON over a socket, without a task of its own.

The client sends ``{"ctxembed_limiter": 1, "name": ..., "pace": ...}`` once, and then ``{"reserve": [requests,
tokens]}``, ``{"settle": [outcome, age, retry_after, actual_tokens]}`` and ``{"cancel": true}``. The limiter sends
``{"ctxembed_limiter": 1}`` once, ``{"wait": seconds}`` when the start of a request has come, nothing for ``settle``,
``{"cancelled": true}`` for a request that waits no longer, and ``{"error": ...}`` before it closes the connection. It
sends an empty line each second while a request waits, so that the client sees that it lives.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import socket
import weakref
from typing import TYPE_CHECKING, Any, Final

import anyio

from ctxembed._errors import LimiterError

if TYPE_CHECKING:
    from ctxembed._client.limiter_address import LimiterAddress

__all__ = ["HEARTBEAT", "LONGEST_LINE", "PROTOCOL", "LimiterConnection"]

PROTOCOL: Final = 1
HEARTBEAT: Final = 1.0
"""Seconds between the empty lines of a limiter."""

LONGEST_LINE: Final = 4096

_SILENCE: Final = 3.0
"""Seconds without a line after which a limiter counts as away."""


class LimiterConnection:
    """The connection of one event loop.

    Parameters
    ----------
    address : LimiterAddress
        Where the limiter listens.
    name : str
        Sent in the greeting.
    """

    def __init__(self, address: LimiterAddress, name: str) -> None:
        self._address = address
        self._name = name
        self._turn = anyio.Lock()
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._greeted = False
        self._abandoned = 0  # requests that were cancelled, whose lines are still to come
        self._lost = 0

    async def reserve(self, requests: int, tokens: int, pace: float | None) -> float:
        """Wait for a start, and return the seconds that are left until it.

        ``pace`` is told to a limiter that is new here: the starts a second that one before it gave this process.
        """
        lost = self._lost
        async with self._turn:
            if self._socket is None and self._lost != lost:  # a request before this one has just seen it
                raise ConnectionError(f"{self._address}: the limiter is away")
            try:
                if self._socket is None:
                    self._socket = await self._connect()
                    # The empty line lets a server of HTTP say at once that it is none.
                    self._write({"ctxembed_limiter": PROTOCOL, "name": self._name, "pace": pace}, b"\n\n")
                self._write({"reserve": [requests, tokens]})
                try:
                    return await self._granted()
                except (OSError, LimiterError):
                    raise
                except BaseException:  # cancelled: its line is still to come
                    self._abandoned += 1
                    with contextlib.suppress(OSError):  # the next request finds it broken
                        self._write({"cancel": True})
                    raise
            except (OSError, LimiterError):
                self._close()
                raise

    def settle(self, outcome: str, age: float, retry_after: float | None, actual_tokens: int | None) -> None:
        """Tell how a request ended. A request that waits finds a connection that this breaks."""
        if self._socket is not None:
            self._write({"settle": [outcome, age, retry_after, actual_tokens]})

    async def _connect(self) -> socket.socket:
        address = self._address
        if address.path is not None:
            connection = self._new_socket(socket.AF_UNIX)
            error = connection.connect_ex(address.path)  # at once, or not at all: its backlog is full
            if error:
                connection.close()
                raise OSError(error, os.strerror(error), str(address))
            return connection
        with anyio.move_on_after(_SILENCE):
            found = await anyio.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            for family, _, _, _, target in found:
                connection = self._new_socket(family)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                try:
                    error = connection.connect_ex(target)
                    if error == errno.EINPROGRESS:
                        await anyio.wait_writable(connection)
                        error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not error:
                        return connection
                except BaseException:
                    connection.close()
                    raise
                connection.close()
            raise OSError(error, os.strerror(error), str(address))
        raise TimeoutError(f"{address}: no connection to the limiter within {_SILENCE:g} seconds")

    def _new_socket(self, family: int) -> socket.socket:
        connection = socket.socket(family, socket.SOCK_STREAM)
        weakref.finalize(self, connection.close)
        connection.setblocking(False)
        return connection

    async def _granted(self) -> float:
        """Read lines until the one that grants the latest request, and give back what others left."""
        while True:
            line = await self._read()
            if not self._greeted:
                self._check_greeting(line)
            elif "error" in line:
                raise LimiterError(f"{self._address}: the limiter refused the request: {line['error']!s:.500}")
            elif self._abandoned and ("wait" in line or "cancelled" in line):
                self._abandoned -= 1
                if "wait" in line:
                    self._write({"settle": ["unused", 0.0, None, None]})
            else:
                wait: Any = line.get("wait")
                if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait < math.inf:
                    raise self._stranger(json.dumps(line).encode())
                return float(wait)

    def _check_greeting(self, line: dict[str, Any]) -> None:
        version = line.get("ctxembed_limiter")
        if "error" in line and version is None:
            raise LimiterError(f"{self._address}: the limiter refused the connection: {line['error']!s:.500}")
        if not isinstance(version, int):
            raise self._stranger(json.dumps(line).encode())
        if version != PROTOCOL:
            raise LimiterError(
                f"{self._address}: the limiter speaks version {version} of its protocol, and this client {PROTOCOL}: "
                "run the same version of ctxembed on both sides"
            )
        self._greeted = True

    async def _read(self) -> dict[str, Any]:
        """Read the next line that is not empty."""
        while True:
            end = self._buffer.find(b"\n")
            if end < 0:
                if len(self._buffer) > LONGEST_LINE:
                    raise self._stranger(bytes(self._buffer))
                await self._receive()
                continue
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            if line:
                try:
                    parsed = json.loads(line)
                except ValueError:
                    raise self._stranger(line) from None
                if not isinstance(parsed, dict):
                    raise self._stranger(line)
                return parsed

    async def _receive(self) -> None:
        connection = self._socket
        if connection is None:
            raise ConnectionError(f"{self._address}: the connection to the limiter broke")
        try:
            data = connection.recv(65_536)
        except BlockingIOError:
            with anyio.move_on_after(_SILENCE) as scope:
                await anyio.wait_readable(connection)
            if scope.cancelled_caught:
                message = f"{self._address}: the limiter has sent nothing for {_SILENCE:g} seconds"
                raise TimeoutError(message) from None
            return
        if not data:
            raise ConnectionResetError(f"{self._address}: the limiter closed the connection")
        self._buffer += data

    def _write(self, message: dict[str, Any], end: bytes = b"\n") -> None:
        """Write a line, without waiting: while the limiter lives, its socket takes one."""
        data = json.dumps(message).encode() + end
        connection = self._socket
        if connection is None:
            raise ConnectionError(f"{self._address}: the connection to the limiter broke")
        try:
            sent = connection.send(data)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            raise ConnectionResetError(f"{self._address}: the limiter closed the connection") from None
        if sent != len(data):
            connection.shutdown(socket.SHUT_RDWR)  # a request that waits reads the end
            raise ConnectionError(f"{self._address}: the limiter reads nothing")

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._buffer.clear()
        self._greeted = False
        self._abandoned = 0
        self._lost += 1

    def _stranger(self, line: bytes) -> LimiterError:
        return LimiterError(
            f"{self._address}: what listens there is no ctxembed limiter: it sent {line[:80].decode('latin-1')!a}"
        )
