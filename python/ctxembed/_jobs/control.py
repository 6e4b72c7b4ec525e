"""Stops a job: gently, so that what is in flight is stored, or at once, still between two commits."""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["JobControl", "StopJob", "handled_signals"]

GRACE: Final = 8.0
"""Seconds for which the requests in flight are waited for: less than the ten after which `docker stop` kills."""

_END: Final = b"\n"
"""Tells the thread that waits for a stop that the job has ended."""


class StopJob(BaseException):
    """Raised in the thread of a job that waits for its source, or was stopped at once. The job catches it."""


class JobControl:
    """The switch of one job. Any thread and any signal handler may use it: it takes no lock.

    Used as a context manager while the job runs.
    """

    def __init__(self) -> None:
        self.stopped = False
        self.at_once = False
        self._abort: Callable[[], object] | None = None
        self.interruptible = False
        """Whether a signal raises :class:`StopJob`: while the caller's code is waited for, in the thread of the job."""
        self._writing: int | None = None

    def __enter__(self) -> Self:
        # A thread waits for the stop, since a signal handler can neither wait nor start a thread safely. Nothing waits
        # for the thread: it closes its end of the pipe by itself.
        reading, self._writing = os.pipe()
        try:
            _thread.start_new_thread(self._serve, (reading,))
        except RuntimeError:  # no thread can be started: what is in flight is waited for
            os.close(reading)
        self._wake()
        return self

    def __exit__(self, *_: object) -> None:
        self._abort = None
        writing, self._writing = self._writing, None
        if writing is not None:
            with contextlib.suppress(OSError):
                os.write(writing, _END)  # a forked child may keep the pipe open
            os.close(writing)

    def _serve(self, reading: int) -> None:
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        grace: float | None = None
        try:
            while True:
                is_over = not poll.poll(None if grace is None else grace * 1000)
                if not is_over and ((content := os.read(reading, 64)) == b"" or _END in content):
                    return
                if self.at_once or (self.stopped and is_over):
                    self.at_once, grace = True, None
                    abort = self._abort
                    if abort is not None:
                        abort()
                elif self.stopped and grace is None:
                    grace = GRACE
        finally:
            os.close(reading)

    def _wake(self) -> None:
        if self._writing is not None and (self.stopped or self.at_once):
            with contextlib.suppress(OSError):
                os.write(self._writing, b".")

    def attach(self, abort: Callable[[], object] | None) -> None:
        """Set what cancels the requests in flight."""
        self._abort = abort
        self._wake()

    def stop(self) -> None:
        """Send nothing more. What is in flight is waited for, for :data:`GRACE` seconds at most."""
        self.stopped = True
        self._wake()

    def stop_at_once(self) -> None:
        """Cancel the requests in flight."""
        self.stopped = self.at_once = True
        self._wake()

    def wait(self, seconds: float) -> bool:
        """Wait, and return whether the job was stopped meanwhile."""
        end = time.monotonic() + seconds
        while not self.stopped and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return self.stopped

    def on_signal(self, *_: Any) -> None:
        """Handle a signal: the first stops gently, the second at once."""
        if self.stopped:
            self.stop_at_once()
        else:
            self.stop()
        if self.interruptible:
            self.interruptible = False
            raise StopJob


@contextlib.contextmanager
def handled_signals(control: JobControl, signals: tuple[int, ...], on_signal: Any = None) -> Iterator[None]:
    """Stop a job by signals while the block runs, in the main thread; elsewhere signals are left alone.

    A signal that is ignored stays ignored, as ``nohup`` wants it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    handler = control.on_signal if on_signal is None else on_signal
    try:
        for number in signals:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
