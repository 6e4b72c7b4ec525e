"""The HTTP server around the application: socket, signals, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, TextIO

import uvicorn

from ctxembed._server.app import create_app
from ctxembed._server.protocols import FastProtocol, StrictProtocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

    from ctxembed._backends.embedder import Embedder
    from ctxembed._server.config import ServerConfig

__all__ = ["serve"]

_KEEP_ALIVE = 75  # seconds; longer than a client's connection pool, so the client closes idle connections first
_GRACE = 5  # seconds that requests in flight get at shutdown
_SWITCH_INTERVAL = 0.001  # seconds
_COLLECT_AFTER = 20_000  # objects
_LAST = 5  # more seconds until their connections are closed


class _Server(uvicorn.Server):
    """A uvicorn server that prints its address once it listens, and ends paused responses at shutdown."""

    def __init__(self, config: uvicorn.Config, address: str, app: FastAPI, load: Callable[[], Embedder] | None) -> None:
        super().__init__(config)
        self._address = address
        self._app = app
        self._load = load
        self.load_error: BaseException | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        _write_line(sys.stdout, self._address)
        if self._load is not None:
            # A daemon: a model that loads for a minute does not keep a stopped server alive.
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._load_model, args=(self._load, loop), name="load", daemon=True).start()

    def _load_model(self, load: Callable[[], Embedder], loop: asyncio.AbstractEventLoop) -> None:
        try:
            embedder = load()
        except BaseException as error:  # noqa: BLE001  # serve() raises it
            self.load_error = error
            self.should_exit = True
            return
        with contextlib.suppress(RuntimeError):  # the server was stopped meanwhile
            loop.call_soon_threadsafe(self._app.state.use, embedder)
        model = embedder.model
        limit = f"{model.dimensions} dimensions, {embedder.context_tokens} tokens a pass"
        _write_line(sys.stderr, f"ctxembed: {model.name} is loaded: {limit}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.stop()
        asyncio.get_running_loop().call_later(_GRACE, self._app.state.end)
        await super().shutdown(sockets=sockets)


def _write_line(stream: TextIO, line: str) -> None:
    """Write a line. A server serves on where nobody reads it, or the disk is full."""
    try:
        stream.write(line + "\n")
        stream.flush()
    except (OSError, ValueError):
        # What is left in the buffer would fail again when the interpreter exits.
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
            stream.flush()


def _bind(host: str, port: int, scheme: str) -> tuple[socket.socket, str]:
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
    return listener, f"{scheme}://{shown}:{bound[1]}"


def _exit_when_stdin_closes(server: uvicorn.Server) -> None:
    # The descriptor, not sys.stdin: a thread inside a buffered read would hold its lock at interpreter exit.
    while os.read(0, 4096):
        pass
    server.should_exit = True


def serve(
    config: ServerConfig,
    embedder: Embedder | Callable[[], Embedder],
    *,
    notice: str = "",
    until_stdin_closes: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM, then shut down cleanly.

    Writes the base URL to stdout, as one line, once the server listens. Everything else goes to stderr. Where they
    cannot be written, the server serves all the same.

    Parameters
    ----------
    config : ServerConfig
        Configuration of the server.
    embedder : Embedder or callable
        Computes the vectors. A function without arguments loads it, in a thread, while the server listens and responds
        with 503.
    notice : str
        A line for stderr once the address is bound.
    until_stdin_closes : bool
        Shut down when stdin closes, so that the server does not outlive the process that started it.

    Raises
    ------
    OSError
        The server cannot listen on the address.
    Exception
        What the function that loads the embedder raised. It ends the server.

    Notes
    -----
    Call it on the main thread: it installs signal handlers, and restores the previous ones at the end.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    if config.access_log:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    listener, address = _bind(config.host, config.port, "http" if config.ssl_certfile is None else "https")
    load = embedder if callable(embedder) else None
    with listener:
        if notice:
            _write_line(sys.stderr, notice)
        app = create_app(config, None if callable(embedder) else embedder)
        server = _Server(
            uvicorn.Config(
                app,
                # h11 takes longer than a search that is shared by many callers.
                http=FastProtocol if config.collections else StrictProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=config.access_log,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=_GRACE + _LAST,
                ssl_certfile=config.ssl_certfile,
                ssl_keyfile=config.ssl_keyfile,
            ),
            address,
            app,
            load,
        )
        if config.collections:
            # Threads that scan and read wait for this one less, and the collector looks at new objects less often: a
            # tenth more searches a second over 1,000,000 rows of bits.
            sys.setswitchinterval(_SWITCH_INTERVAL)
            gc.freeze()
            gc.set_threshold(_COLLECT_AFTER, 20, 50)
        if until_stdin_closes:
            threading.Thread(target=_exit_when_stdin_closes, args=(server,), daemon=True).start()

        def shut_down(_signal: int, _frame: object) -> None:
            server.should_exit = True

        # uvicorn raises each signal again after its shutdown. This handler keeps that from killing the process.
        before = {number: signal.signal(number, shut_down) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.run(sockets=[listener])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if server.load_error is not None:
            raise server.load_error
