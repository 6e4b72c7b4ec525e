"""The files of vectors of a collection, as its writer sees them: the tail, sealed segments, and what is retired."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, Final

from ctxembed._collection import rows as row_files
from ctxembed._collection.catalogue import checksum, connect, damaged, sqlite_errors, transaction
from ctxembed._collection.compact import new_files, renumber, write_segments
from ctxembed._collection.fields import FieldColumns
from ctxembed._collection.keys import Keys
from ctxembed._collection.rows import Segment, TailWriter, row_numbers
from ctxembed._collection.state import read_generation, read_segments, read_setting, read_tail_parts, write_setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from ctxembed._collection.folder import Folder
    from ctxembed._collection.state import Generation
    from ctxembed._collection.view import View

__all__ = ["VectorFiles"]

_OWN_FILE: Final = re.compile(r"tail-(\d{6,})\.rows|segments/(\d{6,})\.idx")


class VectorFiles:
    """The part of a writer that changes which files of vectors there are.

    Parameters
    ----------
    folder : Folder
        Of the collection, which this process has locked.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lock = threading.RLock()  # of the connection that writes
        self._connection = connect(folder.catalogue, read_only=False)
        self._keys = Keys(self._query)
        self._tail: TailWriter | None = None
        self.on_commit: Callable[[], object] = lambda: None
        """Called after each change, also after one that an exception ended: its transaction may be on disk."""
        self._is_changing = False
        self._is_current = False
        """Whether the attributes say what the catalogue says. An exception in a change leaves that open."""

    def _load(self) -> None:
        """Read what the catalogue says, cut rows that were not committed, and delete retired files."""
        folder, connection = self._folder, self._connection
        if self._tail is not None:
            # A commit whose flush failed may still be read from the log after a crash. One that succeeds replaces it.
            with transaction(connection, folder.catalogue):
                write_setting(connection, "in_flight", read_setting(connection, folder, "in_flight"))
        with sqlite_errors(folder.catalogue):
            generation = read_generation(connection, folder)
            segments = read_segments(connection, folder, generation.number)
            first = segments[-1].first_row + segments[-1].rows if segments else 0
            known = sum(rows for rows, _ in read_tail_parts(connection, folder, generation.number, first))
            self._fields = set(FieldColumns.read(connection, folder).metadata)
            retired = [name for (name,) in connection.execute("SELECT name FROM retired_files")]
        if self._tail is not None:
            self._tail.close()
        self._tail = TailWriter(folder, generation.layout, generation.tail, known)
        self._generation, self.layout, self._tail_first = generation, generation.layout, first
        self._is_current = True
        for name in retired:  # an earlier writer, or an earlier change, had no time to
            self._delete_retired(name)

    def close(self) -> None:
        """Close all files. The log is folded into the database, so that the folder can be copied or made read-only."""
        with self._lock:
            if self._tail is not None:
                self._tail.close()
            with contextlib.suppress(sqlite3.Error):  # readers that hold the log keep it, and are not waited for
                self._connection.execute("PRAGMA busy_timeout = 0")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._connection.close()

    def _query(self, statement: str, params: Any) -> list[tuple[Any, ...]]:
        with self._lock, sqlite_errors(self._folder.catalogue):
            return self._connection.execute(statement, params).fetchall()

    # --- changes ---

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Hold the lock. After a change that an exception ended, read first what the catalogue says now."""
        with self._lock:
            if self._is_changing:
                yield
                return
            if not self._is_current:
                self._load()
                self._keys.load()
            self._is_changing, self._is_current = True, False
            try:
                yield
                self._is_current = True
            finally:
                self._is_changing = False
                self.on_commit()

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._change(), transaction(self._connection, self._folder.catalogue) as connection:
            yield connection

    def _open_tail(self) -> TailWriter:
        assert self._tail is not None  # noqa: S101  # until the store is closed
        return self._tail

    def _tail_with_room(self, more: int) -> TailWriter:
        """Return the tail, or a new one if these bytes would make it too large."""
        tail = self._open_tail()
        if tail.rows and tail.size + more > row_files.TAIL_BYTES:
            self.seal()
        return self._open_tail()

    # --- segments ---

    def seal(self) -> None:
        """Write the tail as a segment and begin a new one."""
        with self._change():
            tail, generation = self._open_tail(), self._generation
            if not tail.rows:
                return
            header = tail.seal(self._folder.segment(tail.number), generation.space)
            with self._write() as connection:
                segment = Segment(self._tail_first, tail.rows, tail.number, header)
                self._insert_segment(connection, generation.number, segment)
                connection.execute("DELETE FROM tail_parts WHERE generation = ?", (generation.number,))
                self._retire(connection, tail.path.name)
                self._generation = generation.replace(connection, tail=tail.number + 1)
            self._begin_tail(self._tail_first + tail.rows)
            self._delete_retired(tail.path.name)

    def write_all_keys(self, connection: sqlite3.Connection, rows: int) -> None:
        """Write the keys of all documents anew."""
        self._keys.write_all(connection, rows)

    def _begin_tail(self, first_row: int) -> None:
        """Go on in the tail that the catalogue names, which has no rows yet."""
        if self._tail is not None:
            self._tail.close()
        self._tail = TailWriter(self._folder, self.layout, self._generation.tail, 0)
        self._tail_first = first_row

    def compact(self, view: View) -> int:
        """Rewrite the collection without removed rows, and return how many there were.

        Parameters
        ----------
        view : View
            The last committed state.
        """
        if view.chunks == view.rows:
            return 0

        def change(connection: sqlite3.Connection) -> Generation:
            renumber(connection, self._folder)
            self.write_all_keys(connection, view.chunks)
            return self._generation

        with self._change():
            self.rewrite(view, view, row_numbers(view.ranges()), change)
            with contextlib.suppress(sqlite3.Error):  # no room, or readers: the next compaction tries again
                self._connection.execute("VACUUM")
        return view.rows - view.chunks

    def rewrite(
        self,
        view: View,
        source: View,
        numbers: NDArray[np.int64],
        change: Callable[[sqlite3.Connection], Generation],
        check: Callable[[list[Segment]], object] = lambda _: None,
    ) -> None:
        """Write rows as new segments, and make them those of the collection in one transaction.

        Parameters
        ----------
        view : View
            The last committed state.
        source : View
            Has the rows.
        numbers : ndarray of int64
            The rows to take, in their order.
        change : callable
            Called in the transaction. It returns the generation of the rows.
        check : callable
            Called with the segments before.
        """
        with self._change():
            tail, before = self._open_tail(), self._generation
            files = new_files(source.layout, len(numbers), tail.number + 1)
            written = [f"{self._folder.segments.name}/{self._folder.segment(file).name}" for file, _, _ in files]
            raw = [self._folder.tail(file).name for file, _, _ in files]
            with self._write() as connection:  # deleted by the next writer, if this one is killed
                for name in (*written, *raw):
                    self._retire(connection, name)
            segments = list(write_segments(self._folder, source, files, numbers))
            check(segments)
            old = [f"{self._folder.segments.name}/{self._folder.segment(old.file).name}" for old in view.segments]
            with self._write() as connection:
                generation = change(connection)
                for table in ("segments", "tail_parts", "generations"):
                    column = "number" if table == "generations" else "generation"
                    connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (before.number,))  # noqa: S608
                for segment in segments:
                    self._insert_segment(connection, generation.number, segment)
                # What is listed besides is of changes before, which could not delete it.
                own = [(name,) for name in (*written, *raw)]
                connection.executemany("DELETE FROM retired_files WHERE name = ?", own)
                for name in (*old, tail.path.name):
                    self._retire(connection, name)
                self._generation = generation.replace(connection, tail=tail.number + 1 + len(files))
            self.layout = self._generation.layout
            self._keys.load()
            self._begin_tail(len(numbers))
            for name in (*old, tail.path.name):
                self._delete_retired(name)

    @staticmethod
    def _insert_segment(connection: sqlite3.Connection, generation: int, segment: Segment) -> None:
        values = (generation, segment.first_row, segment.rows, segment.file, segment.header)
        connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)", (*values, checksum(*values)))

    @staticmethod
    def _retire(connection: sqlite3.Connection, name: str) -> None:
        """Record that a file is to be deleted once the transaction is on disk."""
        connection.execute("INSERT OR REPLACE INTO retired_files VALUES (?)", (name,))

    def _delete_retired(self, name: str) -> None:
        """Delete a file. One that cannot be deleted now is tried again by the next writer."""
        found = _OWN_FILE.fullmatch(name)
        if found is None:
            raise damaged(self._folder.catalogue, f"{name!r} is to be deleted, and is no file of a collection")
        if not self._uses(name, int(found[1] or found[2])):
            try:
                (self._folder.path / name).unlink(missing_ok=True)
            except OSError:
                return
        with contextlib.suppress(OSError), self._write() as connection:
            connection.execute("DELETE FROM retired_files WHERE name = ?", (name,))

    def _uses(self, name: str, number: int) -> bool:
        """Return whether a file holds rows. Its name was retired if a compaction failed that would have written it."""
        if name.startswith("tail-"):
            return number == self._generation.tail
        return self._connection.execute("SELECT 1 FROM segments WHERE file = ?", (number,)).fetchone() is not None
