"""The index of words of a collection: made from the texts when a search needs it, and caught up with them.

It is a tantivy index of the rows, in the folder ``words`` of the collection. Each state of it is a folder that is never
changed: the next one has links to its files, and files of its own for further rows. So whoever reads one is not
disturbed, and a process that is killed while it builds leaves the last state whole. One process builds at a time.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from ctxembed._collection.catalogue import connect
from ctxembed._collection.state import read_generation, read_numbering, read_segments
from ctxembed._collection.word_states import State, UnusableError, extend, remove_state, remove_temporary, tantivy
from ctxembed._errors import CollectionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxembed._collection.bm25 import WordSearcher
    from ctxembed._collection.folder import Folder
    from ctxembed._collection.view import View

__all__ = ["WordIndex"]

_MARKER: Final = b"The index of words of a ctxembed collection. It is made again when it is deleted.\n"
"""Content of the lock file. A folder without it was made by somebody else, and is left alone."""

_STATE: Final = re.compile(r"(\d{6,})(\.new)?")
"""Name of the folder of a state, and of one that is being built."""

_STALL_SECONDS: Final = 10.0
"""A process that has built nothing for so long is not waited for."""

_POLL_SECONDS: Final = 0.02


class WordIndex:
    """Opens the index of words for the views of a collection, and builds what is missing.

    Parameters
    ----------
    folder : Folder
        Of the collection.

    Notes
    -----
    Where the folder ``words`` cannot be written, or belongs to somebody else, the index is built in a temporary folder,
    from what there is, and deleted with this object. Any thread may use it; one builds.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._opened: tuple[State, WordSearcher] | None = None
        self._sound: set[tuple[str, int]] = set()
        self._own: _OwnFolder | None = None

    def close(self) -> None:
        """Close the index."""
        with self._lock:
            self._opened = None
            own, self._own = self._own, None
            if own is not None:
                own.remove()

    def at(self, view: View) -> WordSearcher:
        """Return a searcher that has all rows of a view, and maybe later ones.

        Raises
        ------
        CollectionError
            The collection has no texts, a text is damaged, or there is no room for the index.
        ModuleNotFoundError
            tantivy is not installed.
        """
        if not view.store_text:
            raise CollectionError(
                f"{self._folder.path} was created with store_text=False: it has no words for hybrid=True to search"
            )
        tantivy()
        with self._lock:
            if self._opened is not None:
                state, searcher = self._opened
                if state.rows >= view.rows and state.epoch == view.numbering and state.has_rows_of(view):
                    return searcher
            self._opened = self._published(view) or self._caught_up(view) or self._built_apart(view)
            return self._opened[1]

    def _published(self, view: View) -> tuple[State, WordSearcher] | None:
        """Open the last state that was published, where it has all rows of a view."""
        while True:
            state = self._last_state(view)
            if state is None or state.rows < view.rows or not state.has_rows_of(view):
                return None
            try:
                return state, state.open(self._sound)
            except UnusableError:
                if state.path.exists():
                    return None
                # Another process has published a later one, and deleted this one.

    def _last_state(self, view: View) -> State | None:
        """Return the last state that was published, if it fits a view."""
        numbers = [number for number, is_new in self._states() if not is_new]
        state = State.read(self._place(max(numbers))) if numbers else None
        return state if state is not None and state.fits(view) else None

    def _states(self) -> list[tuple[int, bool]]:
        """Return number of each folder of a state, and whether it is being built."""
        if not _is_own(self._folder.words):
            return []
        with contextlib.suppress(OSError):
            found = [_STATE.fullmatch(entry.name) for entry in self._folder.words.iterdir()]
            return [(int(name[1]), name[2] is not None) for name in found if name is not None]
        return []

    def _place(self, number: int, suffix: str = "") -> Path:
        return self._folder.words / f"{number:06}{suffix}"

    # --- building ---

    def _caught_up(self, view: View) -> tuple[State, WordSearcher] | None:
        """Build the rows that are missing, and publish them; None where this process cannot, or should not."""
        with contextlib.suppress(OSError, UnusableError), _Builder.begin(self._folder.words) as builder:
            if builder is None or self._latest_numbering() != view.numbering:
                return None
            if (found := self._published(view)) is not None:
                return found
            state = self._last_state(view)
            if state is not None and not state.is_sound(self._sound):
                state = None
            if state is not None and not state.has_rows_of(view):  # of a later view, which others need
                return None
            while state is None or state.rows < view.rows:
                state = self._publish(state, view, builder)
            return state, state.open(self._sound)
        return None

    def _publish(self, base: State | None, view: View, builder: _Builder) -> State:
        number = max((number for number, _ in self._states()), default=0) + 1
        place = self._place(number)
        unfinished = self._place(number, ".new")
        extend(unfinished, base, view, link=os.link, on_page=builder.show_progress)
        unfinished.rename(place)
        for old, is_new in self._states():
            if is_new or old < number:  # also what a killed process left
                remove_state(self._place(old, ".new" if is_new else ""))
        state = State.read(place)
        if state is None:
            raise UnusableError(f"{place} was changed")
        return state

    def _latest_numbering(self) -> int:
        """Return the numbering of rows that the last commit has."""
        connection = connect(self._folder.catalogue, read_only=True)
        try:
            connection.execute("BEGIN")
            generation = read_generation(connection, self._folder)
            segments = read_segments(connection, self._folder, generation.number)
            return read_numbering(connection, self._folder, generation, segments)
        finally:
            connection.close()

    def _built_apart(self, view: View) -> tuple[State, WordSearcher]:
        """Build the rows that are missing in a folder of this object."""
        if self._own is None:
            self._own = _OwnFolder()
        own = self._own
        states = (own.state, self._last_state(view))
        bases = [state for state in states if state is not None and state.fits(view) and state.has_rows_of(view)]
        for base in (*sorted(bases, key=lambda state: state.rows, reverse=True), None):
            state = base
            try:
                while state is None or state.rows < view.rows:
                    state = extend(own.next(), state, view, link=os.symlink)
                    own.keep(state)
                return state, state.open(self._sound)
            except (OSError, UnusableError) as error:
                if base is None:
                    raise CollectionError(
                        f"{self._folder.path}: the index of words cannot be built in {own.path}: {error}"
                    ) from error
        raise AssertionError("unreachable")


