"""Generations that are not searched: one that a migration fills, and those that it has kept.

Each is a folder ``generations/NNNNNN`` in the collection, with its number, and a collection without texts. The number
says what it is: above the one that is searched it is being filled, below it was kept, and equal ones are left over.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ctxembed import _core
from ctxembed._collection.catalogue import (
    checksum,
    create_catalogue,
    in_statements,
    insert_rows,
    sqlite_errors,
)
from ctxembed._collection.folder import Folder, sync_folder
from ctxembed._collection.snapshot import copy_vectors
from ctxembed._collection.state import write_generation, write_setting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import Any

    from ctxembed._collection.view import View

__all__ = [
    "KEPT",
    "MATCHES",
    "fingerprint",
    "folder_of_generation",
    "keep_generation",
    "make_room",
    "numbers_of_generations",
    "remove_generation",
    "remove_leftover",
    "remove_leftovers",
]

KEPT: Final = "kept"
"""The setting of a generation that was searched before."""

MATCHES: Final = "matches"
"""The setting with the fingerprint of the documents whose vectors a generation has."""

_NAME: Final = re.compile(r"\d{6,}")
_REMOVED: Final = ".removed"
_OWN_FILE: Final = re.compile(
    r"lock|catalogue\.sqlite(\.new)?(-wal|-shm|-journal)?|tail-\d{6,}\.rows|segments/(\d{6,})\.idx[\w.-]*"
)


def folder_of_generation(folder: Folder, number: int) -> Folder:
    """Return the folder of a generation."""
    return Folder(folder.generations / f"{number:06}")


def numbers_of_generations(folder: Folder) -> list[int]:
    """Return the numbers of the generations in the folder, ascending."""
    try:
        entries = [entry.name for entry in folder.generations.iterdir() if entry.is_dir() and not entry.is_symlink()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    numbers = sorted(int(name) for name in entries if _NAME.fullmatch(name))
    return [number for number in numbers if folder_of_generation(folder, number).exists()]


def _is_ours(path: Path) -> bool:
    """Return whether a folder has nothing but what a generation has."""
    names = [entry.name for entry in path.iterdir()]
    return all(name == "segments" or _OWN_FILE.fullmatch(name) for name in names)


def make_room(folder: Folder, number: int) -> Folder:
    """Make the folder above a generation, and return the generation's own, which is not there or can be made anew."""
    folder.generations.mkdir(exist_ok=True)
    sync_folder(folder.path)
    return folder_of_generation(folder, number)


def remove_generation(own: Folder) -> None:
    """Delete a generation. It has another name first, so that none is there in part.

    Files that are not ours are left alone.
    """
    removed = own.path.with_name(own.path.name + _REMOVED)
    if removed.exists():
        _delete(removed)
    with contextlib.suppress(FileNotFoundError):
        own.path.rename(removed)
        sync_folder(removed.parent)
    _delete(removed)


def _delete(path: Path) -> None:
    """Delete our files in a folder, and the folders that are empty then."""
    for entry in sorted(path.rglob("*"), reverse=True):
        if entry.is_dir():
            with contextlib.suppress(OSError):  # not empty: somebody else's
                entry.rmdir()
        elif _OWN_FILE.fullmatch(entry.relative_to(path).as_posix()):
            entry.unlink(missing_ok=True)
    for folder in (path, path.parent):
        with contextlib.suppress(OSError):
            folder.rmdir()


def remove_leftovers(folder: Folder, number: int) -> None:
    """Delete what a switch to a generation, or one that was killed before, has left.

    What cannot be deleted now is left to the next writer.
    """
    if not folder.generations.is_dir():
        return
    with contextlib.suppress(OSError):
        remove_leftover(folder, number)
        for entry in folder.generations.iterdir():
            if entry.name.endswith(_REMOVED) and _NAME.fullmatch(entry.name.removesuffix(_REMOVED)):
                _delete(entry)


def remove_leftover(folder: Folder, number: int) -> None:
    """Delete the generation with the number of the one that is searched.

    Raises
    ------
    OSError
        It cannot be deleted. With the next switch it would look as one that was kept.
    """
    own = folder_of_generation(folder, number)
    if own.exists() or (own.path.is_dir() and _is_ours(own.path)):
        remove_generation(own)


def fingerprint(documents: Iterable[tuple[str, bytes]]) -> str:
    """Return a digest of ids and keys: of which documents there are vectors.

    Parameters
    ----------
    documents : iterable of (str, bytes)
        Ids and keys, in order of ingestion.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, key in documents:
        content = name.encode()
        digest.update(len(content).to_bytes(8, "little") + content + key)
    return digest.hexdigest()


def keep_generation(folder: Folder, view: View, matches: str) -> None:
    """Write the vectors of a state, with the ids and keys of its documents, to the folder of its generation.

    Parameters
    ----------
    folder : Folder
        Of the collection.
    view : View
        The state.
    matches : str
        The fingerprint of the documents once another generation is searched.
    """
    own = make_room(folder, view.generation.number)
    own.path.mkdir()
    copy_vectors(folder, view, own)
    connection = create_catalogue(own.unfinished)
    with contextlib.closing(connection), sqlite_errors(own.unfinished):
        write_generation(connection, view.generation)
        settings: dict[str, Any] = {
            "store_text": 0,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "created_by": f"ctxembed {_core.__version__}",
            "documents": view.documents,
            "chunks": view.chunks,
            "fields": 0,
            KEPT: 1,
            MATCHES: matches,
        }
        for name, value in settings.items():
            write_setting(connection, name, value)
        for table, columns in (("segments", 6), ("tail_parts", 5), ("removed", 3)):
            marks = ", ".join("?" * columns)
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", view.query(f"SELECT * FROM {table}"))  # noqa: S608
        insert_rows(connection, "documents", in_statements(_document_rows(view)))
        insert_rows(connection, "chunks", in_statements(_chunk_rows(view)))
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    own.unfinished.rename(own.catalogue)
    for written in (own.segments, own.path, own.path.parent):
        sync_folder(written)


def _document_rows(view: View) -> Iterator[tuple[Any, ...]]:
    """Yield ids, keys and rows of the documents: what else is known of them stays in the collection."""
    for number, name, key, _, _, _, first, rows, vectors in view.all_documents():
        document = (number, name, key, b"", None, None, first, rows, vectors)
        yield number, name, bytearray(key), bytearray(), 0, 0, first, rows, vectors, checksum(*document), 0


def _chunk_rows(view: View) -> Iterator[tuple[int, ...]]:
    for number, _, _, _, _, _, first, rows, _ in view.all_documents():
        for chunk in range(rows):
            place = (first + chunk, number, chunk)
            yield *place, 0, -1, -1, checksum(*place, None, None, None)
