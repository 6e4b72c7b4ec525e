"""Reads documents from JSON Lines, or from a folder of text files."""

from __future__ import annotations

import io
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from ctxembed._cli.folder import SUFFIXES, Skipped, files, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Document", "InputError", "first_line", "read"]

_MAX_LINE: Final = 1 << 26
"""Bytes of a line. A document is limited to 32,000 tokens, so a longer line is not one."""

_MAX_SHOWN: Final = 10
"""Unreadable files that a message names."""


class InputError(ValueError):
    """Input that does not contain documents. The message names the file and line."""


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


def read(source: str, *, follow_links: bool = False) -> tuple[list[Document], Skipped]:
    """Read all documents of ``source``: a JSON Lines file, ``-`` for the same on stdin, or a folder of text files.

    Parameters
    ----------
    source : str
        A path, or ``-``.
    follow_links : bool
        Whether symbolic links that lead out of the folder are read.

    Returns
    -------
    documents : list of Document
        Those of a folder sorted by path.
    skipped : Skipped
        What was left out of a folder.

    Raises
    ------
    InputError
        A document is invalid, a file of a folder cannot be read, an id is repeated, or there are no documents.
    OSError
        The file or the folder cannot be read.
    """
    if not source:
        raise InputError("INPUT is empty: expected a file, a folder, or -")
    skipped = Skipped()
    if source != "-" and Path(source).is_dir():
        documents = _folder(Path(source), skipped, follow_links=follow_links)
    else:
        documents = list(_lines(source))
    if not documents:
        wanted = ", ".join(sorted(SUFFIXES))
        note = f"; {skipped}" if skipped else ""
        raise InputError(f"{source}: no documents (expected JSON Lines, or a folder with {wanted} files){note}")
    sources: dict[str, str] = {}
    for document in documents:
        first = sources.setdefault(document.id, document.source)
        if first is not document.source:
            raise InputError(f"{document.source}: id {document.id!r} was used before, at {first}")
    return documents, skipped


def _folder(root: Path, skipped: Skipped, *, follow_links: bool) -> list[Document]:
    """Return a document for each text file below ``root``, with a chunk for each paragraph."""
    unreadable: list[str] = []
    documents: list[Document] = []
    for name, path in files(root, skipped, unreadable, follow_links=follow_links):
        try:
            chunks = text_of(path)
        except (OSError, ValueError) as error:
            unreadable.append(f"{path}: {getattr(error, 'strerror', None) or error}")
            continue
        if chunks:
            documents.append(Document(name, chunks, str(path)))
        else:
            skipped.empty += 1
    if unreadable:
        more = f"; and {len(unreadable) - _MAX_SHOWN:,} more" if len(unreadable) > _MAX_SHOWN else ""
        raise InputError(f"cannot be read: {'; '.join(unreadable[:_MAX_SHOWN])}{more}")
    return documents


def _lines(source: str) -> Iterator[Document]:
    name = "stdin" if source == "-" else source
    with ExitStack() as stack:
        stream = _stdin() if source == "-" else stack.enter_context(Path(source).open("rb"))
        number = documents = 0
        while line := _line(stream, name):
            number += 1
            where = f"{name}, line {number}"
            if len(line) > _MAX_LINE:
                raise InputError(f"{where}: longer than {_MAX_LINE >> 20} MiB: not a document{_hint(line, documents)}")
            if line.removeprefix(_BOM).strip():
                yield _document(line, where, documents)
                documents += 1


_BOM: Final = b"\xef\xbb\xbf"


def _stdin() -> IO[bytes]:
    stream: Any = sys.stdin
    if stream is None or getattr(stream, "closed", False):
        raise InputError("stdin is closed: nothing to read")
    if hasattr(stream, "buffer"):
        buffer: IO[bytes] = stream.buffer
        return buffer
    return io.BytesIO(stream.read().encode("utf-8", "surrogatepass"))  # a stream of text alone


def _line(stream: IO[bytes], name: str) -> bytes:
    try:
        return stream.readline(_MAX_LINE + 1)
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from None


def _hint(line: bytes, documents: int) -> str:
    """Explain a line that opens an array instead of being a document."""
    if documents == 0 and line.removeprefix(_BOM).lstrip().startswith(b"["):
        return (
            ': this is one JSON array; expected JSON Lines, one {"id": ..., "chunks": [...]} per line '
            "(jq -c '.[]' converts it)"
        )
    return ""


def _document(line: bytes, source: str, documents: int) -> Document:
    hint = _hint(line, documents)
    if hint:
        raise InputError(source + hint)
    try:
        # json.loads(bytes) would also accept UTF-16 and UTF-32.
        text = line.decode("utf-8-sig")
        value: Any = json.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not UTF-8 at byte {error.start} of the line") from None
    except json.JSONDecodeError as error:
        cut = " (the line ends there: a document must be on one line)" if error.pos >= len(text.rstrip()) else ""
        raise InputError(f"{source}: not JSON: {error.msg} at column {error.colno}{cut}") from None
    except RecursionError:
        raise InputError(f"{source}: not a document: nested too deep") from None
    except ValueError:  # Python's limit on the digits of an int
        raise InputError(f"{source}: not a document: a number has too many digits") from None
    if not isinstance(value, dict) or "id" not in value or "chunks" not in value:
        raise InputError(f'{source}: expected {{"id": ..., "chunks": [...]}}')
    name, chunks = value["id"], value["chunks"]
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise InputError(f"{source}: id must be a string or an integer, got {_shown(name)}")
    if not isinstance(chunks, list):
        raise InputError(f"{source}: chunks must be a list of strings, got {_shown(chunks)}")
    for position, chunk in enumerate(chunks):
        if not isinstance(chunk, str):
            raise InputError(f"{source}: chunk {position} must be a string, got {_shown(chunk)}")
    return Document(str(name), chunks, source)


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)[:80]
    except (RecursionError, ValueError):  # nested too deep, or a number of too many digits
        return f"a {type(value).__name__}"


def first_line(text: str, width: int = 100) -> str:
    """Return the first line of ``text`` that is not blank, cut to ``width`` characters."""
    line = " ".join(next((line for line in text.splitlines() if line.strip()), "").split())
    return line if len(line) <= width else line[: width - 3] + "..."
