"""A collection that is served: opened for reading, and moved on to what a writer commits."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

from ctxembed._collection.catalogue import connect
from ctxembed._collection.collection import Collection
from ctxembed._collection.folder import folder_of
from ctxembed._collection.lock import read_holder
from ctxembed._collection.stats import read_stats
from ctxembed._collection.view import View
from ctxembed._server.search.metadata_fields import read_fields

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ctxembed._collection.bm25 import WordSearcher
    from ctxembed._collection.folder import Folder
    from ctxembed._documents import FailedDocument

__all__ = ["ServedCollection", "ServedState", "open_collections"]


class ServedState:
    """One committed state, ready to be searched.

    Parameters
    ----------
    view : View
        The state.
    filters : View
        The same state on another connection, for what may take long.

    Attributes
    ----------
    alive : ndarray of bool or None
        The rows that are not deleted; None where all are there.
    """

    __slots__ = ("alive", "fields", "filters", "stats", "view")

    def __init__(self, view: View, filters: View) -> None:
        self.view = view
        self.filters = filters
        self.alive: NDArray[np.bool_] | None = view.mask(None, ())
        self.stats: dict[str, Any] | None = None
        self.fields: dict[str, Any] | None = None
        if view.rows:
            _ = view.index  # the tail is read now, not by the first search


class ServedCollection:
    """A collection by its name.

    Parameters
    ----------
    path : str or Path
        The folder.

    Attributes
    ----------
    name : str
        That of the folder, without ``.ctx``.
    state : ServedState
        What searches use. It is replaced as a whole.
    changed : asyncio.Event
        Set once ``state`` or ``writer`` has changed, and then replaced by another one.

    Raises
    ------
    FileNotFoundError, CollectionError, OSError
        As :meth:`Collection.open` raises.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._watch: sqlite3.Connection | None = None
        self._open()
        self.name = os.path.basename(self._collection.path).removesuffix(".ctx")  # noqa: PTH119  # a str
        self._generation = self.state.view.generation.number
        self.writer = read_holder(self._folder.lock)
        self.changed = asyncio.Event()

    def _open(self) -> None:
        collection = Collection.open(self._path, read_only=True)
        watch = None
        try:
            folder = folder_of(collection.path)
            identity = _identity(folder.catalogue)
            if not collection._immutable:  # noqa: SLF001
                watch = connect(folder.catalogue, read_only=True)
            state, version = _read_state(collection, folder, watch)
        except BaseException:
            collection.close()
            if watch is not None:
                watch.close()
            raise
        self._collection, self._folder, self._identity = collection, folder, identity
        self._watch, self._version, self.state = watch, version, state

    @property
    def path(self) -> str:
        """The folder."""
        return self._collection.path

    def close(self) -> None:
        """Close all files."""
        self._collection.close()
        if self._watch is not None:
            self._watch.close()

    def follow(self) -> bool:
        """Move on to the last committed state. Return whether there was another one, or another writer.

        Notes
        -----
        For one thread at a time. Searches that are under way keep their state, which SQLite's log keeps too.

        Raises
        ------
        CollectionError, OSError
            It cannot be read. The last state is still there.
        """
        writer = read_holder(self._folder.lock)
        changed = writer != self.writer
        self.writer = writer
        if self._watch is None:  # nobody can write to it
            return changed
        if _identity(self._folder.catalogue) != self._identity:  # another folder stands there now
            before, watch = self._collection, self._watch
            self._open()
            before.close()
            watch.close()
            return True
        if _version(self._watch) == self._version:
            return changed
        self.state, self._version = _read_state(self._collection, self._folder, self._watch)
        return True

    def has_moved(self, state: ServedState) -> bool:
        """Return whether a state is of another generation than the one that was opened first."""
        return state.view.generation.number != self._generation

    def notify(self) -> None:
        """Wake those who wait for ``changed``. Call it in the event loop."""
        before, self.changed = self.changed, asyncio.Event()
        before.set()

    # --- what is read besides searches, in any thread ---

    def words(self, view: View) -> WordSearcher:
        """Return the words of a state, and build what is missing."""
        return self._collection._words.at(view)  # noqa: SLF001

    def failures(self) -> list[FailedDocument]:
        """Return the documents that could not be embedded."""
        return self._collection.failures()

    def progress(self) -> dict[str, Any]:
        """Return what a job changes: sizes, usage, and who writes."""
        found = self._stats()
        sizes = {name: found[name] for name in ("documents", "chunks", "failed")}
        return {**sizes, **found["usage"], "writer": self.writer}

    def describe(self) -> dict[str, Any]:
        """Return the object of the collection, as the endpoints give it."""
        view = self.state.view
        generation = view.generation
        return {
            "object": "collection",
            "name": self.name,
            "model": generation.model,
            "dimensions": generation.dimensions,
            "encoding_format": generation.encoding_format,
            "space": generation.space,
            **self._stats(),
            "stores_text": view.store_text,
            "two_stage": generation.encoding_format == "base64_int8",
            "writer": self.writer,
        }

    def _stats(self) -> dict[str, Any]:
        state = self.state
        if state.stats is None:
            found = read_stats(self._folder, state.view)
            cost = found.usage.cost_usd
            state.stats = {
                "documents": found.documents,
                "chunks": found.chunks,
                "deleted_chunks": found.deleted_chunks,
                "failed": found.failed,
                "segments": found.segments,
                "bytes": found.bytes,
                "usage": {
                    "requests": found.usage.requests,
                    "total_tokens": found.usage.total_tokens,
                    "cost_usd": None if cost is None else f"{cost:f}",
                },
            }
        return state.stats

    def fields(self) -> dict[str, Any]:
        """Return the metadata fields with their values, from a sample of documents where there are many."""
        state = self.state
        if state.fields is None:
            state.fields = read_fields(state.filters)
        return state.fields


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _version(watch: sqlite3.Connection | None) -> int:
    """Return a number that changes with each commit of another connection."""
    return 0 if watch is None else int(watch.execute("PRAGMA data_version").fetchone()[0])


def _read_state(collection: Collection, folder: Folder, watch: sqlite3.Connection | None) -> tuple[ServedState, int]:
    """Return the last committed state, and its version."""
    while True:
        version = _version(watch)
        collection.refresh()
        view = collection._current()  # noqa: SLF001
        filters = View(folder, immutable=collection._immutable)  # noqa: SLF001
        if _version(watch) == version:  # else the two may be of different states
            return ServedState(view, filters), version


def open_collections(paths: Sequence[str | Path]) -> dict[str, ServedCollection]:
    """Open collections by their names.

    Raises
    ------
    ValueError
        Two have one name.
    FileNotFoundError, CollectionError, OSError
        One cannot be opened.
    """
    found: dict[str, ServedCollection] = {}
    with contextlib.ExitStack() as opened:
        for path in paths:
            served = ServedCollection(path)
            opened.callback(served.close)
            if served.name in found:
                raise ValueError(f"two collections are called {served.name!r}: a server needs different names")
            found[served.name] = served
        opened.pop_all()
    return found
