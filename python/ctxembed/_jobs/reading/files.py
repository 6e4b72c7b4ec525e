"""Opens files, and the limits on what is read of them."""

from __future__ import annotations

import codecs
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BOM", "MAX_RECORD", "UTF16_AND_32", "BytesRead", "open_file", "shown_size"]

MAX_RECORD: Final = 1 << 26
"""Bytes of a record or of a file that is one document. A document is limited to 32,000 tokens, so more is not one."""

BOM: Final = codecs.BOM_UTF8
UTF16_AND_32: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # UTF-32-LE begins as UTF-16-LE


@dataclass(slots=True)
class BytesRead:
    """Bytes that were read of all inputs."""

    total: int = 0


def open_file(path: Path, *, pipe: bool = False) -> BinaryIO:
    """Open a regular file, or with ``pipe`` a pipe.

    Raises
    ------
    OSError
        It cannot be opened.
    ValueError
        It is something else by now.
    """
    # Not blocking, unless a pipe is expected: one may have taken the place of the file.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if pipe else os.O_NONBLOCK))
    stream = open(descriptor, "rb", buffering=1 << 17)  # noqa: PTH123, SIM115  # of a descriptor
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or (pipe and stat.S_ISFIFO(mode))):
        stream.close()
        raise ValueError("not a file")
    return stream


def shown_size(size: int) -> str:
    """Return a number of bytes in MiB."""
    return f"{size >> 20} MiB"
