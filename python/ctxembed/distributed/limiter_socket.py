"""The socket of a limiter: of this user alone, never in place of anything else's, and removed at the end."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ctxembed._client.limiter_address import LimiterAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["listen"]

_BACKLOG: Final = 1024
_PRIVATE: Final = stat.S_IRUSR | stat.S_IWUSR


@contextlib.contextmanager
def listen(address: LimiterAddress) -> Iterator[tuple[socket.socket, LimiterAddress]]:
    """Listen at an address; yield the socket and the address with the port that was chosen.

    Raises
    ------
    OSError
        Something else is there, or the system refuses. It names the address.
    """
    if address.path is None:
        family, _, _, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _bind(listener, target, str(address))
            yield listener, LimiterAddress(host=address.host, port=listener.getsockname()[1])
        return
    path = Path(address.path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with _locked(path.parent):
            _remove_stale(path)
            with contextlib.suppress(OSError):  # where it works, the file is private from its first moment on
                os.fchmod(listener.fileno(), _PRIVATE)
            _bind(listener, str(path), str(address))
            path.chmod(_PRIVATE)
            created = _identity(path)
        try:
            yield listener, address
        finally:
            with contextlib.suppress(OSError), _locked(path.parent):
                if _identity(path) == created:
                    path.unlink()


def _bind(listener: socket.socket, target: object, shown: str) -> None:
    try:
        listener.bind(target)  # type: ignore[arg-type]
        listener.listen(_BACKLOG)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), shown) from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other limiters from this folder, while one looks at its file and replaces it."""
    import fcntl  # as Unix sockets: not on every system

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    """Remove the socket of a limiter that was killed. Refuse anything else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(f"{path} exists and is no socket: it is left as it is")
    if found.st_uid != os.geteuid():
        raise FileExistsError(f"{path} is the socket of another user: it is left as it is")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its backlog is full, so something listens
    raise FileExistsError(f"{path}: a process listens there already")


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
