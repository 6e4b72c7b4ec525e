"""Reads files that are one document each: text, Markdown and HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctxembed._jobs.documents import UnchangedDocument
from ctxembed._jobs.reading.documents import InputDocument, Rejected
from ctxembed._jobs.reading.files import MAX_RECORD, UTF16_AND_32, BytesRead, open_file, shown_size
from ctxembed._jobs.reading.folder import reason_of

if TYPE_CHECKING:
    from pathlib import Path

    from ctxembed._jobs.reading.documents import ReadOptions
    from ctxembed._jobs.reading.known import KnownRecords

__all__ = ["read_document", "read_text"]


def read_document(
    path: Path, name: str, kind: str, options: ReadOptions, read: BytesRead, *, known: KnownRecords, pipe: bool = False
) -> InputDocument | UnchangedDocument | Rejected | None:
    """Read a file as one document.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        The document's id.
    kind : {"text", "markdown", "html"}
        How it is read and cut.
    options : ReadOptions
        How it is cut.
    read : BytesRead
        Receives the size.
    known : KnownRecords
        Recognises a file that is unchanged.
    pipe : bool
        Whether the path is that of a pipe.

    Returns
    -------
    InputDocument, UnchangedDocument, Rejected or None
        None for a file without text.
    """
    metadata: dict[str, Any] | None = None
    try:
        content = _content(path, pipe=pipe)
        read.total += len(content)
        record, stored = known.look_up(content, kind, name, str(path))
        if stored is not None:
            return UnchangedDocument(*stored, str(path))
        if kind == "html":
            from ctxembed._jobs.reading.html import text_of_html

            title, text = text_of_html(content)
            metadata = {"title": title} if title else None
        else:
            text = _decode(content)
        if not text.replace("\ufeff", "").strip():
            return None
        chunks, spans = options.cut(text, "markdown" if kind == "markdown" else "text")
    except OSError as error:
        return Rejected(str(path), reason_of(error, path), name)
    except ValueError as error:
        return Rejected(str(path), str(error), name)
    return InputDocument(name, chunks, metadata, spans, str(path), str(path), record)


def read_text(path: Path) -> str:
    """Return the text of a file, without the byte order marks at its start.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is not a file, too long, or not UTF-8 text.
    """
    return _decode(_content(path))


def _content(path: Path, *, pipe: bool = False) -> bytes:
    with open_file(path, pipe=pipe) as stream:
        content = stream.read(MAX_RECORD + 1)
    if len(content) > MAX_RECORD:
        raise ValueError(f"longer than {shown_size(MAX_RECORD)}: not a document")
    return content


def _decode(content: bytes) -> str:
    if content.startswith(UTF16_AND_32):
        raise ValueError("UTF-16 or UTF-32 by its byte order mark, not UTF-8")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    if "\0" in text:
        raise ValueError(f"not text: a NUL at byte {content.index(0)}")
    return text.lstrip("\ufeff")
