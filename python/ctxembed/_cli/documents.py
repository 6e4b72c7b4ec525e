"""Reads documents from JSON Lines or from a folder of text files."""

from __future__ import annotations

import json
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Document", "InputError", "first_line", "read"]

SUFFIXES: Final = frozenset({".txt", ".md", ".rst"})
_PARAGRAPHS: Final = re.compile(r"\n[ \t]*\n\s*")


class InputError(ValueError):
    """A file that does not contain documents. The message names the file and line."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document and its source.

    Parameters
    ----------
    id : str
        Unique id.
    chunks : list of str
        Texts in source order.
    source : str
        File, and line in JSON Lines, for error messages.
    """

    id: str
    chunks: list[str]
    source: str


def read(source: str) -> list[Document]:
    """Read all documents of ``source``: a JSON Lines file, ``-`` for the same on stdin, or a folder of text files.

    Raises
    ------
    InputError
        A document is invalid, an id is repeated, or there are no documents.
    OSError
        A file cannot be read.
    """
    path = Path(source)
    documents = list(_folder(path) if source != "-" and path.is_dir() else _lines(source))
    if not documents:
        wanted = ", ".join(sorted(SUFFIXES))
        raise InputError(f"{source}: no documents (expected JSON Lines, or a folder with {wanted} files)")
    sources: dict[str, str] = {}
    for document in documents:
        first = sources.setdefault(document.id, document.source)
        if first is not document.source:
            raise InputError(f"{document.source}: id {document.id!r} was used before, at {first}")
    return documents


def _folder(root: Path) -> Iterator[Document]:
    """Yield a document for each text file below ``root``, with a chunk for each paragraph."""
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 at byte {error.start}") from None
        chunks = [chunk for part in _PARAGRAPHS.split(text) if (chunk := part.strip())]
        if chunks:
            yield Document(path.relative_to(root).as_posix(), chunks, str(path))


def _lines(source: str) -> Iterator[Document]:
    name = "stdin" if source == "-" else source
    with ExitStack() as stack:
        stream = sys.stdin.buffer if source == "-" else stack.enter_context(Path(source).open("rb"))
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield _document(line, f"{name}, line {number}")


def _document(line: bytes, source: str) -> Document:
    try:
        # json.loads(bytes) would also accept UTF-16 and UTF-32.
        value: Any = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not UTF-8 at byte {error.start} of the line") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{source}: not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise InputError(f"{source}: not a document: nested too deep") from None
    if not isinstance(value, dict) or "id" not in value or "chunks" not in value:
        raise InputError(f'{source}: expected {{"id": ..., "chunks": [...]}}')
    name, chunks = value["id"], value["chunks"]
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise InputError(f"{source}: id must be a string or an integer, got {json.dumps(name)[:80]}")
    if not isinstance(chunks, list):
        raise InputError(f"{source}: chunks must be a list of strings, got {json.dumps(chunks)[:80]}")
    for position, chunk in enumerate(chunks):
        if not isinstance(chunk, str):
            raise InputError(f"{source}: chunk {position} must be a string, got {json.dumps(chunk)[:80]}")
    return Document(str(name), chunks, source)


def first_line(text: str, width: int = 100) -> str:
    """Return the first line of ``text`` that is not blank, cut to ``width`` characters."""
    line = " ".join(next((line for line in text.splitlines() if line.strip()), "").split())
    return line if len(line) <= width else line[: width - 3] + "..."
