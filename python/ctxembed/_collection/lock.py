"""The lock of a collection's writer. The system releases it when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import weakref
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ctxembed._collection.folder import named_errors
from ctxembed._errors import CollectionLockedError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["WriterLock", "read_holder"]


class WriterLock:
    """An exclusive ``flock`` on a file that names its holder: host, process, and since when.

    Parameters
    ----------
    path : Path
        The lock file, which is created and never deleted: a process that waits for a deleted file would lock nothing.

    Raises
    ------
    CollectionLockedError
        Another process, or another object of this one, holds it.
    OSError
        The file cannot be written, or the file system has no locks.

    Notes
    -----
    A forked child closes its copy of the file: only the process that took the lock holds it.
    """

    def __init__(self, path: Path) -> None:
        import fcntl  # not on Windows, where a collection can be read only

        self._pid = os.getpid()
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                with named_errors(path):
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _locked(path, self._descriptor) from None
            holder = {
                "host": socket.gethostname(),
                "pid": self._pid,
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            content = json.dumps(holder).encode() + b"\n"
            with contextlib.suppress(OSError):  # a full disk: it is locked all the same
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, content, 0)
        except BaseException:
            self.release()
            raise
        _HELD.add(self)

    def release(self) -> None:
        """Release the lock. Releasing it twice is no error."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            if self._pid == os.getpid():
                with contextlib.suppress(OSError):  # a full disk: the name of the holder stays
                    os.ftruncate(descriptor, 0)
            os.close(descriptor)


_HELD: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def _release_inherited() -> None:
    for lock in list(_HELD):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_inherited)


def _locked(path: Path, descriptor: int) -> CollectionLockedError:
    """Return the error that names the holder."""
    holder = _parsed(os.pread(descriptor, 4096, 0))
    host, pid, since = (holder.get(name) for name in ("host", "pid", "since"))
    named = f"process {pid} on {host}, since {since}," if holder else "another process"
    return CollectionLockedError(
        f"{path.parent}: {named} writes to this collection. Wait until it ends, or open it with read_only=True",
        host if isinstance(host, str) else None,
        pid if isinstance(pid, int) else None,
        since if isinstance(since, str) else None,
    )


def _parsed(content: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(content)
        if isinstance(found, dict):
            return found
    return {}


def read_holder(path: Path) -> dict[str, Any] | None:
    """Return host, pid and since of the writer that a lock file names; None where there is none.

    Notes
    -----
    The lock itself is left alone: to try it could refuse a writer that begins. A writer of this machine that was killed
    is not named, one of another machine is.
    """
    try:
        holder = _parsed(path.read_bytes()[:4096])
    except OSError:
        return None
    host, pid = holder.get("host"), holder.get("pid")
    if not isinstance(host, str) or not isinstance(pid, int):
        return None
    if host == socket.gethostname():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except (OSError, OverflowError):
            pass
    return {"host": host, "pid": pid, "since": holder.get("since")}
