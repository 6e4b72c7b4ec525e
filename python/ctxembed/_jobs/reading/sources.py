"""Finds the inputs that a job is given: files, folders, patterns and stdin."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

from ctxembed._extras import require
from ctxembed._jobs.reading.documents import Rejected
from ctxembed._jobs.reading.folder import Skipped, text_id, walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["FOLDER_SUFFIXES", "File", "Folder", "Stdin", "find_sources", "kind_of", "size_of"]

Kind = Literal["text", "markdown", "html", "json", "json-lines", "csv", "tsv", "parquet"]

_KINDS: Final[dict[str, Kind]] = {
    **dict.fromkeys((".txt", ".text", ".rst", ".log"), "text"),
    **dict.fromkeys((".md", ".markdown", ".mdx"), "markdown"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    **dict.fromkeys((".jsonl", ".ndjson"), "json-lines"),
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}

FOLDER_SUFFIXES: Final = frozenset(_KINDS) - {".json", ".log"}
"""Suffixes of the files that are read of a folder. Files of JSON and logs are rarely documents, so they are named."""

_SPLITTER: Final = ("semantic_text_splitter", "chunk", "cutting texts")
_MODULES: Final[dict[str, tuple[tuple[str, str, str], ...]]] = {
    "text": (_SPLITTER,),
    "markdown": (_SPLITTER,),
    "html": (("selectolax.lexbor", "html", "reading HTML"), _SPLITTER),
    "parquet": (("pyarrow.parquet", "arrow", "reading Parquet"),),
}
_WILDCARD: Final = re.compile(r"[*?\[]")


def kind_of(path: Path) -> Kind:
    """Return the kind of a file by its suffix; a file of another suffix is text."""
    return _KINDS.get(path.suffix.lower(), "text")


@dataclass(frozen=True, slots=True)
class File:
    """A file to read."""

    path: Path
    id: str
    kind: Kind
    pipe: bool = False


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder to read."""

    path: Path

    def files(self, skipped: Skipped, *, follow_links: bool) -> Iterator[File | Rejected]:
        """Yield its files, sorted by path."""
        for found in walk(self.path, skipped, FOLDER_SUFFIXES, follow_links=follow_links):
            yield found if isinstance(found, Rejected) else File(found[1], found[0], kind_of(found[1]))


@dataclass(frozen=True, slots=True)
class Stdin:
    """JSON Lines on stdin."""

    stream: BinaryIO


def find_sources(names: Sequence[str], stdin: BinaryIO | None, skipped: Skipped) -> list[File | Folder | Stdin]:
    """Check the inputs of a job and return them.

    Parameters
    ----------
    names : sequence of str
        Paths of files and folders, patterns where there is no such file, and ``-``.
    stdin : binary file, optional
        What ``-`` reads.
    skipped : Skipped
        Counts matches of patterns that are left out.

    Raises
    ------
    OSError
        A path is not there, or cannot be read.
    ValueError
        There are no inputs, one is neither a file, a folder nor a pipe, a pattern matches no file, or stdin is named
        twice or closed.
    """
    if isinstance(names, str):
        raise TypeError(f"sources must be a sequence of str, got {names!r}")
    if not names:
        raise ValueError("there is no input: expected files, folders, patterns or -")
    found: list[File | Folder | Stdin] = []
    for name in names:
        if not name:
            raise ValueError("an input is empty: expected a file, a folder, a pattern or -")
        if name == "-":
            if any(isinstance(source, Stdin) for source in found):
                raise ValueError("stdin (-) is named twice: it can be read once")
            if stdin is None or stdin.closed:
                raise ValueError("stdin is closed: nothing to read")
            found.append(Stdin(stdin))
        elif _WILDCARD.search(name) and not os.path.lexists(name):
            found += _matches(name, skipped)
        else:
            found.append(_named(Path(name)))
    return found


def _named(path: Path) -> File | Folder:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        os.listdir(path)  # noqa: PTH208  # an error that names it
        return Folder(path)
    pipe = stat.S_ISFIFO(mode)
    if not pipe and not stat.S_ISREG(mode):
        raise ValueError(f"{path}: not a file, a folder or a pipe")
    if not os.access(path, os.R_OK):
        raise PermissionError(13, "Permission denied", str(path))
    kind = kind_of(path)
    if pipe and kind == "parquet":
        raise ValueError(f"{path}: a Parquet file cannot be read from a pipe")
    return File(path, text_id(path), kind, pipe)


def _matches(pattern: str, skipped: Skipped) -> list[File]:
    """Return the files that match a pattern, sorted by path.

    A file of a kind that is unknown is text where the pattern ends with its suffix, and is left out otherwise.
    """
    files = []
    for path in sorted(_expand(Path(pattern)), key=lambda path: os.fsencode(path.as_posix())):
        if not path.is_file():
            continue
        suffix = path.suffix
        if suffix.lower() in _KINDS or (suffix and pattern.endswith(suffix)):
            files.append(_named(path))
        else:
            skipped.suffixes[suffix.lower()] += 1
    if not files:
        note = f"; {skipped}" if skipped else ""
        raise ValueError(f"{pattern}: no such file, and as a pattern it matches none{note}")
    return [file for file in files if isinstance(file, File)]


def _expand(pattern: Path) -> set[Path]:
    """Return the paths that match a pattern.

    ``*``, ``?`` and ``[...]`` stand for parts of a name, ``**`` for any number of folders. Names that begin with a dot
    match where the pattern has the dot, ``**`` follows no links and does not enter ``node_modules``.
    """
    found = {Path(pattern.anchor)}
    for part in pattern.relative_to(pattern.anchor).parts:
        if part == "**":
            found = {below for path in found for below in _folders_below(path)}
        elif _WILDCARD.search(part):
            matches = re.compile(translate(part)).match
            found = {
                path / name
                for path in found
                for name in _names(path)
                if matches(name) and (not name.startswith(".") or part.startswith("."))
            }
        else:
            found = {path / part for path in found if os.path.lexists(path / part)}
    return found


def _folders_below(path: Path) -> Iterator[Path]:
    pending = [path]
    while pending:
        folder = pending.pop()
        yield folder
        for name in _names(folder):
            below = folder / name
            if not name.startswith(".") and name != "node_modules" and below.is_dir() and not below.is_symlink():
                pending.append(below)


def _names(path: Path) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208  # names, not paths
    except (FileNotFoundError, NotADirectoryError):
        return []


def size_of(sources: Sequence[File | Folder | Stdin], *, follow_links: bool) -> int | None:
    """Return the bytes of all files, or None where a pipe or stdin is among them. Check that their extras are there.

    Raises
    ------
    ImportError
        A package that a kind of file needs is not installed.
    """
    total: int | None = 0
    for source in sources:
        files: Iterator[File | Rejected] | tuple[File, ...] = ()
        if isinstance(source, Folder):
            files = source.files(Skipped(), follow_links=follow_links)
        elif isinstance(source, File):
            files = (source,)
        if isinstance(source, Stdin) or (isinstance(source, File) and source.pipe):
            total = None
        for file in files:
            if isinstance(file, Rejected):
                continue
            for module in _MODULES.get(file.kind, ()):
                require(*module)
            if total is not None:
                try:
                    total += file.path.stat().st_size
                except OSError:
                    continue  # it is rejected when it is read
    return total
