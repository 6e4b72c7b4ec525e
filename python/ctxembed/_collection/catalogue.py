"""The catalogue of a collection: an SQLite database. Its schema, its connections, and the checksums of its rows.

``docs/collection-format.md`` describes the format. Every row whose content is returned, and every row that says which
vectors count, has a checksum: the CRC-32 (IEEE 802.3) of the texts and numbers in it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from ctxembed import _core
from ctxembed._errors import CollectionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = [
    "FORMAT_VERSION",
    "changed_tables",
    "checksum",
    "connect",
    "create_catalogue",
    "damaged",
    "in_statements",
    "insert_rows",
    "sqlite_errors",
    "transaction",
    "upgrade",
]

FORMAT_VERSION: Final = 2
"""``user_version`` of the database."""

_APPLICATION_ID: Final = 0x43545843
"""``application_id`` of the database: "CTXC"."""

_CACHE_KIB: Final = 16_384
"""Page cache of a connection."""

_VERSION_1: Final = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value, checksum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE generations (
    number INTEGER PRIMARY KEY, model TEXT NOT NULL, dimensions INTEGER NOT NULL, encoding_format TEXT NOT NULL,
    space TEXT, tail INTEGER NOT NULL, oversample INTEGER, oversample_k INTEGER, oversample_recall REAL,
    checksum INTEGER NOT NULL
);
CREATE TABLE segments (
    generation INTEGER NOT NULL, first_row INTEGER NOT NULL, rows INTEGER NOT NULL, file INTEGER NOT NULL,
    header BLOB NOT NULL, checksum INTEGER NOT NULL, PRIMARY KEY (generation, first_row)
) WITHOUT ROWID;
CREATE TABLE tail_parts (
    generation INTEGER NOT NULL, first_row INTEGER NOT NULL, rows INTEGER NOT NULL, vectors_checksum INTEGER NOT NULL,
    checksum INTEGER NOT NULL, PRIMARY KEY (generation, first_row)
) WITHOUT ROWID;
CREATE TABLE documents (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, key BLOB NOT NULL, details BLOB NOT NULL,
    source TEXT, metadata TEXT, first_row INTEGER NOT NULL, rows INTEGER NOT NULL, vectors_checksum INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE INDEX documents_by_key ON documents (substr(key, 1, 8));
CREATE TABLE chunks (
    row INTEGER PRIMARY KEY, document INTEGER NOT NULL, chunk INTEGER NOT NULL, text TEXT, start INTEGER, stop INTEGER,
    checksum INTEGER NOT NULL
);
CREATE TABLE removed (
    first_row INTEGER PRIMARY KEY, rows INTEGER NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE failures (
    id TEXT PRIMARY KEY, key BLOB, error TEXT NOT NULL, attempts INTEGER NOT NULL, at REAL NOT NULL,
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE responses (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, note TEXT NOT NULL, documents INTEGER NOT NULL,
    chunks INTEGER NOT NULL, requests INTEGER NOT NULL, unreported INTEGER NOT NULL, prompt_tokens INTEGER,
    total_tokens INTEGER, cost_usd TEXT, discarded_requests INTEGER NOT NULL, discarded_tokens INTEGER,
    discarded_cost_usd TEXT, checksum INTEGER NOT NULL
);
CREATE TABLE windows (key BLOB PRIMARY KEY, rows INTEGER NOT NULL, vectors BLOB NOT NULL, checksum INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE fields (name TEXT PRIMARY KEY, declared TEXT, place TEXT, checksum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE retired_files (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""

_VERSION_2: Final = """
DROP INDEX documents_by_key;
CREATE TABLE keys (prefix BLOB NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (prefix, number)) WITHOUT ROWID;
ALTER TABLE documents ADD COLUMN record BLOB;
"""

_SCHEMAS: Final = ("", _VERSION_1, _VERSION_2)
"""What makes a database of each version one of the next. A new one goes through all, so both have one schema."""


def create_catalogue(path: Path) -> sqlite3.Connection:
    """Create the database. All of it is there after one transaction, or nothing."""
    with sqlite_errors(path):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN EXCLUSIVE")
            _change_schema(connection, 0, FORMAT_VERSION)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        except BaseException:
            connection.close()
            raise
    return connection


def _change_schema(connection: sqlite3.Connection, before: int, after: int) -> None:
    for schema in _SCHEMAS[before + 1 : after + 1]:
        for statement in schema.split(";"):
            if statement.strip():
                connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {after}")


def upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Make a database of an earlier version one of this version, in one transaction."""
    if _version(connection) < FORMAT_VERSION:
        with transaction(connection, path):
            _change_schema(connection, _version(connection), FORMAT_VERSION)


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def changed_tables(connection: sqlite3.Connection) -> list[str]:
    """Return the tables whose columns are not those of a new catalogue of this version."""
    new = sqlite3.connect(":memory:", isolation_level=None)
    try:
        _change_schema(new, 0, _version(connection))
        tables = [name for (name,) in new.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        columns = "SELECT name, type, pk FROM pragma_table_info(?)"
        return [
            name
            for name in tables
            if connection.execute(columns, (name,)).fetchall() != new.execute(columns, (name,)).fetchall()
        ]
    finally:
        new.close()


def connect(path: Path, *, read_only: bool, immutable: bool = False) -> sqlite3.Connection:
    """Connect to a database that exists.

    Parameters
    ----------
    path : Path
        The file.
    read_only : bool
        Whether nothing may be written.
    immutable : bool
        Whether no process can write, as on a read-only medium: nothing is locked, and no log is looked for.

    Raises
    ------
    CollectionError
        It is not a catalogue, is damaged, or is of a newer version.
    """
    mode = "ro" if read_only else "rw"
    uri = f"file:{quote(str(path).encode('utf-8', 'surrogateescape'))}?mode={mode}"
    if immutable:
        uri += "&immutable=1"
    with sqlite_errors(path):
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=60)
        try:
            _check_version(path, connection)
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.execute("PRAGMA cell_size_check = ON")
            if read_only:
                connection.execute("PRAGMA query_only = ON")
            else:
                found = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                if found != "wal":
                    raise CollectionError(f"{path}: this file system has no write-ahead log (journal mode {found})")
                connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
    return connection


