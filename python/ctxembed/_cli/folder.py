"""Finds the text files of a folder, and counts what it leaves out."""

from __future__ import annotations

import codecs
import errno
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ctxembed._planning.plan import plural

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SUFFIXES", "Skipped", "files", "text_of"]

SUFFIXES: Final = frozenset({".txt", ".text", ".md", ".markdown", ".mdx", ".rst"})
_SHOWN: Final = 12  # suffixes in a message
_PARAGRAPHS: Final = re.compile(r"\n[ \t]*\n\s*")
_EDGES: Final = re.compile(r"\A[\s\ufeff]+|[\s\ufeff]+\Z")
_UTF16_AND_32: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # UTF-32-LE begins as UTF-16-LE


@dataclass(slots=True)
class Skipped:
    """What was left out of a folder.

    Parameters
    ----------
    hidden : int
        Files and folders whose name begins with a dot.
    node_modules : int
        Folders of that name.
    suffixes : Counter of str
        Files of other kinds, by suffix in lower case.
    links : int
        Symbolic links that lead out of the folder.
    repeated : int
        Symbolic links to folders that are read elsewhere, or that hold this one.
    empty : int
        Text files without text.
    """

    hidden: int = 0
    node_modules: int = 0
    suffixes: Counter[str] = field(default_factory=Counter)
    links: int = 0
    repeated: int = 0
    empty: int = 0

    def __bool__(self) -> bool:
        return any(self.to_dict().values())

    def __str__(self) -> str:
        parts = []
        if self.hidden:
            parts.append(f"{self.hidden:,} hidden")
        if self.node_modules:
            parts.append(f"{self.node_modules:,} node_modules")
        if self.suffixes:
            kinds = sorted(self.suffixes.items(), key=lambda item: (-item[1], item[0]))
            named = ", ".join(f"{count:,} {suffix or 'without suffix'}" for suffix, count in kinds[:_SHOWN])
            more = f", and {len(kinds) - _SHOWN:,} more kinds" if len(kinds) > _SHOWN else ""
            parts.append(f"{plural(self.suffixes.total(), 'file')} of other kinds ({named}{more})")
        if self.links:
            parts.append(f"{plural(self.links, 'symlink')} out of the folder (--follow-links reads them)")
        if self.repeated:
            parts.append(f"{plural(self.repeated, 'symlink')} into folders that are read elsewhere")
        if self.empty:
            parts.append(plural(self.empty, "empty file"))
        return f"skipped: {', '.join(parts)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON types."""
        return {
            "hidden": self.hidden,
            "node_modules": self.node_modules,
            "suffixes": dict(sorted(self.suffixes.items())),
            "links": self.links,
            "repeated": self.repeated,
            "empty": self.empty,
        }


def files(root: Path, skipped: Skipped, unreadable: list[str], *, follow_links: bool) -> Iterator[tuple[str, Path]]:
    """Yield the id and the path of each text file below a folder, sorted by path.

    The id is the path below ``root``; bytes that are not UTF-8 are escaped in it.

    Parameters
    ----------
    root : Path
        The folder. Its own name may begin with a dot.
    skipped : Skipped
        Counts what is left out.
    unreadable : list of str
        Receives a message for each entry that cannot be read.
    follow_links : bool
        Whether symbolic links that lead out of the folder are followed.

    Raises
    ------
    OSError
        The folder itself cannot be read.
    """
    os.listdir(root)  # noqa: PTH208  # an error of the folder itself is raised
    yield from _Walk(root, skipped, unreadable, follow_links=follow_links).files()


class _Walk:
    def __init__(self, root: Path, skipped: Skipped, unreadable: list[str], *, follow_links: bool) -> None:
        self._root = root
        self._real_root = Path(os.path.realpath(root))
        self._skipped = skipped
        self._unreadable = unreadable
        self._follow_links = follow_links
        self._read = {self._real_root}  # each folder is read once, so that loops end

    def files(self) -> Iterator[tuple[str, Path]]:
        # A stack in place of recursion: folders can be nested deeper than Python's limit.
        stack = [iter(self._entries(self._root))]
        while stack:
            path = next(stack[-1], None)
            if path is None:
                stack.pop()
            elif _is_left_out(path.name):
                self._skipped.node_modules += path.name == "node_modules"
                self._skipped.hidden += path.name != "node_modules"
            else:
                try:
                    mode = path.stat().st_mode
                    target = Path(os.path.realpath(path)) if path.is_symlink() else None
                except OSError as error:
                    self._fail(path, _reason(error, path))
                    continue
                if target is not None and not self._follow_links and not target.is_relative_to(self._real_root):
                    self._skipped.links += 1
                elif stat.S_ISDIR(mode):
                    if self._is_new(path, target):
                        stack.append(iter(self._entries(path)))
                elif not stat.S_ISREG(mode):
                    self._fail(path, "not a regular file")
                elif path.suffix.lower() in SUFFIXES:
                    yield _id(path.relative_to(self._root)), path
                else:
                    self._skipped.suffixes[path.suffix.lower()] += 1

    def _entries(self, folder: Path) -> list[Path]:
        try:
            names = sorted(os.listdir(folder), key=os.fsencode)  # noqa: PTH208  # names, not paths
        except OSError as error:
            self._fail(folder, _reason(error, folder))
            return []
        return [folder / name for name in names]

    def _is_new(self, path: Path, target: Path | None) -> bool:
        """Return whether a folder is read here; count it if it is read elsewhere.

        A link to a folder below the root is not followed, unless that folder is left out in its own place.
        """
        if target is None:
            real, repeats = Path(os.path.realpath(path)), False
        else:
            inside = target.is_relative_to(self._real_root)
            below = target.relative_to(self._real_root).parts if inside else ()
            real, repeats = target, inside and not any(map(_is_left_out, below))
            repeats = repeats or self._real_root.is_relative_to(target)
        if repeats or real in self._read:
            self._skipped.repeated += 1
            return False
        self._read.add(real)
        return True

    def _fail(self, path: Path, reason: str) -> None:
        self._unreadable.append(f"{path}: {reason}")


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name == "node_modules"


def _reason(error: OSError, path: Path) -> str:
    if error.errno == errno.ENOENT and path.is_symlink():
        return f"a link to {os.readlink(path)}, which is not there"  # noqa: PTH115
    return error.strerror or str(error)


def _id(path: Path) -> str:
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def text_of(path: Path) -> list[str]:
    """Return the paragraphs of a text file, without byte order marks.

    Raises
    ------
    OSError
        It cannot be read, or is not a file.
    ValueError
        It is not UTF-8.
    """
    # Not blocking: a pipe may have taken the place of the file.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:  # noqa: PTH123  # of a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a file")
        content = stream.read()
    if content.startswith(_UTF16_AND_32):
        raise ValueError("UTF-16 or UTF-32 by its byte order mark, not UTF-8")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    if "\0" in text:
        raise ValueError(f"not text: a NUL at byte {content.index(0)}")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return [chunk for part in _PARAGRAPHS.split(text) if (chunk := _EDGES.sub("", part))]
