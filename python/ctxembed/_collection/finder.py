"""Looks documents up by id and by record, for a job that reads them one after the other."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final

from ctxembed._collection.catalogue import sqlite_errors
from ctxembed._jobs.store import StoredDocument

if TYPE_CHECKING:
    import threading
    from pathlib import Path

__all__ = ["Finder"]

_FILTER_BYTES: Final = 1 << 21
"""Of the filter: a million ids leave one in sixteen to be looked up in vain."""

_READ_AHEAD: Final = 256
"""Documents that are looked up at once, where ids come in the order in which they are stored."""

_FOUND: Final = "SELECT number, id, key, details, first_row, rows, record FROM documents"


class _Filter:
    """A Bloom filter with one hash (doi:10.1145/362686.362692) of what was asked for."""

    __slots__ = ("_bits",)

    def __init__(self) -> None:
        self._bits = bytearray(_FILTER_BYTES)

    def is_new(self, name: str) -> bool:
        """Return whether an id was surely not asked for before."""
        place = hash(name)
        byte, bit = (place >> 3) & (_FILTER_BYTES - 1), 1 << (place & 7)
        if self._bits[byte] & bit:
            return False
        self._bits[byte] |= bit
        return True


class Finder:
    """Looks documents up by id.

    Where ids come in the order in which they are stored, as in an unchanged run, documents are read ahead. Where the
    collection was empty, only ids that may have come before are looked up.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: threading.RLock) -> None:
        self._path = path
        self._connection = connection
        self._lock = lock
        self.restart()

    def restart(self) -> None:
        """Begin anew: another job reads other ids."""
        self._ahead: list[tuple[Any, ...]] = []  # the next documents, last one first
        self._size = 1
        self._last = -1  # number of the document that was found last
        with self._lock, sqlite_errors(self._path):
            self.has_failures = self._connection.execute("SELECT 1 FROM failures LIMIT 1").fetchone() is not None
            self.has_windows = self._connection.execute("SELECT 1 FROM windows LIMIT 1").fetchone() is not None
            has_documents = self._connection.execute("SELECT 1 FROM documents LIMIT 1").fetchone() is not None
        self._asked_ids = None if has_documents else _Filter()

    def find_record(self, record: bytes) -> tuple[int, str] | None:
        """Return number and id of the next document in the order in which they are stored, if it has this record."""
        if not self._ahead:
            if self._last < 0:
                return None
            with self._lock, sqlite_errors(self._path):
                self._read_ahead()
        if not self._ahead or self._ahead[-1][6] != record:
            return None
        number, name, *_ = self._ahead.pop()
        self._last = number
        return number, name

    def find(self, id: str) -> StoredDocument | None:  # noqa: A002
        """Return the stored document with an id."""
        if self._asked_ids is not None and self._asked_ids.is_new(id):
            return None
        if self._ahead and self._ahead[-1][1] == id:
            return self._found(self._ahead.pop())
        with self._lock:
            try:
                return self._look_up(id)
            except sqlite3.Error:
                with sqlite_errors(self._path):
                    raise

    def _look_up(self, name: str) -> StoredDocument | None:
        if not self._ahead and self._last >= 0:
            self._read_ahead()
            if self._ahead and self._ahead[-1][1] == name:
                return self._found(self._ahead.pop())
        self._ahead, self._size, self._last = [], 1, -1
        row = self._connection.execute(f"{_FOUND} WHERE id = ?", (name,)).fetchone()
        return None if row is None else self._found(row)

    def _read_ahead(self) -> None:
        """Read on, more at a time: all that was read ahead was asked for."""
        self._size = min(2 * self._size, _READ_AHEAD)
        statement = f"{_FOUND} WHERE number > ? ORDER BY number LIMIT ?"
        self._ahead = self._connection.execute(statement, (self._last, self._size)).fetchall()[::-1]

    def _found(self, row: tuple[Any, ...]) -> StoredDocument:
        number, _, key, details, first, rows, record = row
        self._last = number
        return StoredDocument(number, key, details, first, rows, record)

    def failed_key(self, id: str) -> bytes | None:  # noqa: A002
        """Return the key with which a document failed; None where it did not, or has no key."""
        if not self.has_failures:
            return None
        with self._lock, sqlite_errors(self._path):
            found = self._connection.execute("SELECT key FROM failures WHERE id = ?", (id,)).fetchone()
        return None if found is None else found[0]
