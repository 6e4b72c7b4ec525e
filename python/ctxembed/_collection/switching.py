"""The switch to another generation: its vectors become those of the collection in one transaction.

They are written in the order of the collection's rows, so documents keep their rows, and chunks and metadata stay as
they are.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._collection.catalogue import checksum, damaged
from ctxembed._collection.generations import fingerprint, keep_generation, remove_leftover
from ctxembed._collection.rows import open_index
from ctxembed._collection.state import Generation, write_numbering, write_setting
from ctxembed._errors import CollectionError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ctxembed._collection.folder import Folder
    from ctxembed._collection.rows import Segment
    from ctxembed._collection.store import Store
    from ctxembed._collection.view import View

__all__ = ["new_responses", "switch"]

_AT_ONCE: Final = 1000


def switch(store: Store, folder: Folder, view: View, other: View, *, keep: bool) -> None:
    """Make the vectors of another collection those of this one.

    Parameters
    ----------
    store : Store
        Of the collection.
    folder : Folder
        Of the collection.
    view : View
        Its last committed state, which has no deleted rows alone.
    other : View
        Has the vectors of exactly its documents.
    keep : bool
        Whether the vectors that the collection has now are kept in a folder of their own.

    Raises
    ------
    CollectionError
        A document or a vector is missing or damaged. Nothing was changed.
    OSError
        The disk is full or fails. Nothing was changed.
    """
    numbers = _row_numbers(view, other)
    old, new = view.generation, other.generation
    remove_leftover(folder, old.number)
    if keep:
        keep_generation(folder, view, fingerprint((twin[1], twin[2]) for _, twin in _pairs(view, other)))

    def check(segments: list[Segment]) -> None:
        """Compare the vectors that were written with what the documents of the other generation say."""
        index = open_index(folder, other.layout, segments, new.space, None)
        pairs = _pairs(view, other)
        while batch := list(islice(pairs, _AT_ONCE)):
            found = index._checksums([document[6:8] for document, _ in batch])  # noqa: SLF001
            for (document, twin), value in zip(batch, found, strict=True):
                if value != twin[8]:
                    raise damaged(folder.path, f"the new vectors of the document {document[1]!r:.100} are changed")

    def change(connection: sqlite3.Connection) -> Generation:
        for document, twin in _pairs(view, other):
            values = (*document[:2], twin[2], *document[3:8], twin[8])
            connection.execute(
                "UPDATE documents SET key = ?, vectors_checksum = ?, checksum = ? WHERE number = ?",
                (twin[2], twin[8], checksum(*values), document[0]),
            )
        store.write_all_keys(connection, view.rows)
        connection.execute("DELETE FROM windows")  # of the model before
        connection.executemany("INSERT INTO windows VALUES (?, ?, ?, ?)", other.query("SELECT * FROM windows"))
        store.insert_responses(connection, new_responses(view, other))
        write_setting(connection, "in_flight", None)
        write_numbering(connection, old.tail + 1, view.numbering)  # rows keep their numbers, so the index of words fits
        return Generation(old.number + 1, new.model, new.dimensions, new.encoding_format, new.space, 0, None)

    store.rewrite(view, other, numbers, change, check)


def _pairs(view: View, other: View) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Yield each document with its twin in the other generation."""
    documents = view.all_documents()
    while batch := list(islice(documents, _AT_ONCE)):
        twins = other.documents_named([document[1] for document in batch])
        for document in batch:
            twin = twins.get(document[1])
            if twin is None or twin[7] != document[7]:
                raise CollectionError(
                    f"the new generation has no vectors of the document {document[1]!r:.100} as it is: migrate again"
                )
            yield document, twin


def _row_numbers(view: View, other: View) -> NDArray[np.int64]:
    """Return the row in the other generation of each row. Those of deleted documents have any: nothing finds them."""
    if other.documents != view.documents:
        raise CollectionError(
            f"the new generation has {other.documents:,} documents, and the collection {view.documents:,}: migrate "
            "again"
        )
    numbers = np.zeros(view.rows, np.int64)
    for document, twin in _pairs(view, other):
        first, rows = document[6:8]
        numbers[first : first + rows] = np.arange(twin[6], twin[6] + rows)
    return numbers


def new_responses(view: View, other: View) -> list[tuple[Any, ...]]:
    """Return the rows of another ledger that are not in the one of a state, without their numbers."""
    known = set(view.query("SELECT at, checksum FROM responses"))
    found = []
    for number, *values, expected in other.query("SELECT * FROM responses ORDER BY number"):
        if checksum(*values) != expected:
            raise CollectionError(f"the row {number} of responses of the new generation is changed")
        if (values[0], expected) not in known:
            found.append((*values, expected))
    return found