def _check_version(path: Path, connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    if found != _APPLICATION_ID:
        raise CollectionError(f"{path} is not the catalogue of a collection (its application id is {found:#x})")
    version = _version(connection)
    if not 1 <= version <= FORMAT_VERSION:
        raise CollectionError(
            f"{path} has format version {version}, and this ctxembed reads up to {FORMAT_VERSION}: update ctxembed"
        )


@contextlib.contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about the file into a :class:`CollectionError` or an ``OSError`` that names it."""
    try:
        yield
    except UnicodeDecodeError as error:  # of a name in a damaged schema
        raise damaged(path, str(error)) from error
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        if name.startswith("SQLITE_FULL"):
            raise OSError(28, "No space left on device", str(path)) from error
        if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
            raise OSError(f"{path}: {error} ({name})") from error
        if name.startswith("SQLITE_NOTADB"):
            raise CollectionError(f"{path} is not an SQLite database") from error
        if name.startswith("SQLITE_CORRUPT"):
            raise damaged(path, str(error)) from error
        raise CollectionError(f"{path}: {error} ({name})") from error


def damaged(path: Path, what: str) -> CollectionError:
    """Return the error for a damaged file."""
    return CollectionError(f"{path} is damaged: {what}. Collection.verify() and `ctxembed verify` list all damage")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """Write in one transaction, which an exception rolls back."""
    with sqlite_errors(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # SQLite rolls back by itself after some errors
                connection.execute("ROLLBACK")
            raise


_INSERTS: Final = {
    "documents": ("INSERT INTO documents", "?|?|?|?|nullif(?, 0)|nullif(?, 0)|?|?|?|?|nullif(?, 0)"),
    "chunks": ("INSERT INTO chunks", "?|?|?|nullif(?, 0)|nullif(?, -1)|nullif(?, -1)|?"),
    "keys": ("INSERT OR IGNORE INTO keys", "?|?"),
}
"""Statements without their values, and the values of a row as ``document_rows`` and ``chunk_rows`` give them."""

_ROWS_OF_STATEMENT: Final = 32


@cache
def _insert(table: str, count: int, absent: tuple[int, ...]) -> str:
    start, values = _INSERTS[table]
    absent_value = {("documents", 3): "x''"}  # the details, which are empty bytes where there are none
    parts = enumerate(values.split("|"))
    row = ", ".join(absent_value.get((table, place), "NULL") if place in absent else value for place, value in parts)
    return f"{start} VALUES {', '.join([f'({row})'] * count)}"


def insert_rows(
    connection: sqlite3.Connection,
    table: str,
    groups: Iterable[tuple[int, Iterable[Sequence[Any]]]],
    absent: Iterable[int] = (),
) -> None:
    """Insert many rows.

    Parameters
    ----------
    connection : sqlite3.Connection
        In a transaction.
    table : {"documents", "chunks", "keys"}
        Where to.
    groups : iterable of (int, iterable of sequences)
        A number of rows, and the parameters of statements that insert so many: a statement a row takes longer. There
        are no None and no bytes among them, of which Python's sqlite3 binds each only after a search for an adapter.
    absent : iterable of int
        Positions of columns that are NULL or empty in all rows and have no parameters.
    """
    for count, rows in groups:
        connection.executemany(_insert(table, count, tuple(absent)), rows)


def in_statements(rows: Iterable[Sequence[Any]]) -> Iterator[tuple[int, list[list[Any]]]]:
    """Group rows for :func:`insert_rows`: so many with each statement that a row more saves nothing."""
    remaining = iter(rows)
    while group := list(islice(remaining, _ROWS_OF_STATEMENT)):
        yield len(group), [[value for row in group for value in row]]


def checksum(*values: Any) -> int:
    """Return the CRC-32 of the values of a row: None, int, float, str or bytes, each with its type and length."""
    return _core.row_checksum(values)
