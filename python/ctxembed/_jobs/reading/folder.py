"""Finds the files of a folder, and counts what it leaves out."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ctxembed._jobs.reading.documents import Rejected
from ctxembed._planning.plan import plural

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["SUFFIXES", "Skipped", "reason_of", "text_id", "walk"]

SUFFIXES: Final = frozenset({".txt", ".text", ".md", ".markdown", ".mdx", ".rst"})
"""Text files that are documents by themselves."""

_SHOWN: Final = 12  # suffixes in a message


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


def walk(
    root: Path, skipped: Skipped, suffixes: Collection[str], *, follow_links: bool
) -> Iterator[tuple[str, Path] | Rejected]:
    """Yield the id and the path of each file below a folder, sorted by path, or why an entry cannot be read.

    The id is the path below ``root``; bytes that are not UTF-8 are escaped in it.

    Parameters
    ----------
    root : Path
        The folder. Its own name may begin with a dot.
    skipped : Skipped
        Counts what is left out.
    suffixes : collection of str
        The suffixes of files to read, in lower case.
    follow_links : bool
        Whether symbolic links that lead out of the folder are followed.

    Raises
    ------
    OSError
        The folder itself cannot be read.
    """
    os.listdir(root)  # noqa: PTH208  # an error of the folder itself is raised
    yield from _Walk(root, skipped, suffixes, follow_links=follow_links).files()


class _Walk:
    def __init__(self, root: Path, skipped: Skipped, suffixes: Collection[str], *, follow_links: bool) -> None:
        self._root = root
        self._real_root = Path(os.path.realpath(root))
        self._skipped = skipped
        self._suffixes = suffixes
        self._failed: list[Rejected] = []
        self._follow_links = follow_links
        self._read = {self._real_root}  # each folder is read once, so that loops end

    def files(self) -> Iterator[tuple[str, Path] | Rejected]:
        # A stack in place of recursion: folders can be nested deeper than Python's limit.
        stack = [iter(self._entries(self._root))]
        while stack:
            path = next(stack[-1], None)
            yield from self._failed
            self._failed.clear()
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
                    yield Rejected(str(path), reason_of(error, path))
                    continue
                if target is not None and not self._follow_links and not target.is_relative_to(self._real_root):
                    self._skipped.links += 1
                elif stat.S_ISDIR(mode):
                    if self._is_new(path, target):
                        stack.append(iter(self._entries(path)))
                elif not stat.S_ISREG(mode):
                    yield Rejected(str(path), "not a regular file")
                elif path.suffix.lower() in self._suffixes:
                    yield text_id(path.relative_to(self._root)), path
                else:
                    self._skipped.suffixes[path.suffix.lower()] += 1

    def _entries(self, folder: Path) -> list[Path]:
        try:
            names = sorted(os.listdir(folder), key=os.fsencode)  # noqa: PTH208  # names, not paths
        except OSError as error:
            self._failed.append(Rejected(str(folder), reason_of(error, folder)))
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


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name == "node_modules"


def reason_of(error: OSError, path: Path) -> str:
    """Return why a path cannot be read."""
    if error.errno == errno.ENOENT and path.is_symlink():
        return f"a link to {os.readlink(path)}, which is not there"  # noqa: PTH115
    return error.strerror or str(error)


def text_id(path: Path) -> str:
    """Return a path as an id: with forward slashes, and with bytes that are not UTF-8 escaped."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
