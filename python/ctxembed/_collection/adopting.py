"""Adoption: a collection takes over the documents, failures and costs of others that workers wrote.

Nothing is marked in the parts, and what is there already is passed over, so a call that was killed is simply made
again: documents are known by id, key and details, and rows of the ledger by all of their values, the time among them.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._collection.catalogue import checksum, damaged
from ctxembed._collection.folder import folder_of
from ctxembed._collection.rows import row_numbers
from ctxembed._collection.stats import usage_of
from ctxembed._documents import Document, IngestReport
from ctxembed._errors import CollectionError, SpaceError
from ctxembed._jobs.documents import InvalidDocumentError, check_document
from ctxembed._jobs.store import FailureRecord, InFlight
from ctxembed._planning.document_key import DocumentKeys
from ctxembed._results import NO_USAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from os import PathLike

    from ctxembed._collection.reader import CollectionReader
    from ctxembed._collection.store import Store
    from ctxembed._collection.view import View
    from ctxembed._jobs.store import NewDocument, StoredDocument
    from ctxembed._results import Usage

__all__ = ["adopt"]

_BYTES: Final = 8 << 20
"""Bytes of vectors that are stored in one transaction."""

_DOCUMENTS: Final = 1000
"""Documents that are stored in one transaction at most."""


def adopt(
    store: Store,
    own: CollectionReader,
    paths: Iterable[str | PathLike[str]],
    open_part: Callable[[Path], CollectionReader],
) -> IngestReport:
    """Take over the documents of other collections, as :meth:`Collection.adopt` describes.

    Parameters
    ----------
    store : Store
        Of the collection.
    own : CollectionReader
        The collection.
    paths : iterable of str or os.PathLike
        The parts.
    open_part : callable
        Opens a part for writing.
    """
    parts = _folders(Path(own.path), paths)
    with closing(_Contents()) as contents:
        space = store.space
        for path in parts:
            with open_part(path) as part:
                space = _check_alike(store, path, part._current(), space)  # noqa: SLF001
                contents.note(path, part._current())  # noqa: SLF001
        ledger = own._current().query("SELECT at, checksum FROM responses")  # noqa: SLF001
        adoption = _Adoption(store, contents, ledger)
        for path in parts:
            with open_part(path) as part:
                adoption.take(path, part._current())  # noqa: SLF001
        for path in parts:  # a document that failed in one part may be stored in another
            with open_part(path) as part:
                adoption.take_failures(path, part._current())  # noqa: SLF001
    store.end()
    return adoption.report()


def _folders(own: Path, paths: Any) -> list[Path]:
    if isinstance(paths, str | bytes) or hasattr(paths, "__fspath__"):
        raise TypeError(f"paths must be a list of folders, got one: pass [{paths!r}]")
    folders = [folder_of(path).path.resolve() for path in paths]
    if own.resolve() in folders:
        raise ValueError(f"{own} cannot adopt itself")
    return list(dict.fromkeys(folders))


def _check_alike(store: Store, path: Path, view: View, space: str | None) -> str | None:
    """Refuse a part whose vectors are of another kind, and return the space of those so far."""
    found = view.generation
    ours = (store.model, store.dimensions, store.encoding_format)
    theirs = (found.model, found.dimensions, found.encoding_format)
    if ours != theirs:
        shown = [f"{model} with {dimensions} dimensions as {form}" for model, dimensions, form in (theirs, ours)]
        raise SpaceError(f"{path} holds vectors of {shown[0]}, and this collection those of {shown[1]}")
    if None not in {space, found.space} and space != found.space:
        raise SpaceError(
            f"{path} holds vectors of the space {found.space!r}, and this collection or a part before it those of "
            f"{space!r}"
        )
    if store.keeps_text and not view.store_text and view.documents:
        raise CollectionError(f"{path} was made without the text of its chunks, which this collection keeps")
    return space or found.space


class _Contents:
    """The keys of all documents of all parts: two parts may hold the same document, but not one id with two contents.

    They are in a temporary database, which SQLite moves to the disk when it is large.
    """

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.execute(
            "CREATE TABLE documents (id TEXT PRIMARY KEY, key BLOB, details BLOB, part TEXT) WITHOUT ROWID"
        )

    def note(self, path: Path, view: View) -> None:
        """Add the documents of a part."""
        self._connection.execute("BEGIN")
        for _, name, key, details, *_ in view.all_documents():
            try:
                self._connection.execute("INSERT INTO documents VALUES (?, ?, ?, ?)", (name, key, details, str(path)))
            except sqlite3.IntegrityError:
                if not self.has(name, key, details):
                    [(other,)] = self._connection.execute("SELECT part FROM documents WHERE id = ?", (name,)).fetchall()
                    raise ValueError(
                        f"the document {name!r:.100} is in {other} and in {path} with other chunks, metadata, spans or "
                        "source: delete it from one of them"
                    ) from None
        self._connection.execute("COMMIT")

    def has(self, name: str, key: bytes, details: bytes) -> bool:
        """Return whether a document was noted as it is."""
        found = self._connection.execute("SELECT key, details FROM documents WHERE id = ?", (name,)).fetchone()
        return bool(found == (key, details))

    def close(self) -> None:
        """Delete the database."""
        self._connection.close()


class _Adoption:
    """Stores what parts hold, and counts it."""

    def __init__(self, store: Store, contents: _Contents, known: Iterable[tuple[Any, ...]]) -> None:
        self._store = store
        self._contents = contents
        self._number = store.begin()
        self._keys = DocumentKeys(store.model, store.dimensions, store.encoding_format)
        self._known = set(known)
        self._added = self._updated = self._unchanged = self._failed = 0
        self._usage: Usage = NO_USAGE

    def report(self) -> IngestReport:
        """Return what was done."""
        return IngestReport(
            added=self._added,
            updated=self._updated,
            unchanged=self._unchanged,
            failed=self._failed,
            usage=self._usage,
        )

    def take(self, path: Path, view: View) -> None:
        """Store the documents, the windows and the ledger of a part."""
        batch: list[tuple[Any, StoredDocument | None]] = []
        changed: list[tuple[Any, StoredDocument | None]] = []
        size, width = 0, view.layout.width
        for values in view.all_documents():
            _, name, key, details, *_, rows, _ = values
            if not self._contents.has(name, key, details):
                raise CollectionError(f"{path}: the document {name!r:.100} changed while it was adopted: adopt again")
            old = self._store.find(name)
            if old is not None and old.key == key:
                if old.details == details:
                    self._unchanged += 1
                else:
                    changed.append((values, old))
                continue
            batch.append((values, old))
            size += rows * width
            if size >= _BYTES or len(batch) >= _DOCUMENTS:
                self._store_batch(view, batch)
                batch, size = [], 0
        self._store_batch(view, batch)
        for start in range(0, len(changed), _DOCUMENTS):
            documents = self._documents(view, changed[start : start + _DOCUMENTS])
            self._store.change_details(documents)
            self._updated += len(documents)
        self._take_windows(path, view)
        self._take_ledger(path, view)

    def _store_batch(self, view: View, batch: Sequence[tuple[Any, StoredDocument | None]]) -> None:
        if not batch:
            return
        view.check_vectors(values for values, _ in batch)
        vectors = view.index.vectors(row_numbers([values[6:8] for values, _ in batch]))
        documents = self._documents(view, batch)
        self._commit(view, documents=documents, vectors=vectors)
        replaced = sum(document.replaces is not None for document in documents)
        self._updated += replaced
        self._added += len(documents) - replaced

    def _commit(self, view: View, *, documents: Any = (), vectors: Any = (), windows: Any = None) -> None:
        self._store.commit(
            documents,
            vectors,
            usage=NO_USAGE,
            space=view.generation.space,
            windows=windows or {},
            spent_windows=(),
            in_flight=InFlight(),
        )

    def _documents(self, view: View, batch: Sequence[tuple[Any, StoredDocument | None]]) -> list[NewDocument]:
        """Return documents of a part in the form in which they are stored."""
        found = []
        for values, old in batch:
            document = view.document(values)
            if not view.store_text:  # the key says what the chunks were
                document = Document(document.id, ["?"] * values[7], document.metadata, document.spans, document.source)
            try:
                new = check_document(document, self._number, self._keys, self._store.field_types)
            except InvalidDocumentError as error:
                raise ValueError(f"the document {document.id!r:.100} does not fit this collection: {error}") from error
            new.key, new.details, new.replaces = values[2], values[3], old
            found.append(new)
            self._number += 1
        return found

    def _take_windows(self, path: Path, view: View) -> None:
        """Store the paid windows of long documents that are not complete."""
        windows = {}
        for key, rows, content, found in view.query("SELECT key, rows, vectors, checksum FROM windows"):
            if checksum(key, rows, content) != found:
                raise damaged(path, "the vectors of a window are changed")
            windows[key] = np.frombuffer(content, view.layout.dtype).reshape(rows, view.layout.width)
        if windows:
            self._commit(view, windows=windows)

    def _take_ledger(self, path: Path, view: View) -> None:
        """Store the costs that are not in the ledger yet, in one transaction."""
        new = []
        for number, *values, found in view.query("SELECT * FROM responses ORDER BY number"):
            if checksum(*values) != found:
                raise damaged(path, f"the row {number} of responses is changed")
            if (values[0], found) not in self._known:
                self._known.add((values[0], found))
                new.append((*values, found))
        if new:
            self._store.add_to_ledger(new)
            for row in new:
                self._usage += usage_of(row[4:-1])

    def take_failures(self, path: Path, view: View) -> None:
        """Record the failures of documents that are not stored and are not known to have failed so."""
        failures = []
        for *values, found in view.query("SELECT id, key, error, attempts, at, checksum FROM failures ORDER BY id"):
            if checksum(*values) != found:
                raise damaged(path, f"the failure of {values[0]!r} is changed")
            name, key, error, attempts, _ = values
            if self._store.find(name) is None:
                self._failed += 1
                if key is None or self._store.failed_key(name) != key:
                    failures.append(FailureRecord(name, key, error, attempts))
        if failures:
            self._store.record_failures(failures, NO_USAGE)
