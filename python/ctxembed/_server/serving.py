"""The server around the application: socket, address line, signals, end."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ctxembed._server.app import create_app
from ctxembed._server.wire import TRANSPORT

if TYPE_CHECKING:
    import asyncio

    from starlette.types import Receive, Scope, Send

    from ctxembed._server.config import ServerConfig

__all__ = ["serve"]

_KEEP_ALIVE = 75  # seconds; beyond what a client's pool keeps, so that no request meets a closing connection
_GRACE = 5  # seconds that requests under way get at the end
_STANDS_IN = "ctxembed: vectors come from a stand-in that knows words but no meaning; do not mix them with the API's"


class _Protocol(H11Protocol):
    """HTTP/1.1 that hands the application its connection, so that a fault can break it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        app: Any = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[TRANSPORT] = transport
            await app(scope, receive, send)

        self.app = with_transport


class _Server(uvicorn.Server):
    """A uvicorn server that says where it listens once it does, and wakes waiting answers before it ends."""

    def __init__(self, config: uvicorn.Config, address: str, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._address = address
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        sys.stdout.write(self._address + "\n")
        sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        await super().shutdown(sockets=sockets)


def _bind(host: str, port: int) -> tuple[socket.socket, str]:
    """Return a listening socket and its base URL."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except BaseException:
        listener.close()
        raise
    bound = listener.getsockname()
    shown = f"[{bound[0]}]" if family == socket.AF_INET6 else bound[0]
    return listener, f"http://{shown}:{bound[1]}"


def _end_with_stdin(server: uvicorn.Server) -> None:
    # The descriptor, not sys.stdin: a thread inside a buffered read would hold its lock at interpreter exit.
    while os.read(0, 4096):
        pass
    server.should_exit = True


def serve(config: ServerConfig, *, until_stdin_closes: bool = False) -> None:
    """Serve until SIGINT or SIGTERM, then end in order.

    Writes one line to stdout, the base URL, once the server listens. Everything else goes to stderr.

    Parameters
    ----------
    config : ServerConfig
        How the server behaves.
    until_stdin_closes : bool
        End as well when stdin does: for a server that must not outlive the process that started it.

    Raises
    ------
    OSError
        The address cannot be listened on.

    Notes
    -----
    Call it on the main thread of a process: it handles signals, which stay handled afterwards as they were before.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    if config.access_log:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    listener, address = _bind(config.host, config.port)
    with listener:
        sys.stderr.write(_STANDS_IN + "\n")
        sys.stderr.flush()
        app = create_app(config)
        server = _Server(
            uvicorn.Config(
                app,
                http=_Protocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=config.access_log,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=_GRACE,
            ),
            address,
            app.state.stopping,
        )
        if until_stdin_closes:
            threading.Thread(target=_end_with_stdin, args=(server,), daemon=True).start()

        def end(_signal: int, _frame: object) -> None:
            server.should_exit = True

        # uvicorn raises each signal once more after its own end: ours is what it meets, not death by signal.
        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.run(sockets=[listener])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
