"""Snapshots: a whole, verified copy of one committed state, while a writer goes on.

Segments are never changed in place: they appear by a rename and go by a deletion, so a copy may share their data with
the collection. What a writer does to one of the two, the other does not see.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._collection.catalogue import connect, sqlite_errors, transaction
from ctxembed._collection.compact import write_segments
from ctxembed._collection.folder import Folder, check_file_system, folder_of, named_errors, sync_folder
from ctxembed._collection.state import write_setting
from ctxembed._collection.verify import verify
from ctxembed._collection.view import View
from ctxembed._errors import CollectionError

if TYPE_CHECKING:
    from ctxembed._collection.rows import Segment

__all__ = ["copy_vectors", "write_snapshot"]

_FICLONE: Final = 0x40049409
"""Of ``linux/fs.h``: shares the data of a file with another until one of them changes."""

_EXISTS: Final = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
"""What a rename onto a folder with files, or onto a file, ends with."""


def write_snapshot(folder: Folder, path: Any, *, immutable: bool) -> None:
    """Write a copy of the last committed state to a folder that does not exist.

    Raises as :meth:`Collection.snapshot`.
    """
    target = folder_of(path).path
    if os.path.lexists(path):  # a link that leads to nothing, too
        raise FileExistsError(17, "exists already: a snapshot replaces nothing", str(target))
    if target.is_relative_to(folder.path):
        raise ValueError(f"the snapshot {target} would be inside the collection {folder.path}")
    check_file_system(target.parent)
    unfinished = Folder(target.parent / f".snapshot-{os.getpid()}-{secrets.token_hex(4)}.unfinished")
    unfinished.path.mkdir()
    try:
        _copy_state(folder, unfinished, immutable=immutable)
        _check(unfinished, target)
        for written in (unfinished.segments, unfinished.path):
            sync_folder(written)
        _rename(unfinished.path, target)
    except BaseException:
        shutil.rmtree(unfinished.path, ignore_errors=True)
        raise
    sync_folder(target.parent)


def _copy_state(folder: Folder, target: Folder, *, immutable: bool) -> None:
    view = View(folder, immutable=immutable)
    try:
        copy_vectors(folder, view, target)
        view.copy_catalogue(target.catalogue)
    finally:
        view.close()
    connection = connect(target.catalogue, read_only=False)
    with contextlib.closing(connection):
        with transaction(connection, target.catalogue):
            # Both are of the collection's writer: what it has sent, and the files that it will delete.
            write_setting(connection, "in_flight", None)
            connection.execute("DELETE FROM retired_files")
        with sqlite_errors(target.catalogue):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def copy_vectors(folder: Folder, view: View, target: Folder) -> None:
    """Give a folder the segments and the tail of a state."""
    target.segments.mkdir()
    for segment in view.segments:
        _copy_segment(folder, view, segment, target)
    tail = view.tail_rows()
    if len(tail):
        path = target.tail(view.generation.tail)
        with named_errors(path), path.open("wb") as file:
            file.write(tail.tobytes())
            file.flush()
            os.fsync(file.fileno())


def _copy_segment(folder: Folder, view: View, segment: Segment, target: Folder) -> None:
    """Give the copy a segment: its data shared, or the file itself, or a copy of it."""
    source = Path(os.path.realpath(folder.segment(segment.file)))
    path = target.segment(segment.file)
    for copy in (_share_data, os.link, _copy_file):
        try:
            copy(source, path)
        except FileNotFoundError:
            break
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            if copy is _copy_file:
                raise
        else:
            return
    # A writer has compacted meanwhile. The view still has the rows, and a segment of the same rows is the same file.
    first, rows = segment.first_row, segment.rows
    list(write_segments(target, view, [(segment.file, 0, rows)], np.arange(first, first + rows)))


def _share_data(source: Path, target: Path) -> None:
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "not supported", str(target))
    import fcntl

    with source.open("rb") as old, target.open("xb") as new:
        fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        os.fsync(new.fileno())


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as old, named_errors(target), target.open("xb") as new:
        shutil.copyfileobj(old, new, 1 << 20)
        new.flush()
        os.fsync(new.fileno())


def _check(folder: Folder, target: Path) -> None:
    """Compare all checksums of the copy, before it has its name."""
    view = View(folder, immutable=True)
    try:
        found = verify(folder, view)
    finally:
        view.close()
    if found:
        first = found[0].replace(str(folder.path), str(target))
        raise CollectionError(
            f"no snapshot was made, since it would be damaged: {first}. verify() says whether the collection is"
        )


def _rename(source: Path, target: Path) -> None:
    """Rename a folder. One that appeared meanwhile is not replaced; an empty one is, and holds nothing."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in _EXISTS:
            raise FileExistsError(17, "exists already: a snapshot replaces nothing", str(target)) from None
        raise
