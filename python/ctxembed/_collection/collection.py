"""A collection: documents, their metadata and their vectors in one folder."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ctxembed import _core
from ctxembed._collection.catalogue import checksum, connect, create_catalogue, damaged, transaction
from ctxembed._collection.compact import row_numbers
from ctxembed._collection.fields import add_columns
from ctxembed._collection.folder import check_file_system, folder_of, sync_folder
from ctxembed._collection.lock import WriterLock
from ctxembed._collection.state import Generation, write_generation, write_setting
from ctxembed._collection.store import Store
from ctxembed._collection.verify import verify
from ctxembed._collection.view import View
from ctxembed._collection.where import parse_where
from ctxembed._core import Calibration, Matches
from ctxembed._costs import add_costs
from ctxembed._documents import CollectionStats, Document, FailedDocument, Hit, IngestReport
from ctxembed._errors import CollectionError
from ctxembed._jobs.control import JobControl, handled_signals
from ctxembed._jobs.ingest import IngestOptions, Ingestion
from ctxembed._jobs.run import check_client, run, run_async
from ctxembed._models import DEFAULT_MODEL, Model, as_int, check_dimensions, get_model
from ctxembed._results import Embeddings, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from os import PathLike
    from types import TracebackType

    from numpy.typing import ArrayLike, NDArray

    from ctxembed._collection.folder import Folder
    from ctxembed._jobs.progress import IngestProgress
    from ctxembed._models import EncodingFormat

__all__ = ["Collection"]

_TYPES: dict[object, str] = {int: "int", float: "float", str: "str", bool: "bool"}


class Collection:
    """Documents, their metadata and their vectors in one folder, searched as one index.

    Made by :meth:`create` or :meth:`open`.

    Notes
    -----
    Documents and metadata are in an SQLite database, vectors in index files that are mapped, not read. A document is
    stored whole in one transaction, on disk before anything else happens, or not at all: whatever ends the process, the
    next :meth:`open` finds every committed document and nothing else. ``docs/collection-format.md`` describes the files.

    One process writes; any number of processes and threads read, also while it writes. A reader sees the state at its
    opening, until :meth:`refresh`. A writer sees what it has written.

    Examples
    --------
    >>> with Collection.create("birds.ctx") as col, Client() as client:
    ...     report = col.ingest([("heron", ["The heron stood.", "It caught a fish."])], client)
    ...     hits = col.search("which bird catches fish?", 1, client=client)
    >>> hits[0].document, hits[0].text
    ('heron', 'It caught a fish.')
    """

    _folder: Folder

    def __init__(self) -> None:
        raise TypeError("use Collection.create(path, model=...) or Collection.open(path)")

    @classmethod
    def _make(cls, folder: Folder, lock: WriterLock | None, store: Store | None, *, immutable: bool = False) -> Self:
        self = cls.__new__(cls)
        self._folder = folder
        self._writer = lock
        self._store = store
        self._immutable = immutable
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._view: View | None = None
        self._seen_commits = -1
        self._ingesting = threading.Lock()
        self._closed = False
        return self

    @classmethod
    def create(
        cls,
        path: str | PathLike[str],
        *,
        model: str | Model = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        store_text: bool = True,
        fields: Mapping[str, type] | None = None,
    ) -> Self:
        """Create a collection, and open it for writing.

        Parameters
        ----------
        path : str or os.PathLike
            A folder that does not exist, or is empty. By convention its name ends in ``.ctx``.
        model : str or Model
            The contextualized model that embeds the documents.
        dimensions : int, optional
            Of the vectors. Default: the model's.
        encoding_format : {"base64_int8", "base64_binary"}
            int8 vectors, or one bit a dimension.
        store_text : bool
            Whether the text of the chunks is kept. Without it hits have no text.
        fields : mapping of str to {int, float, str, bool}, optional
            Metadata fields that get an index now, and have to be of that type. Others get one when ``where`` first names
            them.

        Returns
        -------
        Collection

        Raises
        ------
        FileExistsError
            The folder is a collection, or holds other files. Nothing was written.
        FileNotFoundError
            The folder above does not exist.
        CollectionError
            The folder is on a network file system.
        TypeError, ValueError
            An argument is not what it should be.
        """
        known = get_model(model.name if isinstance(model, Model) else model, contextualized=True)
        width = check_dimensions(known, dimensions, encoding_format)
        if not isinstance(store_text, bool):
            raise TypeError(f"store_text must be a bool, got {store_text!r}")
        declared = _declared_fields(fields)
        folder = folder_of(path)
        check_file_system(folder.path.parent)
        with contextlib.suppress(FileExistsError):
            folder.path.mkdir()
            sync_folder(folder.path.parent)
        if not folder.path.is_dir():
            raise NotADirectoryError(20, "not a folder", str(folder.path))
        check_file_system(folder.path)
        if not folder.is_unused():
            what = "is a collection already: open it" if folder.exists() else "is not empty, and no collection"
            raise FileExistsError(17, what, str(folder.path))
        lock = WriterLock(folder.lock)
        try:
            if not folder.is_unused():  # another process was faster
                raise FileExistsError(17, "is a collection already: open it", str(folder.path))
            folder.segments.mkdir(exist_ok=True)
            connection = create_catalogue(folder.catalogue)
            try:
                generation = Generation(1, known.name, width, encoding_format, None, 1, None)
                write_generation(connection, generation)
                write_setting(connection, "store_text", int(store_text))
                write_setting(connection, "created", datetime.now(UTC).isoformat(timespec="seconds"))
                write_setting(connection, "created_by", f"ctxembed {_core.__version__}")
                connection.executemany("INSERT INTO fields (name, declared) VALUES (?, ?)", list(declared.items()))
                add_columns(connection, list(declared))
                connection.execute("COMMIT")
            finally:
                connection.close()
            sync_folder(folder.path)
            return cls._make(folder, lock, Store(folder))
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: str | PathLike[str], read_only: bool = False) -> Self:
        """Open a collection.

        Parameters
        ----------
        path : str or os.PathLike
            Its folder.
        read_only : bool
            Whether nothing will be written. Readers never wait, and never keep a writer out. A collection on a read-only
            medium is always opened so.

        Returns
        -------
        Collection
            Also a context manager.

        Raises
        ------
        FileNotFoundError
            There is no such folder.
        CollectionError
            It is not a collection, is damaged, was written by a newer version, or is on a network file system.
        CollectionLockedError
            Another process writes to it. The error names it.
        """
        if not isinstance(read_only, bool):
            raise TypeError(f"read_only must be a bool, got {read_only!r}")
        folder = folder_of(path)
        if not folder.path.exists():
            raise FileNotFoundError(2, "there is no such collection", str(folder.path))
        if not folder.path.is_dir() or not folder.exists():
            raise CollectionError(f"{folder.path} is not a collection{_old_output(folder)}")
        check_file_system(folder.path)
        if not read_only:
            try:
                lock = WriterLock(folder.lock)
            except OSError as error:
                if error.errno != 30:  # EROFS
                    raise
            else:
                try:
                    return cls._make(folder, lock, Store(folder))
                except BaseException:
                    lock.release()
                    raise
        self = cls._make(folder, None, None, immutable=_is_immutable(folder))
        self._current()  # everything is checked now
        return self

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
            if self._view is None:
                commits = 0 if self._store is None else self._store.commits
                self._view = View(self._folder, immutable=self._immutable)
                self._seen_commits = commits
            elif self._store is not None and self._store.commits != self._seen_commits:
                self.refresh()
            return self._view

    def refresh(self) -> None:
        """Move on to the last committed state."""
        with self._lock:
            self._check_open()
            commits = 0 if self._store is None else self._store.commits
            if self._view is None:
                self._view = View(self._folder, immutable=self._immutable)
            else:
                self._view.refresh()
            self._seen_commits = commits

    def _writing(self) -> Store:
        self._check_open()
        if self._store is None:
            raise CollectionError(f"{self.path} is open for reading only")
        return self._store

    # --- writing ---

    def ingest(
        self,
        documents: Iterable[Any],
        client: Any,
        *,
        prune: bool = False,
        max_cost_usd: Any = None,
        max_errors: int | None = None,
        retry_failed: bool = False,
        split_long: bool = False,
        max_wait: float = 0.0,
        progress: Callable[[IngestProgress], object] | None = None,
    ) -> IngestReport:
        """Embed the documents that are new or changed, and store them as responses arrive.

        Parameters
        ----------
        documents : iterable of Document, dict or (id, chunks)
            Of any length; it is read once. A dict has the fields of :class:`Document`.
        client : Client or object
            A :class:`Client`, or whatever has ``embed(documents, *, model, dimensions, encoding_format, on_error)``;
            its ``stream`` is used where it has one.
        prune : bool
            Whether documents that the input no longer has are deleted. Never where the input was empty, raised, or was
            not read to its end. Documents that failed count as present.
        max_cost_usd : Decimal, float or int, optional
            No request starts once the cost so far and the expected cost of the requests in flight reach it.
        max_errors : int, optional
            Failed documents, more than which stop the ingestion. Default: any number.
        retry_failed : bool
            Whether documents that failed before are sent again, though their chunks are the same.
        split_long : bool
            Whether documents that are too long for the API are embedded in windows (:func:`split_long`), and stored
            as one.
        max_wait : float
            Seconds for which an API that is down is waited for, beyond the client's own retries.
        progress : callable, optional
            Called in this thread with an object that has ``documents_read``, ``documents_done``, ``added``,
            ``updated``, ``unchanged``, ``failed``, ``chunks``, ``usage``, ``cost_usd``, ``in_flight``, ``retries`` and
            ``seconds``.

        Returns
        -------
        IngestReport
            Its ``stopped`` says whether, and why, it ended early.

        Raises
        ------
        CollectionError
            The collection is read-only, closed, or being written by another thread.
        APIError
            Every request failed: a wrong key, no connection. What was embedded before is stored, and the same call goes
            on from there.
        SpaceError
            The vectors are of another space than those that are stored.
        TypeError, ValueError
            An argument is not what it should be, or two documents have one id.
        OSError
            The disk is full or fails. What was committed is whole.

        Notes
        -----
        Documents are compared by :func:`document_key`: what is stored is never sent again, and equal content under two
        ids is paid for once. Each response is stored in one transaction before the next is handled.

        In the main thread, Ctrl-C ends the ingestion gently: what is in flight is stored, for eight seconds at most, and
        the report says ``stopped="interrupted"``. A second Ctrl-C cancels what is in flight.
        """
        check_client(client, is_async=False)
        options = _options(prune, max_cost_usd, max_errors, retry_failed, split_long, max_wait)
        control = JobControl()
        signals = (signal.SIGINT,) if signal.getsignal(signal.SIGINT) is signal.default_int_handler else ()
        with handled_signals(control, signals):
            return self._ingest(documents, client, options, control, progress)

    def _ingest(
        self,
        documents: Iterable[Any],
        client: Any,
        options: IngestOptions,
        control: JobControl,
        progress: Callable[[IngestProgress], object] | None = None,
        on_failure: Callable[[str | None, str | None, str], object] | None = None,
    ) -> IngestReport:
        with self._one_ingestion() as store:
            return run(Ingestion(store, options, control, progress, on_failure), client, documents)

    async def aingest(
        self,
        documents: Any,
        client: Any,
        *,
        prune: bool = False,
        max_cost_usd: Any = None,
        max_errors: int | None = None,
        retry_failed: bool = False,
        split_long: bool = False,
        max_wait: float = 0.0,
        progress: Callable[[IngestProgress], object] | None = None,
    ) -> IngestReport:
        """Embed the documents that are new or changed, and store them as responses arrive.

        Parameters
        ----------
        documents : iterable or async iterable of Document, dict or (id, chunks)
            Of any length; it is read once.
        client : AsyncClient or object
            An :class:`AsyncClient`, or whatever has ``embed``, plain or async.
        prune, max_cost_usd, max_errors, retry_failed, split_long, max_wait, progress
            As in :meth:`ingest`.

        Returns
        -------
        IngestReport
            As :meth:`ingest` returns.

        Raises
        ------
        CollectionError, APIError, SpaceError, TypeError, ValueError, OSError
            As :meth:`ingest` raises.

        Notes
        -----
        Responses are stored in a worker thread, so the event loop goes on. Cancelling the task cancels the requests in
        flight; a commit that has begun ends.
        """
        check_client(client, is_async=True)
        options = _options(prune, max_cost_usd, max_errors, retry_failed, split_long, max_wait)
        with self._one_ingestion() as store:
            return await run_async(Ingestion(store, options, JobControl(), progress), client, documents)

    @contextlib.contextmanager
    def _one_ingestion(self) -> Iterator[Store]:
        store = self._writing()
        if not self._ingesting.acquire(blocking=False):
            raise CollectionError(f"{self.path}: another thread ingests into this collection")
        try:
            yield store
        finally:
            self._ingesting.release()

    def delete(self, ids: str | Iterable[str]) -> int:
        """Delete documents, and what is known of their failures.

        Parameters
        ----------
        ids : iterable of str
            Their ids. Unknown ones are ignored.

        Returns
        -------
        int
            How many documents there were.

        Notes
        -----
        The rows are only marked; :meth:`compact` removes them from the disk.
        """
        if isinstance(ids, str):
            raise TypeError(f"ids must be an iterable of str, got one str: pass [{ids!r:.100}]")
        names = list(ids)
        for name in names:
            _check_id(name)
        with self._one_ingestion() as store:
            return store.delete(names)

    def compact(self) -> int:
        """Rewrite the collection without the rows of deleted and replaced documents.

        Returns
        -------
        int
            The rows that were removed.

        Notes
        -----
        Needs as much free space as the collection has. Row numbers change. A process that is killed meanwhile leaves the
        collection as it was. Readers keep the state that they have.
        """
        with self._one_ingestion() as store, self._lock:
            return store.compact(self._current())

    def calibrate(self, queries: Any, k: int, recall: float = 0.99) -> Calibration:
        """Find the smallest oversample at which a two-stage search reaches a recall, and keep it.

        Parameters
        ----------
        queries, k, recall
            As in :meth:`Index.calibrate`.

        Returns
        -------
        Calibration
            ``search(stage="two-stage")`` uses its oversample from now on, also after the next :meth:`open`.
        """
        store = self._writing()
        view = self._current()
        if view.chunks != view.rows:
            raise CollectionError(f"{self.path} has deleted rows, which would be counted: compact() first")
        found: Calibration = view.index.calibrate(queries, k, recall)
        store.set_calibration(found.oversample, found.k, found.recall)
        return found

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
        _check_id(id)
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
            ranges = view.query("SELECT first_row, rows FROM documents ORDER BY number")
        else:
            ranges = []
            for name in ids:
                _check_id(name)
                found = view.find(name)
                if found is None:
                    raise KeyError(f"there is no document {name!r} in {self.path}")
                ranges.append((found[6], found[7]))
        return view.index.vectors(row_numbers(ranges))

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
        stage: str = "exact",
        oversample: int | None = None,
        dimensions: int | None = None,
    ) -> list[Hit]:
        """Find the chunks nearest to a query.

        Parameters
        ----------
        query : str, ndarray or Embeddings
            A text, which ``client`` embeds, or a vector of shape (dimensions,) or (1, dimensions). In a binary collection
            packed bits or an int8 vector.
        k : int
            Chunks to find, at least 1.
        client : Client or object, optional
            A :class:`Client`, or whatever has ``embed_queries(queries, *, model, dimensions, encoding_format)``. Default:
            ``Client()``, with the key of the environment.
        where : str, optional
            An SQL expression over ``id``, ``source`` and metadata by name, as ``"year >= ? AND lang = 'en'"``. Only
            chunks of documents that it selects are ranked.
        params : tuple, list or dict
            Values for the ``?`` or ``:name`` in ``where``.
        stage, oversample, dimensions
            As in :meth:`Index.search`.

        Returns
        -------
        list of Hit
            ``min(k, matching chunks)``, best first.

        Raises
        ------
        SpaceError
            The query's vector is of another space.
        CollectionError
            What would be returned is damaged.
        TypeError, ValueError
            An argument is not what it should be. An unknown name in ``where`` is an error that lists the fields.
        """
        k = _check_k(k)
        view = self._filtered(where)
        mask = view.mask(where, params)  # before the query is paid for
        vector = self._query_vector(view, query, client)
        return self._hits(view, vector, k, mask, stage, oversample, dimensions)

    async def asearch(
        self,
        query: Any,
        k: int = 10,
        *,
        client: Any = None,
        where: str | None = None,
        params: Any = (),
        stage: str = "exact",
        oversample: int | None = None,
        dimensions: int | None = None,
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
        where, params, stage, oversample, dimensions
            As in :meth:`search`.

        Returns
        -------
        list of Hit
            As :meth:`search` returns.

        Raises
        ------
        SpaceError, CollectionError, TypeError, ValueError
            As :meth:`search` raises.
        """
        import anyio.to_thread

        k = _check_k(k)
        view = await anyio.to_thread.run_sync(lambda: self._filtered(where))
        mask = await anyio.to_thread.run_sync(lambda: view.mask(where, params))
        if isinstance(query, str):
            query = await self._embedded_async(view, query, client)
        vector = self._query_vector(view, query, None)
        return await anyio.to_thread.run_sync(lambda: self._hits(view, vector, k, mask, stage, oversample, dimensions))

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
    ) -> Matches:
        """Find the chunks nearest to many vectors.

        Parameters
        ----------
        vectors : ndarray or Embeddings
            Shape (q, dimensions).
        k, where, params, stage, oversample, dimensions
            As in :meth:`search`.

        Returns
        -------
        Matches
            ``ids`` are row numbers: :meth:`rows` names their documents. They change when the collection is compacted.
            ``scores`` are those of the index: cosines, Hamming distances, or inner products with signs.
        """
        view = self._filtered(where)
        self._check_queries(view, vectors)
        return self._search(view, vectors, _check_k(k), view.mask(where, params), stage, oversample, dimensions)

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

    def _query_vector(self, view: View, query: Any, client: Any) -> Any:
        if isinstance(query, str):
            query = self._embedded(view, query, client)
        self._check_queries(view, query)
        count = len(query) if isinstance(query, Embeddings) else 1
        if isinstance(query, np.ndarray) and query.ndim == 2:
            count = len(query)
        if count != 1:
            raise ValueError(f"search() takes one query, got {count}: search_batch() takes many")
        return query

    def _embedded(self, view: View, query: str, client: Any) -> Any:
        check_client(client, is_async=False) if client is not None and not hasattr(client, "embed_queries") else None
        if client is None:
            from ctxembed._client import Client

            with Client() as own:
                return own.embed_queries([query], **_query_options(view))
        _refuse_other_kind(client, is_async=False)
        return client.embed_queries([query], **_query_options(view))

    async def _embedded_async(self, view: View, query: str, client: Any) -> Any:
        if client is None:
            from ctxembed._client import AsyncClient

            async with AsyncClient() as own:
                return await own.embed_queries([query], **_query_options(view))
        _refuse_other_kind(client, is_async=True)
        found = client.embed_queries([query], **_query_options(view))
        return await found if hasattr(found, "__await__") else found

    @staticmethod
    def _check_queries(view: View, queries: Any) -> None:
        """Refuse embeddings of another space; the index does it too, but not while it is empty."""
        own = view.generation.space
        space = getattr(queries, "space", None)
        if own is not None and space is not None and space != own:
            view.index.search(queries, 1)  # raises, with the words of the index

    def _search(
        self,
        view: View,
        queries: Any,
        k: int,
        mask: NDArray[np.bool_] | None,
        stage: str,
        oversample: int | None,
        dimensions: int | None,
    ) -> Any:
        options: dict[str, Any] = {"stage": stage, "oversample": oversample, "mask": mask, "dimensions": dimensions}
        return view.index.search(queries, k, **options)

    def _hits(
        self,
        view: View,
        query: Any,
        k: int,
        mask: NDArray[np.bool_] | None,
        stage: str,
        oversample: int | None,
        dimensions: int | None,
    ) -> list[Hit]:
        matches = self._search(view, query, k, mask, stage, oversample, dimensions)
        rows = matches.ids.reshape(-1).tolist()
        scores = _scores(view, query, matches, stage, dimensions)
        documents: dict[int, tuple[Any, ...]] = {}
        hits = []
        for row, score, (number, chunk, text, start, stop) in zip(rows, scores, view.chunks_at(rows), strict=True):
            if number not in documents:
                values = view.document_at(number)
                view.check_vectors(values)
                documents[number] = (values[1], json.loads(values[5]) if values[5] else {}, values[4])
            name, metadata, source = documents[number]
            span = None if start is None else (start, stop)
            hits.append(Hit(name, chunk, score, text, metadata, span, score, None, source))
        return hits

    # --- care ---

    def verify(self) -> list[str]:
        """Compare all checksums and references, and return a sentence for each damage; empty where there is none.

        Notes
        -----
        It reads the whole collection. Rows that were written and never committed are no damage.
        """
        return verify(self._folder, self._current())

    def stats(self) -> CollectionStats:
        """Return the size of the collection, and what it has cost."""
        view = self._current()
        generation = view.generation
        usage = Usage()
        ledger = view.query(
            "SELECT requests, unreported, prompt_tokens, total_tokens, cost_usd, discarded_requests, discarded_tokens, "
            "discarded_cost_usd FROM responses"
        )
        for requests, unreported, prompt, total, cost, *wasted in ledger:
            usage += _usage(requests, prompt, total, cost, unreported, wasted)
        size = sum(entry.stat().st_size for entry in self._folder.path.rglob("*") if entry.is_file())
        [(failed,)] = view.query("SELECT count(*) FROM failures")
        return CollectionStats(
            documents=view.documents,
            chunks=view.chunks,
            deleted_chunks=view.rows - view.chunks,
            failed=failed,
            segments=view.segment_count,
            bytes=size,
            model=generation.model,
            dimensions=generation.dimensions,
            encoding_format=generation.encoding_format,
            space=generation.space,
            usage=usage,
        )


