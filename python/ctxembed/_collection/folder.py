"""The folder of a collection: its files, what else may stand there, and file systems that cannot hold it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ctxembed._errors import CollectionError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Folder", "check_file_system", "folder_of", "free_bytes", "named_errors", "sync_folder"]

_NETWORK: Final = re.compile(
    r"nfs\d*|cifs|smb\w*|afs|ncpfs|ceph|glusterfs|lustre|gpfs|beegfs|orangefs|"
    r"fuse\.(sshfs|glusterfs|ceph|s3fs|gcsfuse|goofys|rclone|juicefs|smbnetfs)"
)
"""Kinds of file systems that several machines write to: SQLite's WAL needs memory that all its processes share
(https://www.sqlite.org/wal.html)."""

_MOUNTS: Final = Path("/proc/self/mountinfo")
_SYSTEM_ENTRIES: Final = frozenset({"lost+found"})
"""Entries that an empty file system has."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The paths of a collection.

    Parameters
    ----------
    path : Path
        The folder.
    """

    path: Path
    catalogue: Path = field(init=False)
    """The SQLite database."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "catalogue", self.path / "catalogue.sqlite")

    @property
    def unfinished(self) -> Path:
        """The database while it is created."""
        return self.path / "catalogue.sqlite.new"

    @property
    def lock(self) -> Path:
        """The lock file of the writer."""
        return self.path / "lock"

    @property
    def segments(self) -> Path:
        """The folder of the sealed segments."""
        return self.path / "segments"

    @property
    def words(self) -> Path:
        """The folder of the index of words, which can be made again."""
        return self.path / "words"

    @property
    def generations(self) -> Path:
        """The folder of the generations that are not searched."""
        return self.path / "generations"

    def segment(self, number: int) -> Path:
        """Return the file of a segment."""
        return self.segments / f"{number:06}.idx"

    def tail(self, number: int) -> Path:
        """Return the file of a tail."""
        return self.path / f"tail-{number:06}.rows"

    def size(self) -> int:
        """Return the bytes of all files. Another process may delete some meanwhile."""
        total = 0
        for entry in self.path.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat().st_size if entry.is_file() else 0
        return total

    def is_unused(self) -> bool:
        """Return whether a collection can be made here: the folder is empty, or a creation that ended early left it."""
        own = {self.lock.name, self.segments.name}
        for entry in self.path.iterdir():
            is_own = entry.name in own or entry.name.startswith(self.unfinished.name)
            if not is_own and entry.name not in _SYSTEM_ENTRIES:
                return False
        return not self.segments.exists() or not any(self.segments.iterdir())

    def exists(self) -> bool:
        """Return whether there is a catalogue."""
        return self.catalogue.is_file()


def folder_of(path: object) -> Folder:
    """Return the folder that ``path`` names, with symbolic links resolved.

    Raises
    ------
    TypeError, ValueError
        ``path`` is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or os.PathLike, got {type(path).__name__}")
    named = os.fspath(path)
    if isinstance(named, bytes):
        named = os.fsdecode(named)
    if not named:
        raise ValueError("the path of the collection is empty")
    if "\0" in named:
        raise ValueError(f"path must not contain a null character, got {named!r:.100}")
    return Folder(Path(os.path.realpath(named)))


def check_file_system(path: Path) -> None:
    """Refuse a network file system, on which a collection could be damaged.

    Raises
    ------
    CollectionError
        The folder is on one.
    """
    found = _mount_of(path)
    if found is None:
        return
    point, kind, read_only = found
    if _NETWORK.fullmatch(kind) and not read_only:
        raise CollectionError(
            f"{path} is on a network file system ({kind}, mounted at {point}), where SQLite's write-ahead log and "
            "locks cannot be trusted. Keep the collection on a local disk, or mount it read-only"
        )


def _mount_of(path: Path) -> tuple[str, str, bool] | None:
    """Return mount point, type, and whether it is read-only, of the file system of a path; None where unknown."""
    try:
        text = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    best: tuple[str, str, bool] | None = None
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, behind = before.split(" "), after.split(" ")
        if len(fields) < 6 or not behind[0]:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        # The last mount at a point hides those before it.
        if path.is_relative_to(point) and (best is None or len(point) >= len(best[0])):
            best = (point, behind[0], "ro" in fields[5].split(","))
    return best


def free_bytes(path: Path) -> int | None:
    """Return the bytes that this user may still write; None where the system does not say."""
    try:
        found = os.statvfs(path)
    except (AttributeError, OSError):
        return None
    return found.f_bavail * found.f_frsize


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Name the file in an ``OSError`` of a call that takes a descriptor."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def sync_folder(path: Path) -> None:
    """Flush the entries of a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with named_errors(path):
            os.fsync(descriptor)
    except OSError as error:  # a file system that has no such call keeps its own order
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
