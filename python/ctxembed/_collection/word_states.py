"""States of the index of words: folders that are not changed once they are whole.

A state has a tantivy index of the rows up to some row, and ``state.json``, which says what it was built from and has
the checksums of the files. The next state links to these, and has files of its own for further rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed import _core
from ctxembed._collection.bm25 import ROW_FIELD, TEXT_FIELD, WordSearcher
from ctxembed._collection.rows import row_numbers
from ctxembed._collection.terms import TERMS_VERSION, index_terms
from ctxembed._errors import CtxembedError
from ctxembed._extras import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ctxembed._collection.view import View

__all__ = ["State", "UnusableError", "extend", "remove_state", "remove_temporary", "tantivy"]

_ATTEMPTS: Final = 10
_ATTEMPT_SECONDS: Final = 0.02
"""How often, and after what time each, a folder is removed again."""

_VERSION: Final = 1
"""Of the folder's layout and of the index's fields."""

_META: Final = "meta.json"
"""The file by which tantivy knows the others. It replaces it; it never changes the others."""

_OWN_FILE: Final = re.compile(r"[0-9a-f]{32}\.\w+|meta\.json|state\.json|\.managed\.json|\.tantivy-\w+\.lock|\.tmp\w+")

_STEP_ROWS: Final = 100_000
"""Rows that a state has more than the one before, at most."""

_PAGE_ROWS: Final = 1024
_HEAP_BYTES: Final = 64_000_000
_MARK_PAGES: Final = 8
"""Pages between two rows whose checksums a state has."""


class UnusableError(Exception):
    """An index cannot be read, or not be written where it was to be."""


@dataclass(frozen=True, eq=False)
class State:
    """The index up to some row.

    Parameters
    ----------
    path : Path
        Its folder.
    epoch : int
        The numbering of rows: number of the first file since the last compaction.
    rows : int
        Rows below this one are in it, if they had a chunk when it was built.
    gaps : list of (int, int)
        First row and number of those that had none.
    marks : list of (int, int)
        Some rows, and the checksums of their chunks.
    files : dict
        Size and CRC-32 of each file.
    """

    path: Path
    epoch: int
    rows: int
    gaps: list[tuple[int, int]]
    marks: list[tuple[int, int]]
    files: dict[str, tuple[int, int]]

    @classmethod
    def read(cls, path: Path) -> State | None:
        """Read the state of a folder; None where it has none of this version."""
        try:
            line, _, content = (path / "state.json").read_text(encoding="utf-8").partition("\n")
            if int(line, 16) != _core.row_checksum((content,)):
                return None
            values = json.loads(content)
            if values.pop("version") != _version():
                return None
            gaps, marks = ([(first, second) for first, second in values.pop(name)] for name in ("gaps", "marks"))
            return cls(path, gaps=gaps, marks=marks, **values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self) -> None:
        """Write what :meth:`read` reads."""
        values = {"version": _version(), "epoch": self.epoch, "rows": self.rows, "gaps": self.gaps, "marks": self.marks,
                  "files": self.files}  # fmt: skip
        content = json.dumps(values)
        text = f"{_core.row_checksum((content,)):08x}\n{content}"
        (self.path / "state.json").write_text(text, encoding="utf-8")

    def fits(self, view: View) -> bool:
        """Return whether it was built from the texts of a view, or of an earlier or later state of the collection."""
        if self.epoch != view.numbering:
            return False
        marks = dict(mark for mark in self.marks if mark[0] < view.rows)
        places = ", ".join("?" * len(marks))
        found = view.query(f"SELECT row, checksum FROM chunks WHERE row IN ({places})", tuple(marks))  # noqa: S608
        return all(marks[row] == checksum for row, checksum in found)

    def has_rows_of(self, view: View) -> bool:
        """Return whether none of the rows that it lacks is one of a view. It was deleted when this was built."""
        lacking = self._lacking[self._lacking < view.rows]
        if not len(lacking):
            return True
        mask = view.mask(None, ())
        return mask is not None and not mask[lacking].any()

    def is_sound(self, known: set[tuple[str, int]]) -> bool:
        """Return whether all files have their checksums.

        Parameters
        ----------
        known : set of (str, int)
            Names and checksums of the files that were compared before. They are not read again; others are added.
        """
        for name, (size, checksum) in self.files.items():
            if name == _META or (name, checksum) not in known:
                if _file_checksum(self.path / name) != (size, checksum):
                    return False
                known.add((name, checksum))
        return True

    def open(self, known: set[tuple[str, int]]) -> WordSearcher:
        """Open the index, after its files were compared with their checksums.

        Raises
        ------
        UnusableError
            A file is missing or damaged.
        """
        if not self.is_sound(known):
            raise UnusableError(f"{self.path} is damaged")
        library = tantivy()
        # tantivy writes a lock file where it opens an index, and needs the names of the files no longer then.
        links = Path(tempfile.mkdtemp(prefix="ctxembed-words-"))
        try:
            with _library_errors():
                _link_files(self, links, os.symlink)
                index = library.Index.open(str(links))
                index.config_reader("manual")
                index.reload()
                return WordSearcher(library, index, self.rows)
        finally:
            remove_temporary(links)

    @cached_property
    def _lacking(self) -> NDArray[np.int64]:
        return row_numbers(self.gaps)


def remove_temporary(path: Path) -> None:
    """Remove a folder in which threads of tantivy may still write a file."""
    for _ in range(_ATTEMPTS):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(_ATTEMPT_SECONDS)


def extend(
    path: Path,
    base: State | None,
    view: View,
    *,
    link: Callable[[Path, Path], None],
    on_page: Callable[[], None] = lambda: None,
) -> State:
    """Make a folder with the state ``base`` and some rows more, and return its state."""
    library = tantivy()
    first = 0 if base is None else base.rows
    stop = min(view.rows, first + _STEP_ROWS)
    gaps, marks = ([], []) if base is None else (list(base.gaps), list(base.marks))
    remove_state(path)
    path.mkdir()
    try:
        with _library_errors():
            if base is not None:
                _link_files(base, path, link)
            schema = library.SchemaBuilder()
            schema.add_unsigned_field(ROW_FIELD, indexed=True, fast=True)
            schema.add_text_field(TEXT_FIELD, tokenizer_name="whitespace", index_option="freq")
            index = library.Index(schema.build(), path=str(path))
            index.config_reader("manual")
            writer = index.writer(_HEAP_BYTES, 1)
            following = first
            for turn, page in enumerate(range(first, stop, _PAGE_ROWS)):
                chunks = view.texts(page, min(page + _PAGE_ROWS, stop))
                for row, text, _ in chunks:
                    if row > following:
                        gaps.append((following, row - following))
                    following = row + 1
                    document = library.Document()
                    document.add_unsigned(ROW_FIELD, row)
                    document.add_text(TEXT_FIELD, index_terms(text))
                    writer.add_document(document)
                if chunks and (turn % _MARK_PAGES == 0 or page + _PAGE_ROWS >= stop):
                    marks.append((chunks[-1][0], chunks[-1][2]))
                on_page()
            if stop > following:
                gaps.append((following, stop - following))
            writer.commit()
            writer.wait_merging_threads()
        files = _clean(path)
        known = {} if base is None else {name: found for name, found in base.files.items() if name != _META}
        checksums = {name: known.get(name) or _file_checksum(path / name) for name in files}
        state = State(path, view.numbering, stop, gaps, _thinned(marks), checksums)
        state.write()
    except BaseException:
        remove_state(path)
        raise
    return state


def _thinned(marks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return at most 256 marks, the last among them."""
    while len(marks) > 256:
        marks = marks[-1::-2][::-1]
    return marks


