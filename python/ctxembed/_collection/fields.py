"""Metadata fields: their columns and indexes in the catalogue, and the rows that a ``where`` selects.

SQLite runs the expression under an authorizer, which allows nothing but reading the documents and calling functions,
and with a limit of steps.
"""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._collection.catalogue import checksum, damaged, sqlite_errors
from ctxembed._collection.state import read_setting, write_setting
from ctxembed._collection.where import parse_where

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ctxembed._collection.folder import Folder

__all__ = [
    "FieldColumns",
    "add_columns",
    "check_parameters",
    "check_rows",
    "field_expression",
    "rows_mask",
    "select_documents",
    "select_rows",
    "write_fields",
]

OWN: Final = ("id", "source")
"""Names that are no metadata."""

MAX_STEPS: Final = 1_000_000_000
"""Virtual machine instructions of one ``where``: some hundred for each of millions of documents."""

_LIMITS: Final = ((sqlite3.SQLITE_LIMIT_LENGTH, 1 << 28), (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000))
"""Limits of one instruction: bytes of a value, and of a pattern, whose cost grows with its length."""

_MOST_COLUMNS: Final = 100
"""Fields that get a column. Further ones are read from the metadata."""

_STEPS_AT_ONCE: Final = 1_000_000
_INTS: Final = re.compile(r"\[[-0-9,]*\]")
_MAX_LENGTH: Final = 10_000
"""Characters of an expression."""