class _OwnFolder:
    """A temporary folder for states that only this process reads."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="ctxembed-words-"))
        self.state: State | None = None
        self._number = 0
        self.remove = weakref.finalize(self, _remove_own, self.path, os.getpid())

    def next(self) -> Path:
        """Return the path of the next state."""
        self._number += 1
        return self.path / str(self._number)

    def keep(self, state: State) -> None:
        """Keep a state for the next one."""
        self.state = state


def _remove_own(path: Path, pid: int) -> None:
    if pid != os.getpid():  # a forked child has a copy of the object
        return
    remove_temporary(path)


class _Builder:
    """The lock of the process that builds. It shows that it goes on by the time of the lock file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    @contextlib.contextmanager
    def begin(cls, folder: Path) -> Iterator[Self | None]:
        """Wait for the lock; None where the folder is somebody else's, or who has the lock does not go on."""
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield None
            return
        folder.mkdir(exist_ok=True)
        lock = folder / "lock"
        if not _is_unclaimed(folder) and not _is_own(folder):  # in this order: another process may claim it now
            yield None
            return
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not _wait_for(fcntl, descriptor):
                yield None
                return
            try:
                if not os.path.samestat(os.fstat(descriptor), lock.stat()):  # the folder was deleted meanwhile
                    yield None
                    return
                if not os.fstat(descriptor).st_size:
                    os.pwrite(descriptor, _MARKER, 0)
                yield cls(descriptor)
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for a child that was forked meanwhile
        finally:
            os.close(descriptor)

    def show_progress(self) -> None:
        """Let those who wait see that this process goes on."""
        os.utime(self._descriptor)


def _wait_for(fcntl: Any, descriptor: int) -> bool:
    """Take the lock; return False where nothing was built for some time."""
    shown, since = -1, 0.0
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = os.fstat(descriptor).st_mtime_ns
            if found != shown:
                shown, since = found, time.monotonic()
            elif time.monotonic() - since > _STALL_SECONDS:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True


def _is_own(folder: Path) -> bool:
    """Return whether a folder is one of ours."""
    try:
        with (folder / "lock").open("rb") as file:
            return file.read(len(_MARKER) + 1) == _MARKER
    except OSError:
        return False


def _is_unclaimed(folder: Path) -> bool:
    """Return whether a folder is empty, or all that it has is a lock file that nobody has written."""
    names = [entry.name for entry in folder.iterdir()]
    return not names or (names == ["lock"] and (folder / "lock").stat().st_size == 0)