def _link_files(state: State, path: Path, link: Callable[[Path, Path], None]) -> None:
    """Give a folder the files of a state: links to all but the one that tantivy replaces."""
    for name in state.files:
        if name == _META:
            shutil.copyfile(state.path / name, path / name)
            continue
        try:
            link(state.path / name, path / name)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without links, or a file of another user
            shutil.copyfile(state.path / name, path / name)


def _clean(path: Path) -> list[str]:
    """Delete what tantivy has left besides the index, and return the names of the index's files."""
    meta = path / _META
    content = meta.read_bytes()
    segments = {segment["segment_id"].replace("-", "") for segment in json.loads(content)["segments"]}
    names = []
    for name in [entry.name for entry in path.iterdir()]:
        if name.partition(".")[0] in segments:
            names.append(name)
        else:
            (path / name).unlink()
    meta.write_bytes(content)  # tantivy's file can be read by this user only
    return [*sorted(names), _META]


def remove_state(path: Path) -> None:
    """Delete the folder of a state. What is not of an index stays."""
    with contextlib.suppress(OSError):
        for entry in list(path.iterdir()):
            if _OWN_FILE.fullmatch(entry.name):
                entry.unlink(missing_ok=True)
        path.rmdir()


def _file_checksum(path: Path) -> tuple[int, int]:
    """Return size and CRC-32 of a file; (-1, 0) where it cannot be read."""
    try:
        size = path.stat().st_size
        content = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    except (OSError, ValueError):
        return -1, 0
    return size, _core.rows_checksum(content.reshape(1, -1))


@contextlib.contextmanager
def _library_errors() -> Iterator[None]:
    """Turn tantivy's errors into one of ours."""
    try:
        yield
    except (CtxembedError, OSError, UnusableError):
        raise
    except (ValueError, RuntimeError) as error:
        raise UnusableError(str(error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust: its file is damaged in a way that no checksum shows
            raise
        raise UnusableError(str(error)) from error


def _version() -> list[Any]:
    """Return what an index depends on besides the texts."""
    return [_VERSION, TERMS_VERSION, tantivy().__version__]


def tantivy() -> Any:
    return require("tantivy", "hybrid", "a hybrid search")
