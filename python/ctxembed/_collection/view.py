"""What is read from a collection: one committed state, held by an open read transaction."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed import _core
from ctxembed._collection.catalogue import changed_tables, checksum, connect, damaged, sqlite_errors
from ctxembed._collection.fields import FieldColumns, check_rows, rows_mask, select_documents, select_rows
from ctxembed._collection.rows import check_size, open_index, read_tail
from ctxembed._collection.state import (
    read_generation,
    read_numbering,
    read_segments,
    read_setting,
    read_tail_parts,
)
from ctxembed._documents import Document
from ctxembed._errors import CollectionError, IndexFileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ctxembed._collection.folder import Folder

__all__ = ["View"]

_MASKS: Final = 16
"""Filters whose masks are kept."""

_DOCUMENT: Final = "number, id, key, details, source, metadata, first_row, rows, vectors_checksum, checksum"
_CHUNK: Final = "row, document, chunk, text, start, stop, checksum"
_FOUND: Final = (
    "SELECT chunks.row, document, chunk, text, start, stop, chunks.checksum, "
    "number, id, key, details, source, metadata, first_row, rows, vectors_checksum, documents.checksum "
    "FROM chunks LEFT JOIN documents ON number = document WHERE chunks.row"
)
"""A chunk and its document."""

_AT_ONCE: Final = 256
_PAGES: Final = 4096
"""Pages of the database that are copied at once."""


class View:
    """One committed state of a collection. Any thread may use it.

    Parameters
    ----------
    folder : Folder
        Of the collection.
    immutable : bool
        Whether no process can write to it.

    Notes
    -----
    The state is held by a read transaction, so it stays as it is, whatever a writer commits. The files that it refers
    to are open, so a writer may delete them. SQLite's log grows while it is held and a writer commits.
    """

    def __init__(self, folder: Folder, *, immutable: bool = False) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._connection = connect(folder.catalogue, read_only=True, immutable=immutable)
        self._tail_descriptor = -1
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        """Take the last committed state."""
        while True:
            try:
                self._read_state()
            except (FileNotFoundError, IndexFileError, CollectionError):
                # A writer may have sealed the tail or compacted since the transaction began.
                before = self._connection.execute("PRAGMA data_version").fetchone()
                self._end()
                if self._connection.execute("PRAGMA data_version").fetchone() == before:
                    raise
                continue
            return

    def _read_state(self) -> None:
        folder, connection = self._folder, self._connection
        with sqlite_errors(folder.catalogue):
            connection.execute("BEGIN")
            self.generation = generation = read_generation(connection, folder)
            self.layout = generation.layout
            self.segments = read_segments(connection, folder, generation.number)
            self._tail_first = self.segments[-1].first_row + self.segments[-1].rows if self.segments else 0
            self._parts = read_tail_parts(connection, folder, generation.number, self._tail_first)
            self.numbering = read_numbering(connection, folder, generation, self.segments)
            self.store_text = bool(read_setting(connection, folder, "store_text", required=True))
            self.documents = int(read_setting(connection, folder, "documents") or 0)
            self.chunks = int(read_setting(connection, folder, "chunks") or 0)
            self.columns = FieldColumns.read(connection, folder)
        self.rows = self._tail_first + sum(rows for rows, _ in self._parts)
        # Mapped now, since a compaction deletes files: it takes no time.
        try:
            self._index = open_index(folder, self.layout, self.segments, generation.space, generation.calibration)
        except FileNotFoundError as error:
            raise CollectionError(f"{error.filename or folder.segments}: a segment is missing") from error
        path = folder.tail(generation.tail)
        if self._parts:
            self._tail_descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            check_size(path, self._tail_descriptor, (self.rows - self._tail_first) * self.layout.width)
        self._tail_is_read = not self._parts
        self._masks: OrderedDict[Any, NDArray[np.bool_] | None] = OrderedDict()

    def _end(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
        descriptor, self._tail_descriptor = self._tail_descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            self._end()
            self._connection.close()

    @property
    def segment_count(self) -> int:
        """Number of sealed files."""
        return len(self.segments)

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            with contextlib.suppress(Exception):
                self.close()

    # --- vectors ---

    @property
    def index(self) -> Any:
        """The index of all rows. The tail is read at first use."""
        with self._lock:
            if not self._tail_is_read:
                self._index.add(self.tail_rows())
                self._tail_is_read = True
            return self._index

    def tail_rows(self) -> NDArray[Any]:
        """Read the committed rows of the tail, and check them."""
        return read_tail(self._folder.tail(self.generation.tail), self._tail_descriptor, self.layout, self._parts)

    def mask(self, where: str | None, params: object) -> NDArray[np.bool_] | None:
        """Return the rows that may be found: bool, shape (rows,); None for all."""
        with self._lock:
            try:
                key = (where, repr(params))
            except Exception:  # noqa: BLE001  # a repr of the caller's: it is refused below
                key = None
            if key is not None and key in self._masks:
                self._masks.move_to_end(key)
                return self._masks[key]
            if where is not None:
                mask: NDArray[np.bool_] | None = select_rows(
                    self._connection, self._folder, self.columns, where, params, total=self.rows
                )
            else:
                mask = self._alive()
            if key is not None:
                self._masks[key] = mask
                if len(self._masks) > _MASKS:
                    self._masks.popitem(last=False)
            return mask

    def _alive(self) -> NDArray[np.bool_] | None:
        if self.chunks == self.rows:
            return None
        removed = []
        with sqlite_errors(self._folder.catalogue):
            for first, rows, found in self._connection.execute("SELECT first_row, rows, checksum FROM removed"):
                if checksum(first, rows) != found:
                    raise damaged(self._folder.catalogue, f"the row of the removed rows from {first} is changed")
                removed.append((first, rows))
        pairs = np.array(removed, np.int64).reshape(-1, 2)
        mask = ~rows_mask(self._folder, pairs[:, 0], pairs[:, 1], self.rows)
        if int(mask.sum()) != self.chunks:
            raise damaged(self._folder.catalogue, "the removed rows and the number of chunks do not fit")
        return mask

    # --- documents ---

    def copy_catalogue(self, target: Path) -> None:
        """Write the database of this state to a file that does not exist."""
        with self._lock, sqlite_errors(target), contextlib.closing(sqlite3.connect(target)) as copy:
            # In steps, between which Ctrl-C is noticed.
            self._connection.backup(copy, pages=_PAGES, progress=lambda *_: None)

    def chunks_at(self, rows: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return (document number, chunk, text, start, stop) of each row, and check it."""
        found = self._rows_at(f"SELECT {_CHUNK} FROM chunks WHERE row", rows)  # noqa: S608
        for row in rows:
            if row not in found:
                raise damaged(self._folder.catalogue, f"it has no chunk for row {row}")
        return [self._checked_chunk(found[row]) for row in rows]

    def _rows_at(self, statement: str, numbers: Sequence[Any]) -> dict[Any, tuple[Any, ...]]:
        """Return the rows of a table whose first column is one of some values, by that."""
        found: dict[Any, tuple[Any, ...]] = {}
        for first in range(0, len(numbers), _AT_ONCE):
            part = numbers[first : first + _AT_ONCE]
            # One of a few sizes, whose statements SQLite's module keeps: to prepare one takes longer than to run it.
            padding = (1 << (len(part) - 1).bit_length()) - len(part)
            part = (*part, *(part[-1],) * padding)
            marks = ", ".join("?" * len(part))
            found.update((values[0], values) for values in self.query(f"{statement} IN ({marks})", part))
        return found

    def texts(self, first: int, stop: int) -> list[tuple[int, str, int]]:
        """Return (row, text, checksum) of each chunk in the rows from ``first`` to before ``stop``, and check it."""
        statement = f"SELECT {_CHUNK} FROM chunks WHERE row >= ? AND row < ? ORDER BY row"  # noqa: S608
        return [
            (values[0], self._checked_chunk(values)[2], values[-1]) for values in self.query(statement, (first, stop))
        ]

    def _checked_chunk(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        row, document, chunk, text, start, stop, expected = values
        try:
            fits = checksum(row, document, chunk, text, start, stop) == expected
        except (AttributeError, TypeError, ValueError):  # of another type than was stored
            fits = False
        if not fits:
            raise damaged(self._folder.catalogue, f"the chunk of row {row} is changed")
        return values[1:-1]

    def rows_of(self, row: int) -> tuple[int, int]:
        """Return (first row, row behind the last) of the document that a row belongs to."""
        [(number, chunk, *_)] = self.chunks_at([row])
        first, rows = self.document_at(number)[6:8]
        if not (row - first == chunk < rows):
            raise damaged(self._folder.catalogue, f"the row {row} is not the chunk {chunk} of its document")
        return first, first + rows

    def document_at(self, number: int) -> tuple[Any, ...]:
        """Return the checked row of a document by its number."""
        return self.documents_at([number])[number]

    def documents_at(self, numbers: Sequence[int]) -> dict[int, tuple[Any, ...]]:
        """Return the checked rows of documents by their numbers."""
        found = self._rows_at(f"SELECT {_DOCUMENT} FROM documents WHERE number", numbers)  # noqa: S608
        for number in numbers:
            if number not in found:
                raise damaged(self._folder.catalogue, f"it has no document {number}")
        return {number: self._checked_document(values) for number, values in found.items()}

    def _checked_document(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        try:
            fits = checksum(*values[:-1]) == values[-1]
        except (AttributeError, TypeError, ValueError):
            fits = False
        if not fits:
            raise damaged(self._folder.catalogue, f"the document number {values[0]} is changed")
        self._check_rows(values)
        return values[:-1]

    def _check_rows(self, document: tuple[Any, ...]) -> None:
        if document[6] + document[7] > self.rows:
            raise damaged(self._folder.catalogue, f"the rows of the document {document[1]!r:.100} are missing")

    def find(self, id: str) -> tuple[Any, ...] | None:  # noqa: A002
        """Return the checked row of a document by its id."""
        with self._lock, sqlite_errors(self._folder.catalogue):
            statement = f"SELECT {_DOCUMENT} FROM documents WHERE id = ?"  # noqa: S608
            values = self._connection.execute(statement, (id,)).fetchone()
        return None if values is None else self._checked_document(values)

    def documents_named(self, names: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """Return the checked rows of the documents that there are, by their ids."""
        statement = f"SELECT id, {_DOCUMENT} FROM documents WHERE id"  # noqa: S608
        return {name: self._checked_document(values[1:]) for name, values in self._rows_at(statement, names).items()}

    def document(self, values: tuple[Any, ...]) -> Document:
        """Return the document of a checked row, with its chunks."""
        number, name, _, _, source, metadata, first, rows, _ = values
        with self._lock, sqlite_errors(self._folder.catalogue):
            statement = f"SELECT {_CHUNK} FROM chunks WHERE row >= ? AND row < ? ORDER BY row"  # noqa: S608
            found = self._connection.execute(statement, (first, first + rows)).fetchall()
        chunks = [self._checked_chunk(chunk) for chunk in found]
        if [(document, chunk) for document, chunk, *_ in chunks] != [(number, chunk) for chunk in range(rows)]:
            raise damaged(self._folder.catalogue, f"the document {name!r} has other chunks than its {rows}")
        has_spans = bool(chunks) and chunks[0][3] is not None
        return Document(
            name,
            [chunk[2] for chunk in chunks] if self.store_text else [],
            None if metadata is None else json.loads(metadata),
            [(chunk[3], chunk[4]) for chunk in chunks] if has_spans else None,
            source,
        )

    def all_documents(self, where: str | None = None, params: object = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the checked rows of the documents in order of ingestion."""
        if where is not None:
            with self._lock:
                numbers = select_documents(
                    self._connection,
                    self._folder,
                    self.columns,
                    where,
                    params,
                    what="number",
                    order="ORDER BY number",
                )
            for (number,) in numbers:
                yield self.document_at(number)
            return
        last = -1
        while True:
            with self._lock, sqlite_errors(self._folder.catalogue):
                statement = f"SELECT {_DOCUMENT} FROM documents WHERE number > ? ORDER BY number LIMIT ?"  # noqa: S608
                found = self._connection.execute(statement, (last, _AT_ONCE)).fetchall()
            for values in found:
                if values[0] <= last:  # else the same documents would be returned for ever
                    raise damaged(self._folder.catalogue, "the documents are not in the order of their numbers")
                last = values[0]
                yield self._checked_document(values)
            if len(found) < _AT_ONCE:
                return

    def hits_json(self, searches: Sequence[tuple[list[int], list[float]]]) -> list[bytes]:
        """Return the hits of each search as JSON, from its rows and their scores. They are checked.

        Notes
        -----
        It is a list of what :func:`~ctxembed._collection.query.read_hits` returns of rows without neighbours.
        """
        rows = list({row: None for rows, _ in searches for row in rows})
        found = list(self._rows_at(_FOUND, rows).values())
        try:
            hits = _core.hits_json(found, searches)
        except ValueError as error:
            raise damaged(self._folder.catalogue, str(error)) from None
        self.check_vectors({values[7]: values[7:-1] for values in found}.values())
        return hits

    def check_vectors(self, documents: Iterable[tuple[Any, ...]]) -> None:
        """Compare the rows of documents with their checksums."""
        documents = list(documents)
        for document in documents:
            self._check_rows(document)
        checksums = self.index._checksums([document[6:8] for document in documents])  # noqa: SLF001
        for document, checksum_ in zip(documents, checksums, strict=True):
            if checksum_ != document[8]:
                raise damaged(self._folder.path, f"the vectors of the document {document[1]!r} are changed")

    def changed_tables(self) -> list[str]:
        """Return the tables whose columns are damaged."""
        with self._lock, sqlite_errors(self._folder.catalogue):
            return changed_tables(self._connection)

    def ranges(self) -> list[tuple[int, int]]:
        """Return (first row, number of rows) of each document, in order of ingestion."""
        found = self.query("SELECT first_row, rows FROM documents ORDER BY number")
        try:
            pairs = np.array(found, np.int64).reshape(-1, 2)
        except (TypeError, ValueError, OverflowError):
            raise damaged(self._folder.catalogue, "the rows of a document are no numbers") from None
        check_rows(self._folder, pairs[:, 0], pairs[:, 1], self.rows)
        return found

    def query(self, statement: str, params: object = ()) -> list[tuple[Any, ...]]:
        """Run a statement of ours."""
        with self._lock, sqlite_errors(self._folder.catalogue):
            return self._connection.execute(statement, params).fetchall()  # type: ignore[arg-type]
