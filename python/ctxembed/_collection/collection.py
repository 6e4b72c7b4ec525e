"""A collection: documents, their metadata and their vectors in one folder."""

from __future__ import annotations

import contextlib
import os
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from ctxembed import _core
from ctxembed._collection.catalogue import create_catalogue, sqlite_errors
from ctxembed._collection.fields import add_columns, write_fields
from ctxembed._collection.folder import check_file_system, folder_of, sync_folder
from ctxembed._collection.job_options import job_options
from ctxembed._collection.lock import WriterLock
from ctxembed._collection.migrating import Migrating
from ctxembed._collection.reader import check_id
from ctxembed._collection.snapshot import write_snapshot
from ctxembed._collection.state import Generation, write_generation, write_setting
from ctxembed._collection.store import Store
from ctxembed._errors import CollectionError
from ctxembed._models import DEFAULT_MODEL, Model, check_dimensions, get_model

# Jobs are imported when one runs: they take the client and its HTTP stack along, which a search by a vector needs not.
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from os import PathLike

    from ctxembed._collection.folder import Folder
    from ctxembed._core import Calibration
    from ctxembed._documents import IngestProgress, IngestReport
    from ctxembed._jobs.control import JobControl
    from ctxembed._jobs.ingest import IngestOptions
    from ctxembed._models import EncodingFormat

__all__ = ["Collection"]

_TYPES: dict[object, str] = {int: "int", float: "float", str: "str", bool: "bool"}


class Collection(Migrating):
    """Documents, their metadata and their vectors in one folder, searched as one index.

    Made by :meth:`create` or :meth:`open`.

    Notes
    -----
    Documents and metadata are in an SQLite database, vectors in index files that are mapped, not read. A document is
    stored whole in one transaction, on disk before anything else happens, or not at all: whatever ends the process,
    the next :meth:`open` finds every committed document and nothing else. ``docs/collection-format.md`` describes the
    files.

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
            Metadata fields that get an index now, and have to be of that type. Others get one when ``where`` first
            names them.

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
            for left in folder.path.glob(f"{folder.unfinished.name}*"):  # of a creation that ended early
                left.unlink()
            connection = create_catalogue(folder.unfinished)
            try:
                with sqlite_errors(folder.unfinished):
                    generation = Generation(1, known.name, width, encoding_format, None, 1, None)
                    write_generation(connection, generation)
                    write_setting(connection, "store_text", int(store_text))
                    write_setting(connection, "created", datetime.now(UTC).isoformat(timespec="seconds"))
                    write_setting(connection, "created_by", f"ctxembed {_core.__version__}")
                    write_fields(connection, folder, declared)
                    add_columns(connection, list(declared))
                    connection.execute("COMMIT")
                    connection.execute("PRAGMA journal_mode = WAL")
            finally:
                connection.close()
            folder.unfinished.rename(folder.catalogue)
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
            Whether nothing will be written. Readers never wait, and never keep a writer out. A collection on a
            read-only medium is always opened so.

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
            Called in this thread with an :class:`IngestProgress` after each response.

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

        In the main thread, Ctrl-C ends the ingestion gently: what is in flight is stored, for eight seconds at most,
        and the report says ``stopped="interrupted"``. A second Ctrl-C cancels what is in flight.
        """
        from ctxembed._jobs.control import JobControl, handled_signals
        from ctxembed._jobs.run import check_client

        check_client(client, is_async=False)
        options = job_options(
            max_cost_usd, max_errors, max_wait, prune=prune, retry_failed=retry_failed, split_long=split_long
        )
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
        *,
        on_failure: Callable[[str | None, str | None, str], object] | None = None,
    ) -> IngestReport:
        from ctxembed._jobs.ingest import Ingestion
        from ctxembed._jobs.run import run

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
        from ctxembed._jobs.control import JobControl
        from ctxembed._jobs.ingest import Ingestion
        from ctxembed._jobs.run import check_client, run_async

        check_client(client, is_async=True)
        options = job_options(
            max_cost_usd, max_errors, max_wait, prune=prune, retry_failed=retry_failed, split_long=split_long
        )
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

    def adopt(self, paths: Iterable[str | PathLike[str]]) -> IngestReport:
        """Take over the documents of other collections, such as those that workers wrote.

        Parameters
        ----------
        paths : iterable of str or os.PathLike
            Collections of the same model, dimensions, format and space, which no process writes to. They stay as they
            are, and can be deleted afterwards.

        Returns
        -------
        IngestReport
            Documents that were added, replaced, or there already; ``failed`` are those that no part has stored. Its
            ``usage`` is the cost that the ledgers of the parts add to this one's.

        Raises
        ------
        SpaceError
            A part holds vectors of another model or space. Nothing was taken.
        ValueError
            Two parts have different contents for one id, or a document does not fit the declared fields.
        CollectionLockedError
            Another process writes to a part.
        CollectionError
            A part is damaged, or has no text, which this collection keeps.
        FileNotFoundError
            There is no such part.
        OSError
            The disk is full or fails. What was committed is whole.

        Notes
        -----
        Vectors are copied and compared with their checksums; nothing is embedded. A document whose id is stored with
        another content is replaced.

        Everything is taken exactly once: after a crash at any point, or an exception, make the same call again. It
        passes over documents and costs that are here already, and a part that was adopted before adds only what is
        new in it.
        """
        from ctxembed._collection.adopting import adopt

        with self._one_ingestion() as store:
            return adopt(store, self, paths, type(self).open)

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
            check_id(name)
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
        Needs as much free space as the collection has. Row numbers change. A process that is killed meanwhile leaves
        the collection as it was. Readers keep the state that they have.
        """
        with self._one_ingestion() as store, self._lock:
            return store.compact(self._current())

    def snapshot(self, path: str | PathLike[str]) -> None:
        """Write a copy of the collection, which is whole, while this or another process writes to it.

        Parameters
        ----------
        path : str or os.PathLike
            A folder that does not exist. The folder above it does.

        Raises
        ------
        FileExistsError
            There is something at ``path``. Nothing was written.
        CollectionError
            The copy would be damaged, since the collection is; or ``path`` is on a network file system.
        OSError
            The disk is full or fails.
        TypeError, ValueError
            ``path`` is no path, or inside the collection.

        Notes
        -----
        The copy has the last committed state, and is a collection of its own. It appears under its name once all
        checksums were compared and all files are on the disk, or not at all; a process that is killed leaves a folder
        ``.snapshot-*.unfinished`` beside it, which can be deleted.

        Segments take no room where the file system shares their data, or on the same file system, where they are hard
        links: neither collection changes them in place. Elsewhere they are copied.
        """
        self._check_open()
        write_snapshot(self._folder, path, immutable=self._immutable)

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
        self._check_space(view, queries)
        found: Calibration = view.index.calibrate(queries, k, recall, mask=view.mask(None, ()))
        kept = view.index._calibration  # noqa: SLF001
        if kept is not None:  # packed queries of a binary collection need none, and change none
            store.set_calibration(*kept)
        return found


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
    """Return whether SQLite must not lock or look for a log: nothing can be written, and no process writes."""
    try:
        is_read_only = bool(os.statvfs(folder.path).f_flag & os.ST_RDONLY)
    except (AttributeError, OSError):
        return False
    if not is_read_only and os.access(folder.path, os.W_OK):
        return False
    log, memory = (folder.catalogue.with_name(folder.catalogue.name + suffix) for suffix in ("-wal", "-shm"))
    # What is in the log would not be seen.
    return not memory.exists() and not (log.exists() and log.stat().st_size)
