"""Reads the catalogue of a collection with a statement of the user's, which can change nothing."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final

from ctxembed._collection.catalogue import connect, sqlite_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxembed._collection.collection import Collection

__all__ = ["run_sql"]

_ALLOWED: Final = frozenset([
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE
])  # fmt: skip
_REFUSED_FUNCTIONS: Final = frozenset(["load_extension", "fts3_tokenizer"])
_STEPS: Final = 10_000
"""Steps of SQLite after which Python can handle a signal."""


def run_sql(collection: Collection, statement: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """Run a statement that only reads.

    Parameters
    ----------
    collection : Collection
        Its catalogue is read.
    statement : str
        One ``SELECT``.

    Returns
    -------
    columns : list of str
    rows : iterator of tuple

    Raises
    ------
    ValueError
        SQLite refuses the statement, or it would do something else than read.
    """
    folder = collection._folder  # noqa: SLF001
    connection = connect(folder.catalogue, read_only=True, immutable=collection._immutable)  # noqa: SLF001
    connection.set_authorizer(_authorize)
    connection.set_progress_handler(lambda: 0, _STEPS)
    try:
        cursor = connection.execute(statement)
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        connection.close()
        _raise_interrupt(error)
        if "not authorized" in str(error) or "prohibited" in str(error):
            raise ValueError("only a SELECT is allowed: this statement would do something else than read") from None
        raise ValueError(f"SQL: {error}") from None
    if cursor.description is None:
        connection.close()
        raise ValueError("only a SELECT is allowed: this statement returns nothing")
    return [column[0] for column in cursor.description], _rows(collection, connection, cursor)


def _rows(collection: Collection, connection: sqlite3.Connection, cursor: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
    try:
        with sqlite_errors(collection._folder.catalogue):  # noqa: SLF001
            try:
                yield from cursor
            except sqlite3.Error as error:
                _raise_interrupt(error)
                raise
    finally:
        connection.close()


def _authorize(action: int, *arguments: str | None) -> int:
    if action not in _ALLOWED or (action == sqlite3.SQLITE_FUNCTION and arguments[1] in _REFUSED_FUNCTIONS):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _raise_interrupt(error: BaseException) -> None:
    """Raise the Ctrl-C that SQLite has turned into an error of its own."""
    if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
        raise KeyboardInterrupt from None
