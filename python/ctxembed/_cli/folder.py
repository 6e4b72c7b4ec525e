"""The text files of a folder, with a chunk for each paragraph."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ctxembed._jobs.reading.documents import Rejected
from ctxembed._jobs.reading.folder import SUFFIXES, Skipped, walk
from ctxembed._jobs.reading.texts import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["SUFFIXES", "Skipped", "files", "text_of"]

_PARAGRAPHS: Final = re.compile(r"\n[ \t]*\n\s*")
_EDGES: Final = re.compile(r"\A[\s\ufeff]+|[\s\ufeff]+\Z")


def files(root: Path, skipped: Skipped, unreadable: list[str], *, follow_links: bool) -> Iterator[tuple[str, Path]]:
    """Yield the id and the path of each text file below a folder; collect a message for what cannot be read."""
    for found in walk(root, skipped, SUFFIXES, follow_links=follow_links):
        if isinstance(found, Rejected):
            unreadable.append(str(found))
        else:
            yield found


def text_of(path: Path) -> list[str]:
    """Return the paragraphs of a text file, without byte order marks."""
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    return [chunk for part in _PARAGRAPHS.split(text) if (chunk := _EDGES.sub("", part))]
