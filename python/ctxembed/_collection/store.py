"""What a job writes to a collection: one transaction a response, behind the rows that it refers to."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed import _core
from ctxembed._collection import rows as row_files
from ctxembed._collection.catalogue import checksum, damaged, insert_rows, sqlite_errors, upgrade
from ctxembed._collection.fields import FieldColumns, add_columns, write_fields
from ctxembed._collection.finder import Finder
from ctxembed._collection.folder import free_bytes, named_errors
from ctxembed._collection.generations import remove_leftovers
from ctxembed._collection.rows import vectors_checksum
from ctxembed._collection.state import read_setting, write_setting
from ctxembed._collection.vector_files import VectorFiles
from ctxembed._errors import SpaceError
from ctxembed._jobs.store import FailureRecord, InFlight, NewDocument, StoredDocument
from ctxembed._results import NO_USAGE, Usage

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from ctxembed._collection.folder import Folder
    from ctxembed._models import EncodingFormat

__all__ = ["Store"]

_RESERVE: Final = row_files.TAIL_BYTES * 5 // 4
"""Bytes that must be free before a job: the tail is written once more, with bits and norms, when it is sealed."""

_DOCUMENT: Final = "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_RESPONSE: Final = "INSERT INTO responses VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Store(VectorFiles):
    """The writer of a collection. It implements :class:`~ctxembed._jobs.store.DocumentStore`.

    Parameters
    ----------
    folder : Folder
        Of the collection, which this process has locked.

    Raises
    ------
    CollectionError
        The collection is damaged, or of a newer version.
    """

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        try:
            upgrade(self._connection, folder.catalogue)
            self._load()
            with sqlite_errors(folder.catalogue):
                self.field_types = FieldColumns.read(self._connection, folder).declared
                self.keeps_text = bool(read_setting(self._connection, folder, "store_text", required=True))
            self._finder = Finder(folder.catalogue, self._connection, self._lock)
            self._record_lost()
            remove_leftovers(folder, self._generation.number)
        except BaseException:
            self.close()
            raise

    def _record_lost(self) -> None:
        """Record what was in flight when an earlier writer was killed."""
        with self._lock, sqlite_errors(self._folder.catalogue):
            lost = read_setting(self._connection, self._folder, "in_flight")
        if lost:
            requests, documents, chunks = (int(number) for number in str(lost).split())
            with self._write() as connection:
                self._charge(connection, Usage(unreported=requests), "lost in flight", documents, chunks)
                write_setting(connection, "in_flight", None)

    # --- the model ---

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._generation.model

    @property
    def dimensions(self) -> int:
        """Of the vectors."""
        return self._generation.dimensions

    @property
    def encoding_format(self) -> EncodingFormat:
        """Of the vectors."""
        return self._generation.encoding_format

    @property
    def space(self) -> str | None:
        """The space of the vectors that are stored."""
        return self._generation.space

    @property
    def generation_number(self) -> int:
        """Of the vectors."""
        return self._generation.number

    # --- what a job reads ---

    def begin(self) -> int:
        """Check that a segment's worth can be written, and return the first number for new documents."""
        free = free_bytes(self._folder.path)
        if free is not None and free < _RESERVE:
            raise OSError(
                28,
                f"a collection needs {_RESERVE >> 20} MiB for its next segment, and {free >> 20:,} MiB are free",
                str(self._folder.path),
            )
        with self._write() as connection:
            write_setting(connection, "in_flight", None)
            found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'documents'").fetchone()
        self._finder.restart()
        self._keys.load()
        self._write_keys()
        return found[0] + 1 if found else 1

    def _write_keys(self) -> None:
        """Write the keys that were gathered, if there are enough."""
        if self._keys.is_full:
            with self._write() as connection:
                self._keys.write(connection, self._tail_first + self._open_tail().rows)
            self._keys.written()

    def find(self, id: str) -> StoredDocument | None:  # noqa: A002
        """Return the stored document with an id."""
        return self._finder.find(id)

    def find_record(self, record: bytes) -> tuple[int, str] | None:
        """Return number and id of the document that follows the one that was found last, if it has this record."""
        return self._finder.find_record(record)

    def failed_key(self, id: str) -> bytes | None:  # noqa: A002
        """Return the key with which a document failed; None where it did not, or has no key."""
        return self._finder.failed_key(id)

    def vectors_of(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[Any]]:
        """Return the rows of the stored documents and windows that have one of these keys."""
        found: dict[bytes, NDArray[Any]] = {}
        with self._lock, sqlite_errors(self._folder.catalogue):
            numbers = self._keys.candidates(keys)
            if not numbers and not self._finder.has_windows:
                return found
            places = ", ".join("?" * len(numbers))
            rows = self._query(
                f"SELECT key, first_row, rows, vectors_checksum FROM documents WHERE number IN ({places})",  # noqa: S608
                numbers,
            )
            stored = {key: where for key, *where in rows}
            for key in keys:
                if key in stored:
                    found[key] = self._read_rows(*stored[key])
                elif self._finder.has_windows:
                    window = self._connection.execute(
                        "SELECT rows, vectors, checksum FROM windows WHERE key = ?", (key,)
                    ).fetchone()
                    if window is not None and checksum(key, window[0], window[1]) == window[2]:
                        found[key] = np.frombuffer(window[1], self.layout.dtype).reshape(window[0], self.layout.width)
        return found

    def _read_rows(self, first: int, count: int, expected: int) -> NDArray[Any]:
        """Read rows from the tail or a segment."""
        width = self.layout.width
        if first >= self._tail_first:
            path, start = self._folder.tail(self._generation.tail), (first - self._tail_first) * width
        else:
            number, header, at = self._connection.execute(
                "SELECT file, header, first_row FROM segments WHERE generation = ? AND first_row <= ? "
                "ORDER BY first_row DESC LIMIT 1",
                (self._generation.number, first),
            ).fetchone()
            path, start = self._folder.segment(number), _first_section(header) + (first - at) * width
        with named_errors(path), path.open("rb") as file:
            content = os.pread(file.fileno(), count * width, start)
        if len(content) != count * width:
            raise damaged(path, f"it ends within rows {first} to {first + count - 1}")
        vectors = np.frombuffer(content, self.layout.dtype).reshape(count, width)
        if vectors_checksum(vectors) != expected:
            raise damaged(path, f"the checksum of rows {first} to {first + count - 1} differs")
        return vectors

    # --- what a job writes ---

    def commit(
        self,
        documents: Sequence[NewDocument],
        vectors: NDArray[Any] | Sequence[NDArray[Any]],
        *,
        usage: Usage,
        space: str | None,
        windows: Mapping[bytes, NDArray[Any]],
        spent_windows: Sequence[bytes],
        in_flight: InFlight,
    ) -> None:
        """Store documents with their rows, windows of documents that are not complete, and what they cost."""
        with self._change():
            if space is not None:
                self._check_space(space)
            together = self._together(documents, vectors)
            count = len(together)
            tail = self._tail_with_room(count * self.layout.width)
            first, generation = self._tail_first + tail.rows, self._generation
            if count:
                tail.append(together)
            with self._write() as connection:
                self._insert(connection, documents, together, first)
                if count:
                    self._insert_tail_part(connection, first, count, vectors_checksum(together))
                if space is not None and generation.space is None and first == 0:
                    generation = generation.replace(connection, space=space)
                self._store_windows(connection, windows, spent_windows)
                if usage is not NO_USAGE:
                    self._charge(connection, usage, "stored", len(documents), count)
                write_setting(connection, "in_flight", f"{in_flight.requests} {in_flight.documents} {in_flight.chunks}")
            self._generation = generation
            tail.rows += count
            self._keys.add(documents)
            self._write_keys()
            if tail.size >= row_files.SEAL_BYTES:
                self.seal()

    def _together(
        self, documents: Sequence[NewDocument], vectors: NDArray[Any] | Sequence[NDArray[Any]]
    ) -> NDArray[Any]:
        """Return the rows of all documents as one contiguous matrix, and check them."""
        width, dtype = self.layout.width, np.dtype(self.layout.dtype)
        if isinstance(vectors, np.ndarray):
            shape = (sum([len(document.chunks) for document in documents]), width)
            if vectors.shape != shape or vectors.dtype != dtype:
                raise ValueError(
                    f"the vectors of {len(documents)} documents must be {dtype} of shape {shape}, got {vectors.dtype} "
                    f"of shape {vectors.shape}"
                )
            return np.ascontiguousarray(vectors)
        for document, rows in zip(documents, vectors, strict=True):
            if rows.shape != (len(document.chunks), width) or rows.dtype != dtype:
                raise ValueError(
                    f"the vectors of the document {document.id!r:.100} must be {dtype} of shape "
                    f"{(len(document.chunks), width)}, got {rows.dtype} of shape {rows.shape}"
                )
        return np.concatenate(vectors) if vectors else np.empty((0, width), dtype)

    def _check_space(self, space: str) -> None:
        own = self._generation.space
        if own is not None and own != space:
            raise SpaceError(
                f"{self._folder.path} holds vectors of the space {own!r}, and these are of {space!r}: they cannot be "
                "compared. Use the API, server or model that embedded the collection, or make a new collection"
            )

    def _insert(
        self,
        connection: sqlite3.Connection,
        documents: Sequence[NewDocument],
        vectors: NDArray[Any],
        first: int,
    ) -> None:
        removed = [document.replaces for document in documents if document.replaces is not None]
        if removed:
            self._remove(connection, removed)
        new = list(documents)
        insert_rows(connection, "documents", *_core.document_rows(new, vectors.view(np.uint8), first))
        insert_rows(connection, "chunks", *_core.chunk_rows(new, first, keep_text=self.keeps_text))
        if self._finder.has_failures:
            connection.executemany("DELETE FROM failures WHERE id = ?", ((document.id,) for document in documents))
        self._add_fields(connection, documents)
        more = len(vectors) - sum(old.rows for old in removed)
        self._count(connection, len(documents) - len(removed), more)

    def _add_fields(self, connection: sqlite3.Connection, documents: Iterable[NewDocument]) -> None:
        new = {name for document in documents for name in document.fields} - self._fields
        if new:
            write_fields(connection, self._folder, dict.fromkeys(new))
            self._fields |= new

    def _count(self, connection: sqlite3.Connection, documents: int, chunks: int) -> None:
        """Add to the numbers of documents and chunks that can be found."""
        for name, more in (("documents", documents), ("chunks", chunks)):
            if more:
                write_setting(connection, name, int(read_setting(connection, self._folder, name) or 0) + more)

    def _remove(self, connection: sqlite3.Connection, documents: Sequence[StoredDocument]) -> None:
        connection.executemany(
            "INSERT INTO removed VALUES (?, ?, ?)",
            ((old.first_row, old.rows, checksum(old.first_row, old.rows)) for old in documents),
        )
        connection.executemany("DELETE FROM documents WHERE number = ?", ((old.number,) for old in documents))
        connection.executemany(
            "DELETE FROM chunks WHERE row >= ? AND row < ?",
            ((old.first_row, old.first_row + old.rows) for old in documents),
        )

    def _insert_tail_part(self, connection: sqlite3.Connection, first: int, count: int, found: int) -> None:
        values = (self._generation.number, first, count, found)
        connection.execute("INSERT INTO tail_parts VALUES (?, ?, ?, ?, ?)", (*values, checksum(*values)))

    def _store_windows(
        self, connection: sqlite3.Connection, windows: Mapping[bytes, NDArray[Any]], spent: Sequence[bytes]
    ) -> None:
        self._finder.has_windows = self._finder.has_windows or bool(windows)
        for key, rows in windows.items():
            content = np.ascontiguousarray(rows).tobytes()
            values = (key, len(rows), content)
            connection.execute("INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?)", (*values, checksum(*values)))
        connection.executemany("DELETE FROM windows WHERE key = ?", [(key,) for key in spent])

    def _charge(self, connection: sqlite3.Connection, usage: Usage, note: str, documents: int, chunks: int) -> None:
        """Add a row to the ledger."""
        wasted = usage.discarded or NO_USAGE
        values = (
            time.time(), note, documents, chunks, usage.requests, usage.unreported, usage.prompt_tokens,
            usage.total_tokens, _text(usage.cost_usd), wasted.requests, wasted.total_tokens, _text(wasted.cost_usd),
        )  # fmt: skip
        connection.execute(_RESPONSE, (*values, checksum(*values)))

    def add_to_ledger(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add rows of another ledger, without their numbers, in one transaction."""
        with self._write() as connection:
            self.insert_responses(connection, rows)

    @staticmethod
    def insert_responses(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> None:
        """Insert rows of another ledger, without their numbers."""
        connection.executemany(_RESPONSE, rows)

    def change_details(self, documents: Sequence[NewDocument]) -> None:
        """Store metadata, source and spans of documents whose chunks are unchanged."""
        with self._write() as connection:
            for document in documents:
                old = document.replaces
                if old is None:
                    continue
                row = connection.execute("SELECT vectors_checksum FROM documents WHERE number = ?", (old.number,))
                values = (
                    old.number, document.id, document.key, document.details, document.source, document.metadata,
                    old.first_row, old.rows, row.fetchone()[0],
                )  # fmt: skip
                connection.execute("DELETE FROM documents WHERE number = ?", (old.number,))
                connection.execute(_DOCUMENT, (*values, checksum(*values), document.record))
                self._change_spans(connection, document, old)
            self._add_fields(connection, documents)

    def _change_spans(self, connection: sqlite3.Connection, document: NewDocument, old: StoredDocument) -> None:
        for chunk, text in enumerate(document.chunks):
            row = old.first_row + chunk
            start, stop = (None, None) if document.spans is None else document.spans[chunk]
            kept = text if self.keeps_text else None
            found = checksum(row, old.number, chunk, kept, start, stop)
            connection.execute(
                "UPDATE chunks SET start = ?, stop = ?, checksum = ? WHERE row = ?", (start, stop, found, row)
            )

    def set_records(self, records: Sequence[tuple[bytes, int]]) -> None:
        """Store the records (record, number of the document) from which unchanged documents were read."""
        with self._write() as connection:
            connection.executemany("UPDATE documents SET record = ? WHERE number = ?", records)

    def record_failures(self, failures: Sequence[FailureRecord], usage: Usage) -> None:
        """Store why documents failed, and what that cost."""
        now = time.time()
        with self._write() as connection:
            for failure in failures:
                values = (failure.id, failure.key, failure.error, failure.attempts, now)
                connection.execute(
                    "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?)", (*values, checksum(*values))
                )
            if usage is not NO_USAGE and (usage.requests or usage.unreported):
                self._charge(connection, usage.thrown_away(), "failed", len(failures), 0)
        self._finder.has_failures = self._finder.has_failures or bool(failures)

    def delete_unseen(self, seen: bytes | bytearray, before: int) -> int:
        """Delete the documents numbered below ``before`` whose byte in ``seen`` is 0, and return how many."""
        with self._lock, sqlite_errors(self._folder.catalogue):
            missing = [
                StoredDocument(number, b"", b"", first, rows)
                for number, first, rows in self._connection.execute(
                    "SELECT number, first_row, rows FROM documents WHERE number < ?", (before,)
                )
                if not seen[number]
            ]
        return self._delete(missing)

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents by id, also what is known of their failures, and return how many there were."""
        wanted = list(dict.fromkeys(ids))
        found = [document for name in wanted if (document := self._finder.find(name)) is not None]
        deleted = self._delete(found)
        with self._write() as connection:
            connection.executemany("DELETE FROM failures WHERE id = ?", [(name,) for name in wanted])
        return deleted

    def _delete(self, documents: Sequence[StoredDocument]) -> int:
        if documents:
            with self._write() as connection:
                self._remove(connection, documents)
                self._count(connection, -len(documents), -sum(document.rows for document in documents))
        return len(documents)

    def end(self) -> None:
        """Record that nothing is in flight."""
        with self._write() as connection:
            write_setting(connection, "in_flight", None)
            analysed = read_setting(connection, self._folder, "analysed") or 0
            if (read_setting(connection, self._folder, "documents") or 0) > 2 * analysed:
                self._analyse(connection)

    def ids(self) -> list[str]:
        """Return the ids of all documents."""
        return [name for (name,) in self._query("SELECT id FROM documents", ())]

    def set_setting(self, name: str, value: Any) -> None:
        """Store a setting."""
        with self._write() as connection:
            write_setting(connection, name, value)

    def set_calibration(self, oversample: int, k: int, recall: float) -> None:
        """Keep the result of a calibration."""
        with self._write() as connection:
            self._generation = self._generation.replace(connection, calibration=(oversample, k, recall))

    def add_columns(self, names: Sequence[str]) -> None:
        """Make columns and indexes for metadata fields."""
        with self._write() as connection:
            add_columns(connection, names)
            self._analyse(connection)

    def _analyse(self, connection: sqlite3.Connection) -> None:
        """Count how many documents the values of a field select: else SQLite may choose the index that selects more."""
        if connection.execute("SELECT 1 FROM fields WHERE place IS NOT NULL LIMIT 1").fetchone() is not None:
            connection.execute("ANALYZE documents")
            write_setting(connection, "analysed", read_setting(connection, self._folder, "documents"))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _first_section(header: bytes) -> int:
    """Return the offset of the first section of an index file: its vectors, or its bits where it has only these."""
    return int.from_bytes(header[64:72], "little")
