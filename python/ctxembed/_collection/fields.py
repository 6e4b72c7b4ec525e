"""Metadata fields: their columns and indexes in the catalogue, and the rows that a ``where`` selects.

SQLite runs the expression under an authorizer, which allows nothing but reading the documents and calling functions,
and with a limit of steps.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._collection.catalogue import sqlite_errors
from ctxembed._collection.where import parse_where

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ctxembed._collection.folder import Folder

__all__ = ["FieldColumns", "add_columns", "check_parameters", "field_expression", "rows_mask", "select_documents"]

OWN: Final = ("id", "source")
"""Names that are no metadata."""

MAX_STEPS: Final = 20_000_000_000
"""Virtual machine instructions of one ``where``."""

_STEPS_AT_ONCE: Final = 1_000_000
_MAX_LENGTH: Final = 10_000
"""Characters of an expression."""


class FieldColumns:
    """The fields of a collection.

    Parameters
    ----------
    places : mapping of str to (str or None)
        The column of each field that has one.
    """

    def __init__(self, places: Mapping[str, str | None]) -> None:
        self._places = dict(places)

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> FieldColumns:
        """Read the fields."""
        return cls(dict(connection.execute("SELECT name, place FROM fields")))

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
    literal = "'" + name.replace("'", "''") + "'"
    if '"' in name or "\0" in name:  # a path cannot name it
        return f"(SELECT value FROM json_each(documents.metadata) WHERE json_each.key = {literal})"  # noqa: S608
    path = "'$.\"" + name.replace("'", "''") + "\"'"
    return f"json_extract(documents.metadata, {path})"


def add_columns(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    """Create a generated column and a covering index for each name that has none."""
    for name in names:
        expression = field_expression(name).replace("documents.metadata", "metadata")
        if expression.startswith("("):
            continue  # no subquery in a generated column: such a name is read from the metadata each time
        used = {place for (place,) in connection.execute("SELECT place FROM fields WHERE place IS NOT NULL")}
        place = next(place for number in range(1, 10_000) if (place := f"field_{number}") not in used)
        connection.execute(f"ALTER TABLE documents ADD COLUMN {place} AS ({expression}) VIRTUAL")
        connection.execute(f"CREATE INDEX documents_by_{place} ON documents ({place}, first_row, rows)")
        connection.execute(
            "INSERT INTO fields (name, place) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET place = excluded.place",
            (name, place),
        )


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
    what: str = "first_row, rows",
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


def _authorize(action: int, table: str | None, *_: object) -> int:
    if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION):
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_READ and table in ("documents", "json_each"):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def rows_mask(ranges: Sequence[tuple[Any, ...]], total: int) -> NDArray[np.bool_]:
    """Return a mask of all rows: True for those in the ranges (first row, number of rows)."""
    mask = np.zeros(total, np.bool_)
    if not ranges:
        return mask
    pairs = np.array(ranges, np.int64)
    steps = np.zeros(total + 1, np.int8)
    # Ranges do not overlap, so all starts differ, and all ends; one may begin where another ends.
    steps[pairs[:, 0]] += 1
    steps[pairs[:, 0] + pairs[:, 1]] -= 1
    return np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_)
