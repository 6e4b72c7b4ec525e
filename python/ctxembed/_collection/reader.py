"""What a collection returns: documents, hits, vectors, statistics. The part of the class that writes nothing."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ctxembed._collection.catalogue import checksum, damaged
from ctxembed._collection.exporting import Exporting
from ctxembed._collection.hybrid import check_hybrid
from ctxembed._collection.near_duplicates import find_near_duplicates
from ctxembed._collection.query import (
    SearchOptions,
    check_space,
    embedded,
    embedded_async,
    find_rows,
)
from ctxembed._collection.rows import row_numbers
from ctxembed._collection.searching import CheckedSearch
from ctxembed._collection.stats import read_stats
from ctxembed._collection.verify import verify
from ctxembed._collection.view import View
from ctxembed._collection.where import parse_where
from ctxembed._collection.words import WordIndex
from ctxembed._documents import CollectionStats, Document, FailedDocument, Hit, NearDuplicate
from ctxembed._errors import CollectionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from numpy.typing import ArrayLike, NDArray

    from ctxembed._collection.folder import Folder
    from ctxembed._collection.lock import WriterLock
    from ctxembed._collection.searching import Found
    from ctxembed._collection.store import Store
    from ctxembed._core import Matches
    from ctxembed._models import EncodingFormat

__all__ = ["CollectionReader", "check_id"]


class CollectionReader(Exporting):
    """The life of a collection, and what it returns."""

    _folder: Folder
    _writer: WriterLock | None
    _store: Store | None
    _view: View | None
    _closed: bool

    def __init__(self) -> None:
        raise TypeError("use Collection.create(path, model=...) or Collection.open(path)")

    @classmethod
    def _make(cls, folder: Folder, lock: WriterLock | None, store: Store | None, *, immutable: bool = False) -> Self:
        self = cls.__new__(cls)
        self._set_up(folder, lock, store, immutable=immutable)
        return self

    def _set_up(self, folder: Folder, lock: WriterLock | None, store: Store | None, *, immutable: bool) -> None:
        self._folder = folder
        self._writer = lock
        self._store = store
        self._immutable = immutable
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._view = None
        self._words = WordIndex(folder)
        self._is_current = False
        self._ingesting = threading.Lock()
        self._closed = False
        self._opened_generation = None if store is None else store.generation_number
        if store is not None:
            this = weakref.ref(self)  # a cycle would keep the lock of a collection that is dropped

            def forget_view() -> None:
                collection = this()
                if collection is not None:
                    collection._forget_view()  # noqa: SLF001

            store.on_commit = forget_view
        _LIVE.add(self)

    # --- life ---

    @property
    def path(self) -> str:
        """The folder, with symbolic links resolved."""
        return str(self._folder.path)

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written."""
        return self._store is None

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._current().generation.model

    @property
    def dimensions(self) -> int:
        """Of each vector."""
        return self._current().generation.dimensions

    @property
    def encoding_format(self) -> EncodingFormat:
        """Of the vectors: "base64_int8" or "base64_binary"."""
        return self._current().generation.encoding_format

    @property
    def store_text(self) -> bool:
        """Whether the text of the chunks is kept."""
        return self._current().store_text

    @property
    def space(self) -> str | None:
        """Name of the space of the vectors; None before the first are stored."""
        return self._current().generation.space

    def close(self) -> None:
        """Close all files and release the lock. Closing twice is no error."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._pid != os.getpid():  # the files are the parent's
                return
            if self._view is not None:
                self._view.close()
                self._view = None
            self._words.close()
            if self._store is not None:
                self._store.close()
            if self._writer is not None:
                self._writer.release()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            with contextlib.suppress(Exception):
                self.close()

    def __repr__(self) -> str:
        """Show the folder, never the documents."""
        state = "closed" if self._closed else "read only" if self.read_only else "open"
        return f"<Collection {self.path}, {state}>"

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle a Collection: open it in the other process")

    def _check_open(self) -> None:
        if self._closed:
            raise CollectionError(f"{self.path}: this collection is closed")
        if self._pid != os.getpid():
            raise CollectionError(f"{self.path} was opened before fork(): open it again in this process")

    def _current(self) -> View:
        """Return the state to read: of a writer the last one that it has committed."""
        with self._lock:
            self._check_open()
            view = self._view
            if view is None:
                # Set before, so that a commit meanwhile makes the next call read anew.
                self._is_current = True
                view = View(self._folder, immutable=self._immutable)
                if self._opened_generation is None:
                    self._opened_generation = view.generation.number
                if self._is_current:
                    self._view = view
            return view

    def _forget_view(self) -> None:
        """Let the next call read anew. Calls that are under way keep the state that they have."""
        self._is_current = False
        self._view = None

    def refresh(self) -> None:
        """Move on to the last committed state. Iterators that began before keep theirs."""
        with self._lock:
            self._check_open()
            self._forget_view()
            self._current()

    # --- reading ---

    def __len__(self) -> int:
        """Return the number of documents."""
        return self._current().documents

    def __contains__(self, id: object) -> bool:  # noqa: A002
        """Return whether a document with this id is stored."""
        return isinstance(id, str) and id != "" and _is_text(id) and self._current().find(id) is not None

    def get(self, id: str) -> Document | None:  # noqa: A002
        """Return a document, or None.

        Parameters
        ----------
        id : str
            Its id.
        """
        check_id(id)
        view = self._current()
        found = view.find(id)
        return None if found is None else view.document(found)

    def documents(self, where: str | None = None, params: Any = ()) -> Iterator[Document]:
        """Iterate over the documents in order of ingestion.

        Parameters
        ----------
        where, params
            As in :meth:`search`.

        Notes
        -----
        The state is that of the call, or of a later :meth:`refresh`.
        """
        view = self._filtered(where)
        return (view.document(values) for values in view.all_documents(where, params))

    def vectors(self, ids: Iterable[str] | None = None) -> NDArray[Any]:
        """Return vectors, in the order of documents, then chunks.

        Parameters
        ----------
        ids : iterable of str, optional
            Documents. Default: all, in order of ingestion.

        Returns
        -------
        ndarray of int8 or uint8, shape (n, width)
            A copy.

        Raises
        ------
        KeyError
            An id is not in the collection.
        """
        view = self._current()
        if ids is None:
            ranges = view.ranges()
        else:
            ranges = []
            for name in ids:
                check_id(name)
                found = view.find(name)
                if found is None:
                    raise KeyError(f"there is no document {name!r} in {self.path}")
                view.check_vectors([found])
                ranges.append((found[6], found[7]))
        vectors: NDArray[Any] = view.index.vectors(row_numbers(ranges))
        return vectors

    def failures(self) -> list[FailedDocument]:
        """Return the documents that could not be embedded, by id."""
        failed = []
        view = self._current()
        for *values, expected in view.query("SELECT id, key, error, attempts, at, checksum FROM failures ORDER BY id"):
            if checksum(*values) != expected:
                raise damaged(self._folder.catalogue, f"the failure of {values[0]!r} is changed")
            name, _, error, attempts, at = values
            failed.append(FailedDocument(name, error, attempts, datetime.fromtimestamp(at, UTC)))
        return failed

    def rows(self, ids: ArrayLike) -> list[tuple[str, int]]:
        """Return (document id, chunk) of each row number, as :meth:`search_batch` returns them.

        Parameters
        ----------
        ids : array_like of int
            Row numbers; an array of any shape is read in its order.
        """
        view = self._current()
        numbers = np.asarray(ids)
        if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
            raise TypeError(f"ids must be ints, got an array of {numbers.dtype}")
        names: dict[int, str] = {}
        found = []
        for row in numbers.reshape(-1).tolist():
            if not view.query("SELECT 1 FROM chunks WHERE row = ?", (row,)):
                raise ValueError(f"there is no row {row} in {self.path}")
            [(document, chunk, *_)] = view.chunks_at([row])
            if document not in names:
                names[document] = view.document_at(document)[1]
            found.append((names[document], chunk))
        return found

    def search(
        self,
        query: Any,
        k: int = 10,
        *,
        client: Any = None,
        where: str | None = None,
        params: Any = (),
        hybrid: bool = False,
        stage: str = "exact",
        oversample: int | None = None,
        dimensions: int | None = None,
        group_by_document: bool = False,
        neighbours: int = 0,
        space: str | None = None,
    ) -> list[Hit]:
        """Find the chunks nearest to a query.

        Parameters
        ----------
        query : str, ndarray or Embeddings
            A text, which ``client`` embeds, or a vector of shape (dimensions,) or (1, dimensions). In a binary
            collection packed bits or an int8 vector.
        k : int
            Chunks to find, at least 1.
        client : Client or object, optional
            A :class:`Client`, or whatever has ``embed_queries(queries, *, model, dimensions, encoding_format)``.
            Default: ``Client()``, with the key of the environment.
        where : str, optional
            An SQL expression over ``id``, ``source`` and metadata by name, as ``"year >= ? AND lang = 'en'"``. Only
            chunks of documents that it selects are ranked.
        params : tuple, list or dict
            Values for the ``?`` or ``:name`` in ``where``.
        hybrid : bool
            Whether the words of the query are searched too (BM25), and both rankings fused by reciprocal rank. The
            query is a text then. Needs the extra ``hybrid``; the first such search builds an index of the words.
        stage, oversample, dimensions
            As in :meth:`Index.search`.
        group_by_document : bool
            Whether documents are ranked, each by its best chunk, which is its hit.
        neighbours : int
            Chunks of the same document, at least 0, that ``hit.passage`` has on each side of the hit's chunk.
        space : str, optional
            The space of a vector, which has to be the collection's. An array needs it once the collection has been
            migrated since it was opened here.

        Returns
        -------
        list of Hit
            ``min(k, matching chunks)``, or ``min(k, matching documents)`` with ``group_by_document``, best first. With
            ``neighbours``, hits among the best ``k`` whose passages overlap are one hit, the best of them, with all
            their chunks as its passage. The next hits whose passages overlap no other take their places. With
            ``hybrid=True`` their ``score`` is the sum of reciprocal ranks, no similarity; ``vector_score`` and
            ``text_score`` are what the rankings are made of.

        Raises
        ------
        SpaceError
            The query's vector is of another space, or may be: see ``space``.
        CollectionError
            What would be returned is damaged, or the collection has no text for ``hybrid=True``.
        ModuleNotFoundError
            The extra ``hybrid`` is not installed.
        TypeError, ValueError
            An argument is not what it should be. An unknown name in ``where`` is an error that lists the fields.
        """
        return self._search(
            query, k, client=client, where=where, params=params, hybrid=hybrid, stage=stage, oversample=oversample,
            dimensions=dimensions, group_by_document=group_by_document, neighbours=neighbours, space=space,
        ).hits  # fmt: skip

    def _search(self, query: Any, k: int, *, client: Any = None, **options: Any) -> Found:
        """Search, and tell the state and the vector too."""
        search = self._checked(query, k, **options)
        return search.found(embedded(search.view, query, client) if isinstance(query, str) else query)

    def _checked(
        self,
        query: Any,
        k: int,
        *,
        where: str | None = None,
        params: Any = (),
        hybrid: bool = False,
        group_by_document: bool = False,
        neighbours: int = 0,
        space: str | None = None,
        stage: str = "exact",
        oversample: int | None = None,
        dimensions: int | None = None,
    ) -> CheckedSearch:
        check_hybrid(hybrid, query)
        view = self._filtered(where)
        self._check_space(view, query, space)
        given = {"stage": stage, "oversample": oversample, "dimensions": dimensions}
        options = SearchOptions.check(
            view, k, where, params, given, group_by_document=group_by_document, neighbours=neighbours
        )
        return CheckedSearch(view, query, options, self._words.at(view) if hybrid else None)

    async def asearch(
        self,
        query: Any,
        k: int = 10,
        *,
        client: Any = None,
        where: str | None = None,
        params: Any = (),
        hybrid: bool = False,
        stage: str = "exact",
        oversample: int | None = None,
        dimensions: int | None = None,
        group_by_document: bool = False,
        neighbours: int = 0,
        space: str | None = None,
    ) -> list[Hit]:
        """Find the chunks nearest to a query, without blocking the event loop.

        Parameters
        ----------
        query : str, ndarray or Embeddings
            As in :meth:`search`.
        k : int
            Chunks to find.
        client : AsyncClient or object, optional
            An :class:`AsyncClient`, or whatever has ``embed_queries``, plain or async. Default: ``AsyncClient()``.
        where, params, hybrid, stage, oversample, dimensions, group_by_document, neighbours, space
            As in :meth:`search`.

        Returns
        -------
        list of Hit
            As :meth:`search` returns.

        Raises
        ------
        SpaceError, CollectionError, ModuleNotFoundError, TypeError, ValueError
            As :meth:`search` raises.
        """
        found = await self._asearch(
            query, k, client=client, where=where, params=params, hybrid=hybrid, stage=stage, oversample=oversample,
            dimensions=dimensions, group_by_document=group_by_document, neighbours=neighbours, space=space,
        )  # fmt: skip
        return found.hits

    async def _asearch(self, query: Any, k: int, *, client: Any = None, **options: Any) -> Found:
        """Search as :meth:`_search` does, without blocking the event loop."""
        from anyio.to_thread import run_sync

        search = await run_sync(lambda: self._checked(query, k, **options))
        vector = await embedded_async(search.view, query, client) if isinstance(query, str) else query
        return await run_sync(search.found, vector)

    def search_batch(
        self,
        vectors: Any,
        k: int = 10,
        *,
        where: str | None = None,
        params: Any = (),
        stage: str = "exact",
        oversample: int | None = None,
        dimensions: int | None = None,
        space: str | None = None,
    ) -> Matches:
        """Find the chunks nearest to many vectors.

        Parameters
        ----------
        vectors : ndarray or Embeddings
            Shape (q, dimensions).
        k, where, params, stage, oversample, dimensions, space
            As in :meth:`search`.

        Returns
        -------
        Matches
            ``ids`` are row numbers: :meth:`rows` names their documents. They change when the collection is compacted.
            ``scores`` are those of the index: cosines, Hamming distances, or inner products with signs.
        """
        view = self._filtered(where)
        self._check_space(view, vectors, space)
        given = {"stage": stage, "oversample": oversample, "dimensions": dimensions}
        found: Matches = find_rows(view, vectors, SearchOptions.check(view, k, where, params, given))
        return found

    def near_duplicates(
        self,
        threshold: float,
        *,
        limit: int | None = None,
        where: str | None = None,
        params: Any = (),
        dimensions: int | None = None,
    ) -> list[NearDuplicate]:
        """Find the pairs of documents that have chunks near each other.

        Parameters
        ----------
        threshold : float
            The lowest score of two chunks: a cosine, or of packed bits ``1 - distance / dimensions``.
        limit : int, optional
            Only the nearest ``limit`` pairs. Default: all.
        where, params, dimensions
            As in :meth:`search`: only the documents that ``where`` selects are compared.

        Returns
        -------
        list of NearDuplicate
            One for each pair of documents, the nearest first, and ties in order of ingestion.

        Raises
        ------
        CollectionError, TypeError, ValueError
            As :meth:`search` raises.

        Notes
        -----
        Each chunk is compared with all chunks of later documents, so the time grows with the square of their number.
        Memory grows with the pairs of documents that are returned, not with those of chunks.
        """
        view = self._filtered(where)
        return find_near_duplicates(view, threshold, limit, where=where, params=params, dimensions=dimensions)

    def _check_space(self, view: View, query: Any, space: str | None = None) -> None:
        check_space(view, query, space, has_moved=view.generation.number != self._opened_generation)

    def _filtered(self, where: str | None) -> View:
        """Return the state to read, after a writer has made columns for the fields that ``where`` names."""
        view = self._current()
        if where is None or self._store is None:
            return view
        names = parse_where(where, view.columns.names, view.columns.column).names
        missing = view.columns.missing(names)
        if missing:
            self._store.add_columns(missing)
            view = self._current()
        return view

    # --- care ---

    def verify(self) -> list[str]:
        """Compare all checksums and references, and return a sentence for each damage; empty where there is none.

        Notes
        -----
        It reads the whole collection in its last committed state. Rows that were written and never committed are no
        damage.
        """
        self._check_open()
        while True:
            view = View(self._folder, immutable=self._immutable)
            found = verify(self._folder, view)
            if not found or View(self._folder, immutable=self._immutable).segments == view.segments:
                return found
            # A compaction has deleted the files of the state that was verified.

    def stats(self) -> CollectionStats:
        """Return the size of the collection, and what it has cost."""
        return read_stats(self._folder, self._current())


_LIVE: weakref.WeakSet[CollectionReader] = weakref.WeakSet()
_INHERITED: list[object] = []
"""What a forked child has of its parent's collections: kept, so that the collector closes none of it."""


def _keep_inherited() -> None:
    _INHERITED.extend((collection._view, collection._store) for collection in list(_LIVE))  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited)


def check_id(value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"an id must be a str, got {value!r:.100}")
    if not _is_text(value):
        raise ValueError(f"the id {value!r:.100} holds a lone surrogate, which no stored id does")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
