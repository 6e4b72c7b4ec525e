"""A local server in its own process, for the duration of a ``with`` block."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import tempfile
import time
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ctxembed._server.config import ServerConfig

__all__ = ["ServerProcess"]

_KEY_VARIABLE = "CTXEMBED_SERVER_KEY"  # read by __main__; an argument would be visible to every process


class ServerProcess:
    """Run ``python -m ctxembed._server``, and end it when the block ends.

    Parameters
    ----------
    *args : str
        Arguments for the server's command line, after those of ``config``.
    config : ServerConfig or None
        Configuration of the server.
    timeout : float
        Maximum seconds to wait for the server to listen.

    Attributes
    ----------
    base_url : str
        ``http://127.0.0.1:PORT``.

    Raises
    ------
    RuntimeError
        On entry: the server ended or did not listen in time. The message contains its stderr.

    Notes
    -----
    If this process is killed, the server's stdin closes, and the server ends.

    Examples
    --------
    >>> with ServerProcess("--latency", "0.01") as server:
    ...     server.base_url.startswith("http://127.0.0.1:")
    True
    """

    def __init__(self, *args: str, config: ServerConfig | None = None, timeout: float = 60.0) -> None:
        given = [] if config is None else config.to_args()
        self._command = [sys.executable, "-m", "ctxembed._server", "--port", "0", *given, "--until-stdin-closes", *args]
        self._key = None if config is None else config.key
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._stderr_at_end = ""
        self.base_url = ""

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._started().pid

    @property
    def returncode(self) -> int | None:
        """The exit code; None while the process runs."""
        return self._started().poll()

    @property
    def stderr(self) -> str:
        """The stderr of the server so far."""
        if self._stderr is None:
            return self._stderr_at_end
        return os.pread(self._stderr.fileno(), 1 << 20, 0).decode(errors="replace")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server process was not started: use it in a with block, or call start()")
        return self._process

    def start(self) -> Self:
        """Start the process and wait until it listens."""
        if self._process is not None:
            raise RuntimeError("the server process was started before")
        environment = dict(os.environ)
        environment.pop(_KEY_VARIABLE, None)
        if self._key is not None:
            environment[_KEY_VARIABLE] = self._key
        # The stand-in multiplies small matrices. One thread leaves the other CPUs to the client under test.
        environment.setdefault("OPENBLAS_NUM_THREADS", "1")
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        try:
            self._process = subprocess.Popen(  # noqa: S603  # this interpreter
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=environment,
            )
            self.base_url = self._read_address(self._process)
        except BaseException:  # including KeyboardInterrupt: do not leak the process
            self.stop()
            raise
        return self

    def _read_address(self, process: subprocess.Popen[bytes]) -> str:
        stdout: Any = process.stdout
        line = b""
        deadline = time.monotonic() + self._timeout
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise RuntimeError(f"the server did not start within {self._timeout:g} seconds: {self.stderr}")
                piece = os.read(stdout.fileno(), 4096)
                if not piece:
                    code = process.wait(timeout=10)
                    raise RuntimeError(f"the server ended with code {code} before it listened: {self.stderr}")
                line += piece
        return line.decode().strip()

    def stop(self, timeout: float = 10.0) -> None:
        """End the process: SIGTERM, then SIGKILL after ``timeout``. A process that has ended is left alone.

        Parameters
        ----------
        timeout : float
            Seconds between the two signals.
        """
        process = self._process
        try:
            if process is not None:
                if process.poll() is None:
                    process.terminate()
                try:
                    process.wait(timeout=timeout)
                finally:
                    if process.poll() is None:
                        process.kill()
                        process.wait()
        except subprocess.TimeoutExpired:
            pass  # killed above
        finally:
            for pipe in (process.stdin, process.stdout) if process is not None else ():
                if pipe is not None:
                    pipe.close()
            if self._stderr is not None:
                self._stderr_at_end = self.stderr
                self._stderr.close()
                self._stderr = None

    def __enter__(self) -> Self:
        """Start the process."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        self.stop()
