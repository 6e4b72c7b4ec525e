"""A store that keeps nothing, for a dry run: it knows what a collection holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctxembed._collection.keys import Keys
from ctxembed._jobs.store import StoredDocument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ctxembed._collection.view import View
    from ctxembed._jobs.store import FailureRecord, InFlight, NewDocument
    from ctxembed._models import EncodingFormat
    from ctxembed._results import Usage

__all__ = ["DryStore"]

_NOTHING = np.zeros((0, 0), np.int8)


class DryStore:
    """Implements :class:`~ctxembed._jobs.store.DocumentStore` without storing.

    Parameters
    ----------
    view : View or None
        What is stored; None where there is no collection yet.
    model, dimensions, encoding_format
        Of the collection.
    """

    def __init__(self, view: View | None, model: str, dimensions: int, encoding_format: EncodingFormat) -> None:
        self._view = view
        self.model = model
        self.dimensions = dimensions
        self.encoding_format = encoding_format
        self.space = None if view is None else view.generation.space
        declared = [] if view is None else view.query("SELECT name, declared FROM fields WHERE declared IS NOT NULL")
        self.field_types: Mapping[str, str] = dict(declared)
        self._stored = None if view is None else Keys(view.query)
        self._keys: set[bytes] = set()
        self._ids: dict[str, int] = {}
        self._failed = view is not None and bool(view.query("SELECT 1 FROM failures LIMIT 1"))

    def begin(self) -> int:
        """Return the first number for new documents."""
        if self._stored is not None:
            self._stored.load()
        found = [] if self._view is None else self._view.query("SELECT seq FROM sqlite_sequence WHERE name='documents'")
        return found[0][0] + 1 if found else 1

    def find(self, id: str) -> StoredDocument | None:  # noqa: A002
        """Return the document with an id that is stored, or that the run would have stored by now."""
        if id in self._ids:
            return StoredDocument(self._ids[id], b"", b"", 0, 0)
        values = None if self._view is None else self._view.find(id)
        if values is None:
            return None
        number, _, key, details, _, _, first_row, rows, _ = values
        return StoredDocument(number, key, details, first_row, rows)

    def find_record(self, record: bytes) -> tuple[int, str] | None:  # noqa: ARG002
        """Return None: every document is read."""
        return None

    def failed_key(self, id: str) -> bytes | None:  # noqa: A002
        """Return the key with which a document failed; None where it did not, or has no key."""
        if self._view is None or not self._failed:
            return None
        found = self._view.query("SELECT key FROM failures WHERE id = ?", (id,))
        return found[0][0] if found else None

    def vectors_of(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[Any]]:
        """Return the keys of documents and windows that are stored, with no rows."""
        return {key: _NOTHING for key in keys if key in self._keys or self._is_stored(key)}

    def _is_stored(self, key: bytes) -> bool:
        if self._view is None or self._stored is None:
            return False
        return any(
            self._view.query("SELECT 1 FROM documents WHERE number = ? AND key = ?", (number, key))
            for number in self._stored.candidates([key])
        ) or bool(self._view.query("SELECT 1 FROM windows WHERE key = ?", (key,)))

    def commit(
        self,
        documents: Sequence[NewDocument],
        vectors: NDArray[Any] | Sequence[NDArray[Any]],  # noqa: ARG002
        *,
        usage: Usage,  # noqa: ARG002
        space: str | None,  # noqa: ARG002
        windows: Mapping[bytes, NDArray[Any]],
        spent_windows: Sequence[bytes],
        in_flight: InFlight,  # noqa: ARG002
    ) -> None:
        """Remember ids and keys."""
        for document in documents:
            self._ids[document.id] = document.number
            self._keys.add(document.key)
        self._keys.update(windows)
        self._keys.difference_update(spent_windows)

    def change_details(self, documents: Sequence[NewDocument]) -> None:
        """Do nothing."""

    def set_records(self, records: Sequence[tuple[bytes, int]]) -> None:
        """Do nothing."""

    def record_failures(self, failures: Sequence[FailureRecord], usage: Usage) -> None:
        """Do nothing."""

    def delete_unseen(self, seen: bytes | bytearray, before: int) -> int:
        """Return how many documents below ``before`` have a 0 in ``seen``."""
        if self._view is None:
            return 0
        numbers = self._view.query("SELECT number FROM documents WHERE number < ?", (before,))
        return sum(not seen[number] for (number,) in numbers)

    def end(self) -> None:
        """Do nothing."""
