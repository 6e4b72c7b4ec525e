"""Finds documents by their keys, so that equal content under two ids is paid for once.

Keys are digests, so an index that is written with each document would change a page for each. They are gathered in
memory, and written in their order, many at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._collection.catalogue import checksum, insert_rows
from ctxembed._collection.state import write_setting

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from ctxembed._jobs.store import NewDocument

__all__ = ["KEYED_ROWS", "Keys"]

KEYED_ROWS: Final = "keyed_rows"
"""The setting that says below which row the documents are in the table ``keys``."""

_GATHERED: Final = 1 << 15
"""Documents that are gathered before they are written: some 5 MB."""

_PREFIX: Final = 8
"""Bytes of a key in the table. Whoever looks up a key compares the whole key of what is found."""

_TOGETHER: Final = 32
"""Keys that one statement inserts."""

_FILTER_BITS: Final = 24
"""Of a prefix, in a filter of 2 MB: a million keys in the table leave one in sixteen to be looked up in vain."""


class Keys:
    """The keys of all documents of a collection.

    Parameters
    ----------
    query : callable
        Runs a statement with parameters, and returns all rows.
    """

    def __init__(self, query: Callable[[str, Any], list[tuple[Any, ...]]]) -> None:
        self._query = query
        self._numbers: dict[bytes, int] = {}  # of the documents that are not in the table
        self._copies: list[tuple[bytes, int]] = []  # others with the same prefix
        self._is_written = False
        self._filter: NDArray[np.uint8] | None = None
        """A Bloom filter with one hash (doi:10.1145/362686.362692) of the table; None where it had keys before."""

    def load(self) -> None:
        """Read the keys that are not in the table."""
        self._numbers, self._copies = {}, []
        first = self._first_row()
        self._is_written = bool(first)
        self._filter = None if first else np.zeros(1 << (_FILTER_BITS - 3), np.uint8)
        statement = "SELECT substr(key, 1, ?), number FROM documents"
        if first:
            statement += " WHERE number IN (SELECT document FROM chunks WHERE row >= ? AND chunk = 0)"
        for prefix, number in self._query(statement, (_PREFIX, first) if first else (_PREFIX,)):
            self._add(prefix, number)

    def _first_row(self) -> int:
        """Return the first row whose document may not be in the table."""
        for value, expected in self._query("SELECT value, checksum FROM settings WHERE name = ?", (KEYED_ROWS,)):
            if checksum(KEYED_ROWS, value) == expected:
                return int(value)
        return 0

    def _add(self, prefix: bytes, number: int) -> None:
        if self._numbers.setdefault(prefix, number) != number:
            self._copies.append((prefix, number))

    def add(self, documents: Iterable[NewDocument]) -> None:
        """Add documents that were stored."""
        numbers = self._numbers
        for document in documents:
            prefix, number = document.key[:_PREFIX], document.number
            if numbers.setdefault(prefix, number) != number:
                self._copies.append((prefix, number))

    def candidates(self, keys: Sequence[bytes]) -> list[int]:
        """Return the numbers of the documents that may have one of these keys."""
        prefixes = [key[:_PREFIX] for key in keys]
        found = [self._numbers[prefix] for prefix in prefixes if prefix in self._numbers]
        if self._copies:
            found += [number for prefix, number in self._copies if prefix in prefixes]
        if self._is_written and self._filter is not None:
            places, bits = _places(prefixes)
            may_have = (self._filter[places] & bits).tolist()
            prefixes = [prefix for prefix, is_set in zip(prefixes, may_have, strict=True) if is_set]
        if self._is_written and prefixes:
            marks = ", ".join("?" * len(prefixes))
            statement = f"SELECT number FROM keys WHERE prefix IN ({marks})"  # noqa: S608
            found += [number for (number,) in self._query(statement, prefixes)]
        return found

    @property
    def is_full(self) -> bool:
        """Whether enough keys were gathered to be written."""
        return len(self._numbers) + len(self._copies) >= _GATHERED

    def write(self, connection: sqlite3.Connection, rows: int) -> None:
        """Write the gathered keys to the table. All documents are below ``rows`` then."""
        gathered = sorted([*self._numbers.items(), *self._copies])  # in order, a page of the table changes once
        values = [value for prefix, number in gathered for value in (bytearray(prefix), number)]
        together = len(gathered) // _TOGETHER * _TOGETHER
        insert_rows(
            connection,
            "keys",
            [
                (count, [part[start : start + 2 * count] for start in range(0, len(part), 2 * count)])
                for count, part in ((_TOGETHER, values[: 2 * together]), (1, values[2 * together :]))
            ],
        )
        write_setting(connection, KEYED_ROWS, rows)

    def missing(self) -> int:
        """Return how many documents should be in the table, and are not."""
        first = self._first_row()
        if not first:
            return 0
        [(count,)] = self._query(
            "SELECT count(*) FROM documents AS d WHERE first_row < ? AND NOT EXISTS "
            "(SELECT 1 FROM keys WHERE prefix = substr(d.key, 1, ?) AND number = d.number)",
            (first, _PREFIX),
        )
        return int(count)

    @staticmethod
    def write_all(connection: sqlite3.Connection, rows: int) -> None:
        """Write the keys of all documents anew, and no others."""
        connection.execute("DELETE FROM keys")
        statement = "INSERT OR IGNORE INTO keys SELECT substr(key, 1, ?), number FROM documents ORDER BY 1"
        connection.execute(statement, (_PREFIX,))
        write_setting(connection, KEYED_ROWS, rows)

    def written(self) -> None:
        """Forget the gathered keys: the transaction that wrote them is on disk."""
        if self._filter is not None and self._numbers:
            np.bitwise_or.at(self._filter, *_places([*self._numbers]))
        self._numbers, self._copies, self._is_written = {}, [], True


def _places(prefixes: list[bytes]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the byte and the bit of each prefix, which is a digest, in a filter."""
    bits = np.frombuffer(b"".join(prefixes), np.int64) & ((1 << _FILTER_BITS) - 1)
    return bits >> 3, np.left_shift(1, bits & 7).astype(np.uint8)
