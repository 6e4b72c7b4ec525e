"""Looks up documents that are stored, while a job writes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from ctxembed._collection.catalogue import connect, sqlite_errors
from ctxembed._jobs.store import StoredDocument

if TYPE_CHECKING:
    from ctxembed._collection.folder import Folder

__all__ = ["Finder"]

_READ_AHEAD: Final = 256
"""Documents that are looked up at once, where ids come in the order in which they are stored."""

_FOUND: Final = "SELECT number, id, key, details, first_row, rows FROM documents"


class Finder:
    """Looks documents up, on a connection of its own: it never waits for a commit.

    Where ids come in the order in which they are stored, as in an unchanged run, documents are read ahead.
    """

    def __init__(self, folder: Folder) -> None:
        self._path = folder.catalogue
        self._lock = threading.Lock()
        self._connection = connect(folder.catalogue, read_only=True)
        self.has_failures = False
        self.restart()

    def restart(self) -> None:
        """Forget what was read ahead."""
        self._ahead: list[tuple[Any, ...]] = []  # the next documents, last one first
        self._size = 1
        self._last = -1  # number of the document that was found last
        with self._lock, sqlite_errors(self._path):
            self.has_failures = self._connection.execute("SELECT 1 FROM failures LIMIT 1").fetchone() is not None

    def find(self, id: str) -> StoredDocument | None:  # noqa: A002
        """Return the stored document with an id."""
        with self._lock:
            if self._ahead and self._ahead[-1][1] == id:
                number, _, key, details, first, rows = self._ahead.pop()
                self._last = number
                return StoredDocument(number, key, details, first, rows)
            with sqlite_errors(self._path):
                if not self._ahead and self._last >= 0:
                    # All that was read ahead was asked for: read on, more at a time.
                    self._size = min(2 * self._size, _READ_AHEAD)
                    statement = f"{_FOUND} WHERE number > ? ORDER BY number LIMIT ?"
                    self._ahead = self._connection.execute(statement, (self._last, self._size)).fetchall()[::-1]
                    if self._ahead and self._ahead[-1][1] == id:
                        number, _, key, details, first, rows = self._ahead.pop()
                        self._last = number
                        return StoredDocument(number, key, details, first, rows)
                found = self._connection.execute(f"{_FOUND} WHERE id = ?", (id,)).fetchone()
            self._ahead, self._size = [], 1
            if found is None:
                self._last = -1
                return None
            number, _, key, details, first, rows = found
            self._last = number
            return StoredDocument(number, key, details, first, rows)

    def failed_key(self, id: str) -> bytes | None:  # noqa: A002
        """Return the key with which a document failed; None where it did not, or has no key."""
        if not self.has_failures:
            return None
        with self._lock, sqlite_errors(self._path):
            found = self._connection.execute("SELECT key FROM failures WHERE id = ?", (id,)).fetchone()
        return None if found is None else found[0]

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()
