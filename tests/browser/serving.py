"""``ctxembed serve --collection`` as a process that tests stop and start again at one address."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

__all__ = ["Serving"]

_START = 60.0  # seconds until it listens


class Serving:
    """A server of collections.

    Parameters
    ----------
    *collections : Path
        Folders to serve.
    key : str or None
        The key that it wants.
    options : sequence of str
        Further arguments of ``ctxembed serve``.
    """

    def __init__(self, *collections: Path, key: str | None = None, options: tuple[str, ...] = ()) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "ctxembed", "serve", "--port", str(self.port), *options]
        for folder in collections:
            self._command += ["--collection", str(folder)]
        self._environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        self._environment.pop("CTXEMBED_SERVER_KEY", None)
        if key is not None:
            self._environment["CTXEMBED_SERVER_KEY"] = key
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__

    def start(self) -> Self:
        """Start, and wait until it listens."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=self._log, stdin=subprocess.DEVNULL, env=self._environment
        )
        deadline = time.monotonic() + _START
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = b""
            while not line.endswith(b"\n"):
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                piece = os.read(self._process.stdout.fileno(), 4096) if ready else b""
                if not piece:
                    self.stop()
                    raise RuntimeError(f"the server did not start: {self.log()}")
                line += piece
        return self

    def stop(self, *, kill: bool = False) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill() if kill else process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def log(self) -> str:
        """What it wrote to stderr."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._log.close()