def _declared_fields(fields: Mapping[str, type] | None) -> dict[str, str]:
    declared: dict[str, str] = {}
    for name, kind in dict(fields or {}).items():
        if not isinstance(name, str) or not name or name in ("id", "source"):
            raise ValueError(f"fields: a metadata field may not be named {name!r}")
        if kind not in _TYPES:
            raise TypeError(f"fields[{name!r}] must be int, float, str or bool, got {kind!r}")
        declared[name] = _TYPES[kind]
    return declared


def _old_output(folder: Folder) -> str:
    if (folder.path / "meta.json").is_file() and (folder.path / "vectors.npy").is_file():
        return f": an earlier ctxembed wrote it. `ctxembed import {folder.path} corpus.ctx` makes it a collection"
    return ""


def _is_immutable(folder: Folder) -> bool:
    """Return whether the medium is read-only, so that SQLite must not lock or look for a log."""
    try:
        flags = os.statvfs(folder.path).f_flag
    except (AttributeError, OSError):
        return False
    if flags & os.ST_RDONLY:
        return True
    log = folder.catalogue.with_name(folder.catalogue.name + "-wal")
    # Without permission to write, SQLite can read only beside a process that has made the shared memory.
    return not os.access(folder.path, os.W_OK) and not log.exists()


def _options(
    prune: object, max_cost_usd: Any, max_errors: object, retry_failed: object, split_long: object, max_wait: object
) -> IngestOptions:
    for name, value in (("prune", prune), ("retry_failed", retry_failed), ("split_long", split_long)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be a bool, got {value!r:.100}")
    most = None
    if max_errors is not None:
        most = as_int("max_errors", max_errors)
        if most < 0:
            raise ValueError(f"max_errors must be at least 0, got {most}")
    if isinstance(max_wait, bool) or not isinstance(max_wait, int | float):
        raise TypeError(f"max_wait must be seconds, got {max_wait!r:.100}")
    if not 0 <= max_wait < math.inf:
        raise ValueError(f"max_wait must be finite and at least 0, got {max_wait}")
    return IngestOptions(bool(prune), max_cost_usd, most, bool(retry_failed), bool(split_long), float(max_wait))


def _check_id(value: object) -> None:
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


def _check_k(k: object) -> int:
    number = as_int("k", k)
    if number < 1:
        raise ValueError(f"k must be at least 1, got {number}")
    return number


def _query_options(view: View) -> dict[str, Any]:
    # int8 queries find more among packed bits than packed queries do.
    return {
        "model": view.generation.model,
        "dimensions": view.generation.dimensions,
        "encoding_format": "base64_int8",
    }


def _refuse_other_kind(client: Any, *, is_async: bool) -> None:
    if not callable(getattr(client, "embed_queries", None)):
        raise TypeError(f"client must have embed_queries(queries, ...), got {type(client).__name__}")
    check_client(client, is_async=is_async) if hasattr(client, "_is_async") else None


def _scores(view: View, query: Any, matches: Any, stage: str, dimensions: int | None) -> list[float]:
    """Return the score of each match: a cosine, or what stands for one."""
    found = matches.scores.reshape(-1)
    dims = view.generation.dimensions if dimensions is None else int(dimensions)
    if found.dtype == np.float32:
        return [float(score) for score in found]
    values = np.asarray(query.vectors if isinstance(query, Embeddings) else query).reshape(-1)
    if not view.layout.is_binary or values.dtype == np.uint8:
        return [1.0 - int(distance) / dims for distance in found]
    norm = math.sqrt(float(np.sum(np.square(values[:dims].astype(np.int64))))) * math.sqrt(dims)
    return [int(product) / norm if norm else 0.0 for product in found]


def _usage(
    requests: int, prompt: int | None, total: int | None, cost: str | None, unreported: int, wasted: Sequence[Any]
) -> Usage:
    from decimal import Decimal

    discarded = None
    if wasted[0] or wasted[1]:
        discarded = Usage(None, wasted[1], None if wasted[2] is None else Decimal(wasted[2]), wasted[0])
    return Usage(prompt, total, None if cost is None else Decimal(cost), requests, discarded, unreported)