class FieldColumns:
    """The fields of a collection.

    Parameters
    ----------
    places : mapping of str to (str or None)
        The column of each field that has one.
    declared : mapping of str to str
        The types of declared fields.
    """

    def __init__(self, places: Mapping[str, str | None], declared: Mapping[str, str]) -> None:
        self._places = dict(places)
        self.declared = dict(declared)

    @classmethod
    def read(cls, connection: sqlite3.Connection, folder: Folder) -> FieldColumns:
        """Read the fields.

        Raises
        ------
        CollectionError
            A row is changed or missing: a filter would read another field.
        """
        places, types = {}, {}
        for name, declared, place, found in connection.execute("SELECT name, declared, place, checksum FROM fields"):
            if checksum(name, declared, place) != found:
                raise damaged(folder.catalogue, f"the field {name!r:.100} is changed")
            places[name] = place
            if declared is not None:
                types[name] = declared
        if len(places) != read_setting(connection, folder, "fields", required=True):
            raise damaged(folder.catalogue, "a row of its fields is missing")
        return cls(places, types)

    @property
    def metadata(self) -> list[str]:
        """The names of the fields."""
        return list(self._places)

    @property
    def names(self) -> list[str]:
        """All names that ``where`` may use."""
        return [*OWN, *self._places]

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return those of the names that have no column."""
        return [name for name in names if name not in OWN and self._places.get(name) is None]

    def column(self, name: str) -> str:
        """Return the SQL of a name."""
        if name in OWN:
            return f"documents.{name}"
        place = self._places.get(name)
        return field_expression(name) if place is None else f"documents.{place}"


def field_expression(name: str) -> str:
    """Return the SQL that reads a field from the metadata."""
    literal = "'" + name.replace("'", "''").replace("\0", "' || char(0) || '") + "'"
    if '"' in name or "\\" in name or not name.isprintable():  # a path names none that JSON escapes
        return f"(SELECT value FROM json_each(documents.metadata) WHERE json_each.key = ({literal}))"  # noqa: S608
    path = "'$.\"" + name.replace("'", "''") + "\"'"
    return f"json_extract(documents.metadata, {path})"


def add_columns(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    """Create a generated column and a covering index for each name that has none."""
    for name in names:
        expression = field_expression(name).replace("documents.metadata", "metadata")
        if expression.startswith("("):
            continue  # no subquery in a generated column: such a name is read from the metadata each time
        declared = connection.execute("SELECT declared FROM fields WHERE name = ?", (name,)).fetchone()[0]
        used = {place for (place,) in connection.execute("SELECT place FROM fields WHERE place IS NOT NULL")}
        if len(used) >= _MOST_COLUMNS:
            return
        place = next(place for number in range(1, _MOST_COLUMNS + 1) if (place := f"field_{number}") not in used)
        connection.execute(f"ALTER TABLE documents ADD COLUMN {place} AS ({expression}) VIRTUAL")
        connection.execute(f"CREATE INDEX documents_by_{place} ON documents ({place}, first_row, rows)")
        connection.execute(
            "UPDATE fields SET place = ?, checksum = ? WHERE name = ?", (place, checksum(name, declared, place), name)
        )


def write_fields(connection: sqlite3.Connection, folder: Folder, fields: Mapping[str, str | None]) -> None:
    """Store new fields, with their declared types."""
    rows = [(name, declared, None, checksum(name, declared, None)) for name, declared in fields.items()]
    connection.executemany("INSERT INTO fields VALUES (?, ?, ?, ?)", rows)
    write_setting(connection, "fields", int(read_setting(connection, folder, "fields") or 0) + len(rows))


def check_parameters(params: object) -> Any:
    """Return the parameters of a ``where``: a sequence for ``?``, a mapping for ``:name``."""
    if isinstance(params, dict):
        return params
    if isinstance(params, str | bytes) or not hasattr(params, "__iter__"):
        raise TypeError(f"params must be a tuple, a list or a dict, got {params!r:.100}")
    values = tuple(params)
    return tuple(value.item() if isinstance(value, np.generic) else value for value in values)


def select_documents(
    connection: sqlite3.Connection,
    folder: Folder,
    columns: FieldColumns,
    where: str,
    params: object,
    *,
    what: str,
    order: str = "",
) -> list[tuple[Any, ...]]:
    """Return values of all documents that an expression selects.

    Raises
    ------
    TypeError, ValueError
        The expression or its parameters are not what they should be, or it takes too many steps.
    """
    if isinstance(where, str) and len(where) > _MAX_LENGTH:
        raise ValueError(f"where has {len(where):,} characters: at most {_MAX_LENGTH:,} are allowed")
    parsed = parse_where(where, columns.names, columns.column)
    values = check_parameters(params)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += _STEPS_AT_ONCE
        return int(steps >= MAX_STEPS)

    statement = f"SELECT {what} FROM documents WHERE ({parsed.sql}) {order}"  # noqa: S608  # parsed token by token
    # Its first use creates a virtual table, which the authorizer would refuse.
    connection.execute("SELECT 1 FROM json_each('[]')").fetchall()
    limits = [(limit, connection.setlimit(limit, most)) for limit, most in _LIMITS]
    connection.set_authorizer(_authorize)
    connection.set_progress_handler(count, _STEPS_AT_ONCE)
    try:
        with sqlite_errors(folder.catalogue):
            try:
                return connection.execute(statement, values).fetchall()
            except (sqlite3.ProgrammingError, sqlite3.InterfaceError, OverflowError) as error:
                raise ValueError(f"where {where!r:.200} and its params do not fit: {error}") from None
            except sqlite3.OperationalError as error:
                code = getattr(error, "sqlite_errorname", "")
                if code == "SQLITE_INTERRUPT":
                    raise ValueError(f"where {where!r:.200} takes more than {MAX_STEPS:,} steps") from None
                if code in ("SQLITE_ERROR", "SQLITE_TOOBIG", "SQLITE_MISMATCH", ""):
                    raise ValueError(f"where {where!r:.200}: {error}") from None
                raise
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorname", "") == "SQLITE_AUTH":
                    raise ValueError(f"where {where!r:.200}: {error}") from None
                raise
    finally:
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)
        for limit, before in limits:
            connection.setlimit(limit, before)


def _authorize(action: int, table: str | None, *_: object) -> int:
    if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION):
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_READ and table in ("documents", "json_each"):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def select_rows(
    connection: sqlite3.Connection, folder: Folder, columns: FieldColumns, where: str, params: object, *, total: int
) -> NDArray[np.bool_]:
    """Return a mask of the rows of all documents that an expression selects. Raises as :func:`select_documents`."""
    # Two texts in place of two numbers a document: to make Python objects of them took five times as long.
    what = "json_group_array(first_row), json_group_array(rows)"
    [(first_rows, counts)] = select_documents(connection, folder, columns, where, params, what=what)
    if not (_INTS.fullmatch(first_rows) and _INTS.fullmatch(counts)):
        raise damaged(folder.catalogue, "the rows of a document are no numbers")
    return rows_mask(folder, _numbers(first_rows), _numbers(counts), total)


def _numbers(array: str) -> NDArray[np.int64]:
    """Return the ints of a JSON array."""
    return np.fromstring(array[1:-1], np.int64, sep=",") if len(array) > 2 else np.zeros(0, np.int64)


def check_rows(folder: Folder, first_rows: NDArray[np.int64], counts: NDArray[np.int64], total: int) -> None:
    """Refuse ranges with rows that are not stored."""
    if len(first_rows) and (
        first_rows.min() < 0 or counts.min() < 1 or counts.max() > total or (first_rows > total - counts).any()
    ):
        raise damaged(folder.catalogue, f"a document has rows that are not among the {total} that are stored")


def rows_mask(
    folder: Folder, first_rows: NDArray[np.int64], counts: NDArray[np.int64], total: int
) -> NDArray[np.bool_]:
    """Return a mask of all rows: True for those in the ranges (first row, number of rows)."""
    check_rows(folder, first_rows, counts, total)
    steps = np.zeros(total + 1, np.int8)
    # Ranges do not overlap, so all starts differ, and all ends; one may begin where another ends.
    steps[first_rows] += 1
    steps[first_rows + counts] -= 1
    return np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_)
