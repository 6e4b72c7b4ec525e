"""A journal in a folder, for clients in many processes and on many machines that share a file system."""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._collection.folder import sync_folder

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray

    from ctxembed._results import Usage

__all__ = ["JournalFolder"]

_HEADER: Final = struct.Struct("<4s32s2sIIII")
"""Magic, key, dtype, rows, width, checksum of the vectors, and checksum of all that is before it."""

_MAGIC: Final = b"ctj1"
_SUFFIX: Final = ".journal"
_DTYPES: Final = (b"i1", b"u1")


class JournalFolder:
    """Keeps the vectors of documents in a folder, so that none is paid for twice: the ``journal`` of clients.

    Every process appends to a file of its own, and reads those of all others. What is there outlives the processes, so
    that a job that is started again, with the same folder, requests only what was in flight.

    Parameters
    ----------
    path : str or os.PathLike
        The folder. It is created if it is not there.

    Raises
    ------
    OSError
        The folder cannot be created.

    Notes
    -----
    A record reaches the disk before its response is handed out. A record that was cut off, when its process was killed,
    is ignored, and so is all that follows damage in a file. Each process remembers where the vectors of a document are,
    in about 200 bytes. Remove the folder when the job is done. A journal can be pickled; the copy opens the folder
    anew.

    Examples
    --------
    >>> journal = JournalFolder(folder)  # doctest: +SKIP
    >>> client = ctxembed.Client(journal=journal)  # doctest: +SKIP
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._folder = Path(path).absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._places: dict[bytes, tuple[str, int, bytes, int, int, int]] = {}
        self._read_up_to: dict[str, int] = {}
        self._own: tuple[int, Path] | None = None

    def get(self, keys: list[bytes], /) -> dict[bytes, NDArray[Any]]:
        """Return the rows of those documents that are known."""
        if any(key not in self._places for key in keys):
            self._refresh()
        found = {}
        for key in keys:
            rows = self._rows_of(key)
            if rows is not None:
                found[key] = rows
        return found

    def put(self, rows: dict[bytes, NDArray[Any]], usage: Usage, /) -> None:  # noqa: ARG002  # of the protocol
        """Append the rows of one response."""
        parts = []
        for key, matrix in rows.items():
            content = np.ascontiguousarray(matrix).tobytes()
            dtype = matrix.dtype.str[1:].encode()
            if len(key) != 32 or matrix.ndim != 2 or dtype not in _DTYPES:
                raise ValueError(f"a journal holds int8 or uint8 rows by keys of 32 bytes, got {matrix.dtype}")
            start = _HEADER.pack(_MAGIC, key, dtype, *matrix.shape, zlib.crc32(content), 0)[:-4]
            parts += [start, struct.pack("<I", zlib.crc32(start)), content]
        try:
            with self._own_file().open("ab") as file:
                file.write(b"".join(parts))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            self._own = None  # nothing may follow a record that was cut off
            raise

    def __reduce__(self) -> tuple[type[JournalFolder], tuple[str]]:
        return type(self), (str(self._folder),)

    def __len__(self) -> int:
        """Return the number of documents that are known."""
        self._refresh()
        return len(self._places)

    def _own_file(self) -> Path:
        """Return the file of this process, which nothing else writes to. A forked child has one of its own."""
        if self._own is None or self._own[0] != os.getpid():
            path = self._folder / f"{uuid.uuid4().hex}{_SUFFIX}"
            path.touch(exist_ok=False)
            sync_folder(self._folder)
            self._own = (os.getpid(), path)
        return self._own[1]

    def _refresh(self) -> None:
        """Read the headers of all records that came since."""
        with os.scandir(self._folder) as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries if entry.name.endswith(_SUFFIX)}
        for name, size in sizes.items():
            start = self._read_up_to.get(name, 0)
            if size > start:
                self._read_up_to[name] = self._scan(name, start, size)

    def _scan(self, name: str, at: int, size: int) -> int:
        """Note the records from ``at`` on, and return where the first is that is not whole."""
        with (self._folder / name).open("rb") as file:
            while at + _HEADER.size <= size:
                file.seek(at)
                header = file.read(_HEADER.size)
                magic, key, dtype, rows, width, checksum, own = _HEADER.unpack(header)
                end = at + _HEADER.size + rows * width
                if magic != _MAGIC or zlib.crc32(header[:-4]) != own or end > size:
                    break
                self._places[key] = (name, at + _HEADER.size, dtype, rows, width, checksum)
                at = end
        return at

    def _rows_of(self, key: bytes) -> NDArray[Any] | None:
        place = self._places.get(key)
        if place is None:
            return None
        name, offset, dtype, rows, width, checksum = place
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(offset)
                content = file.read(rows * width)
        except FileNotFoundError:
            content = b""
        if len(content) != rows * width or zlib.crc32(content) != checksum:
            del self._places[key]  # damaged: it is requested again
            return None
        return np.frombuffer(content, dtype=np.dtype(dtype.decode())).reshape(rows, width)
