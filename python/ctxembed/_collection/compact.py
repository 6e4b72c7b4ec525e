"""Compaction: a collection without the rows of deleted and replaced documents.

New files are written beside the old ones, and one transaction makes them the collection.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from ctxembed._collection import rows as row_files
from ctxembed._collection.catalogue import checksum, damaged
from ctxembed._collection.folder import named_errors
from ctxembed._collection.rows import Segment

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ctxembed._collection.folder import Folder
    from ctxembed._collection.rows import Layout
    from ctxembed._collection.view import View

__all__ = ["new_files", "renumber", "write_segments"]

_COPIED: Final = 4 << 20
"""Bytes of rows that are copied at once."""


def new_files(layout: Layout, rows: int, first_file: int) -> list[tuple[int, int, int]]:
    """Return (number of the file, first row, rows) of each segment to write."""
    most = max(1, row_files.SEAL_BYTES // layout.width)
    return [(first_file + place, start, min(most, rows - start)) for place, start in enumerate(range(0, rows, most))]


def write_segments(
    folder: Folder, view: View, files: Sequence[tuple[int, int, int]], numbers: NDArray[np.int64]
) -> Iterator[Segment]:
    """Write segments with the rows ``numbers``, and yield each."""
    seal = view.layout.index_class._seal  # noqa: SLF001
    step = max(1, _COPIED // view.layout.width)
    for file, start, count in files:
        raw = folder.tail(file)
        with named_errors(raw), raw.open("wb") as stream:
            for first in range(start, start + count, step):
                stream.write(view.index.vectors(numbers[first : min(first + step, start + count)]).tobytes())
        header = seal(raw, count, folder.segment(file), view.layout.dimensions, space=view.generation.space)
        os.unlink(raw)  # noqa: PTH108
        yield Segment(start, count, file, header)


def renumber(connection: sqlite3.Connection, folder: Folder) -> None:
    """Number the rows of documents and chunks anew, in order of ingestion.

    Raises
    ------
    CollectionError
        A row is damaged: with a new checksum it would look whole.
    """
    changed: list[Any] = []

    def checked(new: int, old: int, *values: Any) -> int:
        *content, expected = values
        if checksum(old, *content) != expected:
            changed.append(old)
        return checksum(new, *content)

    connection.create_function("renumbered", 8, checked)
    connection.execute("CREATE TEMP TABLE moved (number INTEGER PRIMARY KEY, first_row INTEGER NOT NULL)")
    following = 0
    moved, updates = [], []
    statement = (
        "SELECT number, id, key, details, source, metadata, first_row, rows, vectors_checksum, checksum FROM documents "
        "ORDER BY number"
    )
    for *values, expected in connection.execute(statement):
        if checksum(*values) != expected:
            raise damaged(folder.catalogue, f"the document {values[1]!r:.100} is changed")
        moved.append((values[0], following))
        values[6] = following
        updates.append((following, checksum(*values), values[0]))
        following += values[7]
    connection.executemany("INSERT INTO moved VALUES (?, ?)", moved)
    schema = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'chunks'").fetchone()[0]
    connection.execute("CREATE TABLE renumbered_chunks " + schema[schema.index("(") :])
    connection.execute(
        """INSERT INTO renumbered_chunks
           SELECT moved.first_row + c.chunk, c.document, c.chunk, c.text, c.start, c.stop,
                  renumbered(moved.first_row + c.chunk, c.row, c.document, c.chunk, c.text, c.start, c.stop, c.checksum)
           FROM moved JOIN documents AS d ON d.number = moved.number
           JOIN chunks AS c ON c.row >= d.first_row AND c.row < d.first_row + d.rows
           ORDER BY moved.number"""
    )
    if changed:
        raise damaged(folder.catalogue, f"the chunk of row {changed[0]} is changed")
    connection.execute("DROP TABLE chunks")
    connection.execute("ALTER TABLE renumbered_chunks RENAME TO chunks")
    connection.executemany("UPDATE documents SET first_row = ?, checksum = ? WHERE number = ?", updates)
    connection.execute("DELETE FROM removed")
    connection.execute("DROP TABLE moved")
