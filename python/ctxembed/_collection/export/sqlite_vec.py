"""sqlite-vec: a database with one virtual table, whose rows are numbered from 0.

The SQLite of many Pythons cannot load extensions, so apsw writes the file, which brings a SQLite of its own.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ctxembed._collection.export.rows import Format
from ctxembed._extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxembed._collection.export.rows import Batch, Shape
    from ctxembed._collection.export.target import Target

__all__ = ["FORMAT"]


def _write(target: Target, shape: Shape, batches: Iterator[Batch]) -> None:
    extension = require("sqlite_vec", "sqlite-vec", "an export to sqlite-vec")
    apsw = require("apsw", "sqlite-vec", "an export to sqlite-vec")
    try:
        with contextlib.closing(apsw.Connection(str(target.part()))) as connection:
            _fill(connection, extension.loadable_path(), shape, batches)
    except apsw.Error as error:
        raise OSError(f"SQLite cannot write {target.part()}: {error}") from error


def _fill(connection: Any, extension: str, shape: Shape, batches: Iterator[Batch]) -> None:
    is_bits = shape.vectors == "bits"
    # Cosine is named, since the default is L2, which ranks int8 vectors of unlike lengths differently.
    kind = f"bit[{shape.dimensions}]" if is_bits else f"int8[{shape.dimensions}] distance_metric=cosine"
    value = "vec_bit(?)" if is_bits else "vec_int8(?)"
    insert = f"INSERT INTO chunks (rowid, id, chunk, text, metadata, vector) VALUES (?, ?, ?, ?, ?, {value})"  # noqa: S608
    connection.enable_load_extension(True)
    connection.load_extension(extension)
    connection.enable_load_extension(False)
    # An export that is interrupted is thrown away, so nothing needs a journal.
    connection.pragma("journal_mode", "OFF")
    connection.pragma("synchronous", "OFF")
    connection.execute("BEGIN")
    columns = "+id TEXT, +chunk INTEGER, +text TEXT, +metadata TEXT"
    connection.execute(f"CREATE VIRTUAL TABLE chunks USING vec0(vector {kind}, {columns})")
    row = 0
    for batch in batches:
        vectors = (vector.tobytes() for vector in batch.vectors)
        numbers = range(row, row + len(batch))
        values = zip(numbers, batch.ids, batch.chunks, batch.texts, batch.metadata, vectors, strict=True)
        connection.executemany(insert, values)
        row += len(batch)
    connection.execute("COMMIT")


FORMAT = Format(_write, ("int8", "bits"), (".sqlite", ".sqlite3", ".db"))
