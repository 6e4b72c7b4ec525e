"""Verification: every checksum and every reference of a collection."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._collection.catalogue import checksum
from ctxembed._collection.keys import Keys
from ctxembed._collection.rows import vectors_checksum
from ctxembed._errors import CollectionError, IndexFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ctxembed._collection.folder import Folder
    from ctxembed._collection.view import View

__all__ = ["verify"]

_ERRORS: Final = (CollectionError, IndexFileError, OSError, sqlite3.Error)


def verify(folder: Folder, view: View) -> list[str]:
    """Return a sentence for each damage of a collection."""
    found: list[str] = []
    for check in (_database, _segments, _tail, _simple_rows, _documents, _ranges, _keys):
        try:
            found += check(folder, view)
        except (*_ERRORS, ValueError, TypeError, AttributeError) as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def _database(folder: Folder, view: View) -> list[str]:
    rows = view.query("PRAGMA integrity_check(20)")
    changed = [f"the columns of the table {name} are changed" for name in view.changed_tables()]
    return [f"{folder.catalogue}: {text}" for text in [*(text for (text,) in rows if text != "ok"), *changed]]


def _segments(folder: Folder, view: View) -> Iterator[str]:
    for segment in view.segments:
        path = folder.segment(segment.file)
        try:
            index = view.layout.index_class.open(path, mmap=True, verify=True)
        except (IndexFileError, OSError) as error:
            yield str(error)
            continue
        if len(index) != segment.rows:
            yield f"{path} has {len(index)} rows, and the catalogue says {segment.rows}"


def _tail(folder: Folder, view: View) -> list[str]:
    del folder
    view.index  # noqa: B018  # reads the tail, and compares its checksums
    return []


def _simple_rows(folder: Folder, view: View) -> Iterator[str]:
    """Compare the checksums of the tables whose rows are checksummed as they stand."""
    for table, order in (
        ("settings", "name"),
        ("generations", "number"),
        ("segments", "first_row"),
        ("tail_parts", "first_row"),
        ("removed", "first_row"),
        ("failures", "id"),
        ("windows", "key"),
        ("fields", "name"),
    ):
        for *values, expected in view.query(f"SELECT * FROM {table} ORDER BY {order}"):  # noqa: S608  # names from above
            if checksum(*values) != expected:
                yield f"{folder.catalogue}: the row {values[0]!r:.100} of {table} is changed"
    for number, *values, expected in view.query("SELECT * FROM responses"):
        if checksum(*values) != expected:
            yield f"{folder.catalogue}: the row {number} of responses is changed"


def _documents(folder: Folder, view: View) -> Iterator[str]:
    """Compare documents, their chunks and their vectors."""
    chunks = documents = 0
    statement = (
        "SELECT number, id, key, details, source, metadata, first_row, rows, vectors_checksum, checksum FROM documents "
        "WHERE number > ? ORDER BY number LIMIT 1000"
    )
    last = -1
    while page := view.query(statement, (last,)):
        for *values, expected in page:
            name, first, rows = values[1], values[6], values[7]
            documents += 1
            if checksum(*values) != expected:
                yield f"{folder.catalogue}: the document {name!r:.100} is changed"
                continue
            chunks += rows
            yield from _chunks_of(folder, view, values)
            vectors = view.index.vectors(np.arange(first, first + rows))
            if vectors_checksum(vectors) != values[8]:
                yield f"{folder.path}: the vectors of the document {name!r:.100} are changed"
        before, last = last, page[-1][0]
        if last <= before:  # else the same page would be read for ever
            yield f"{folder.catalogue}: the documents are not in the order of their numbers"
            return
    if (documents, chunks) != (view.documents, view.chunks):
        yield (
            f"{folder.catalogue} has {documents} documents with {chunks} chunks, and says that it has {view.documents} "
            f"with {view.chunks}"
        )


def _chunks_of(folder: Folder, view: View, document: Sequence[Any]) -> Iterator[str]:
    number, name, first, rows = document[0], document[1], document[6], document[7]
    found: list[tuple[Any, ...]] = view.query(
        "SELECT row, document, chunk, text, start, stop, checksum FROM chunks WHERE row >= ? AND row < ? ORDER BY row",
        (first, first + rows),
    )
    if [values[:3] for values in found] != [(first + chunk, number, chunk) for chunk in range(rows)]:
        yield f"{folder.catalogue}: the document {name!r:.100} has other chunks than its {rows}"
    for *values, expected in found:
        if checksum(*values) != expected:
            yield f"{folder.catalogue}: the chunk {values[2]} of the document {name!r:.100} is changed"


def _ranges(folder: Folder, view: View) -> Iterator[str]:
    """Each row belongs to one document, or was removed."""
    following = 0
    statement = "SELECT first_row, rows FROM documents UNION ALL SELECT first_row, rows FROM removed ORDER BY 1"
    for first, rows in view.query(statement):
        if first != following:
            yield f"{folder.catalogue}: row {min(first, following)} belongs to no document, or to two"
        following = first + rows
    if following != view.rows:
        yield f"{folder.catalogue}: {view.rows} rows are stored, and documents have {following}"
    [(count,)] = view.query("SELECT count(*) FROM chunks")
    if count != view.chunks:
        yield f"{folder.catalogue}: {count} chunks are stored, and {view.chunks} are expected"


def _keys(folder: Folder, view: View) -> Iterator[str]:
    """Each document is found by its key."""
    missing = Keys(view.query).missing()
    if missing:
        yield f"{folder.catalogue}: {missing} documents are not found by their keys: copies would be paid for again"
