"""The vectors of a collection on disk: sealed segments in the format of index files, and a tail of raw rows.

A row's number counts all rows since the last compaction, over the segments in their order and then the tail. It is the
id of the row in the index.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed import _core
from ctxembed._collection.catalogue import damaged
from ctxembed._collection.folder import named_errors, sync_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ctxembed._collection.folder import Folder

__all__ = [
    "HEADER_BYTES",
    "Layout",
    "Segment",
    "TailWriter",
    "check_size",
    "open_index",
    "read_tail",
    "row_numbers",
    "vectors_checksum",
]

HEADER_BYTES: Final = 256
"""Of an index file. It has the checksums of all sections, so two files with one header have one content."""

SEAL_BYTES: Final = 24 << 20
"""The tail is sealed when it has so many bytes."""

TAIL_BYTES: Final = 32 << 20
"""The tail is sealed before rows that would make it larger, unless these rows alone do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How vectors are stored.

    Parameters
    ----------
    dimensions : int
        Of each vector.
    encoding_format : {"base64_int8", "base64_binary"}
        int8 values, or packed bits.
    """

    dimensions: int
    encoding_format: str

    @property
    def is_binary(self) -> bool:
        """Whether the rows are packed bits."""
        return self.encoding_format == "base64_binary"

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return self.dimensions // 8 if self.is_binary else self.dimensions

    @property
    def dtype(self) -> type[np.int8 | np.uint8]:
        """Of the rows."""
        return np.uint8 if self.is_binary else np.int8

    @property
    def index_class(self) -> Any:
        """The class of the index."""
        return _core.BinaryIndex if self.is_binary else _core.Index


@dataclass(frozen=True, slots=True)
class Segment:
    """A sealed file of vectors.

    Parameters
    ----------
    first_row, rows : int
        Its rows.
    file : int
        Number of its file.
    header : bytes
        The header that the file has to begin with.
    """

    first_row: int
    rows: int
    file: int
    header: bytes


def _as_bytes(rows: NDArray[Any]) -> memoryview:
    """Return the bytes of a contiguous array, without a copy."""
    return memoryview(rows.view(np.uint8).reshape(-1).data).cast("B")


def row_numbers(ranges: Sequence[tuple[Any, ...]]) -> NDArray[np.int64]:
    """Return all row numbers of ranges (first row, number of rows), in their order."""
    if not ranges:
        return np.zeros(0, np.int64)
    pairs = np.array(ranges, np.int64)
    ends = np.cumsum(pairs[:, 1])
    return np.repeat(pairs[:, 0] - (ends - pairs[:, 1]), pairs[:, 1]) + np.arange(int(ends[-1]))


def vectors_checksum(rows: NDArray[Any]) -> int:
    """Return the CRC-32 of rows."""
    return _core.rows_checksum(np.ascontiguousarray(rows).view(np.uint8))


_flush: Final = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class TailWriter:
    """Appends rows to the tail.

    Parameters
    ----------
    folder : Folder
        Of the collection.
    layout : Layout
        Of the rows.
    number : int
        Of the tail's file.
    rows : int
        Rows that the catalogue knows. What follows them in the file was never committed, and is cut.

    Raises
    ------
    CollectionError
        The file is missing or shorter than the catalogue says.
    """

    def __init__(self, folder: Folder, layout: Layout, number: int, rows: int) -> None:
        self._folder = folder
        self._layout = layout
        self.number = number
        self.rows = rows
        self.path = folder.tail(number)
        created = not self.path.exists()
        if created and rows:
            raise damaged(self.path, f"it is missing, and had {rows} rows")
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if created:
                sync_folder(folder.path)
            check_size(self.path, self._descriptor, rows * layout.width)
            with named_errors(self.path):
                os.ftruncate(self._descriptor, rows * layout.width)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of the committed rows."""
        return self.rows * self._layout.width

    def append(self, rows: NDArray[Any]) -> None:
        """Write rows behind the committed ones, and flush them to the disk. They count once they are committed."""
        content = _as_bytes(np.ascontiguousarray(rows))
        position = self.size
        try:
            with named_errors(self.path):
                while len(content):
                    written = os.pwrite(self._descriptor, content, position)
                    content, position = content[written:], position + written
                _flush(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):  # the next writer cuts the rows
                os.ftruncate(self._descriptor, self.size)
            raise

    def seal(self, target: Path, space: str | None) -> bytes:
        """Write the committed rows as a segment, and return its header."""
        seal = self._layout.index_class._seal  # noqa: SLF001
        header: bytes = seal(self.path, self.rows, target, self._layout.dimensions, space=space)
        return header

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def check_size(path: Path, descriptor: int, expected: int) -> None:
    """Refuse a file that is shorter than the catalogue says."""
    size = os.fstat(descriptor).st_size
    if size < expected:
        raise damaged(path, f"it has {size} bytes, and the catalogue knows of {expected}")


def read_tail(path: Path, descriptor: int, layout: Layout, parts: Sequence[tuple[int, int]]) -> NDArray[Any]:
    """Return the rows of a tail.

    Parameters
    ----------
    path : Path
        For messages.
    descriptor : int
        The open file.
    layout : Layout
        Of the rows.
    parts : sequence of (int, int)
        Number of rows and checksum of each commit.

    Returns
    -------
    ndarray of int8 or uint8, shape (rows, width)

    Raises
    ------
    CollectionError
        A part is incomplete, or its checksum differs.
    """
    total = sum(rows for rows, _ in parts)
    content = np.empty((total, layout.width), layout.dtype)
    view, position = _as_bytes(content), 0
    while position < len(view):
        with named_errors(path):
            read = os.preadv(descriptor, [view[position:]], position)
        if read == 0:
            raise damaged(path, f"it has {position} bytes, and the catalogue knows of {len(view)}")
        position += read
    start = 0
    for rows, expected in parts:
        found = vectors_checksum(content[start : start + rows])
        if found != expected:
            raise damaged(
                path, f"the checksum of rows {start} to {start + rows - 1} is {found:08x}, not {expected:08x}"
            )
        start += rows
    return content


def open_index(
    folder: Folder,
    layout: Layout,
    segments: Sequence[Segment],
    space: str | None,
    calibration: tuple[int, int, float] | None,
) -> Any:
    """Open the segments as one index, whose ids are row numbers. The files are mapped, not read.

    Raises
    ------
    IndexFileError
        A file is not the segment that the catalogue knows.
    FileNotFoundError
        A file is missing.
    """
    files = [(folder.segment(segment.file), segment.header) for segment in segments]
    return layout.index_class._open_segments(layout.dimensions, files, space=space, calibration=calibration)  # noqa: SLF001
