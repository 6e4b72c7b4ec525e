"""Turns records (an object of JSON Lines, a row of a table) into documents."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from ctxembed import _core
from ctxembed._jobs.reading.documents import InputDocument, Rejected

if TYPE_CHECKING:
    from ctxembed._jobs.reading.documents import ReadOptions

__all__ = ["Records"]

_are_plain: Final = frozenset({str, int, bool, type(None)}).issuperset
_STR_ONLY: Final = {str}


class Records:
    """Reads records by the fields that the options name.

    Parameters
    ----------
    options : ReadOptions
        The options.
    """

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._id, self._chunks, self._text = options.id_field, options.chunks_field, options.text_field
        self._fields = options.metadata_fields
        self._plain = _core.RecordReader(self._id, self._chunks, self._text)
        self._expected = (
            f'expected {{"{self._id}": ..., "{self._chunks}": [...]}}, or "{self._text}" in place of chunks'
        )

    def read_plain(self, line: bytes, place: str, digest: bytes | None) -> InputDocument | None:
        """Return the document of a line of JSON Lines; None where :meth:`read` is needed, or says what is wrong.

        Parameters
        ----------
        line : bytes
            The line.
        place, digest
            As in :meth:`read`.
        """
        found = self._plain.read(line)
        if found is None:
            return None
        name, chunks, metadata, source = found
        if metadata is not None and self._fields is not None:
            metadata = {field: metadata[field] for field in self._fields if field in metadata} or None
        return InputDocument(name, chunks, metadata, None, source, place, digest, True)

    def read(
        self, record: Any, place: str, *, surrogates: bool, digest: bytes | None = None
    ) -> InputDocument | Rejected:
        """Return the document of a record, which is changed.

        Parameters
        ----------
        record : dict
            The record. Fields that are None count as absent.
        place : str
            Where it stands.
        surrogates : bool
            Whether its texts may hold lone surrogates.
        digest : bytes, optional
            The ``record`` of the document.
        """
        if type(record) is not dict:
            return Rejected(place, f"{self._expected}; got {_shown(record)}")
        pop = record.pop
        name, chunks, text, source = (
            pop(self._id, None),
            pop(self._chunks, None),
            pop(self._text, None),
            pop("source", None),
        )
        if type(name) is not str:
            if type(name) is not int:
                found = f"must be a string or an integer, got {_shown(name)}" if name is not None else "is missing"
                return Rejected(place, f"{self._id} {found}: {self._expected}")
            name = str(name)
        if surrogates and (reason := self._surrogate(name, source, record)):
            return Rejected(place, reason, None if _has_surrogate(name) else name)
        if source is not None and type(source) is not str:
            return Rejected(place, f"source must be a string, got {_shown(source)}", name)
        metadata = record
        if self._fields is not None:
            metadata = {field: record[field] for field in self._fields if field in record}
        elif "id" in record:
            reason = f"a metadata field cannot be named id, and {self._id} is the id: choose the metadata fields"
            return Rejected(place, reason, name)
        if not _are_plain(map(type, metadata.values())) and (reason := self._wrong_number(metadata)):
            return Rejected(place, reason, name)
        content = self._content(chunks, text)
        if isinstance(content, str):
            return Rejected(place, content, name)
        return InputDocument(name, content[0], metadata or None, content[1], source, place, digest)

    def _content(self, chunks: Any, text: Any) -> tuple[list[str], list[tuple[int, int]] | None] | str:
        """Return the chunks and their spans, or why there are none."""
        if chunks is None:
            return f"has neither {self._chunks} nor {self._text}" if text is None else self._cut(text)
        if text is not None:
            return f"has both {self._chunks} and {self._text}: expected one of them"
        if type(chunks) is not list:
            return f"{self._chunks} must be a list of strings, got {_shown(chunks)}"
        if chunks and set(map(type, chunks)) != _STR_ONLY:
            position, chunk = next((i, chunk) for i, chunk in enumerate(chunks) if type(chunk) is not str)
            return f"chunk {position} must be a string, got {_shown(chunk)}"
        return chunks, None

    def _cut(self, text: Any) -> tuple[list[str], list[tuple[int, int]] | None] | str:
        if type(text) is not str:
            return f"{self._text} must be a string, got {_shown(text)}"
        try:
            chunks, spans = self._options.cut(text)
        except ValueError as error:
            return f"{self._text}: {error}"
        return (chunks, spans) if chunks else f"{self._text} has no text"

    @staticmethod
    def _wrong_number(metadata: dict[str, Any]) -> str | None:
        """Return why metadata has a value that JSON does not have, or None."""
        for field, value in metadata.items():
            pending = [value]
            while pending:
                part = pending.pop()
                if isinstance(part, float):
                    if not math.isfinite(part):
                        return f"metadata field {field!r} holds {part}, which JSON does not have"
                elif isinstance(part, list):
                    pending += part
                elif isinstance(part, dict):
                    pending += part.values()
        return None

    @staticmethod
    def _surrogate(name: str, source: Any, metadata: dict[str, Any]) -> str | None:
        if _has_surrogate(name):
            return f"the id {_shown(name)} has a lone surrogate, which UTF-8 cannot encode"
        if type(source) is str and _has_surrogate(source):
            return f"source {_shown(source)} has a lone surrogate, which UTF-8 cannot encode"
        pending: list[Any] = [metadata]
        while pending:
            part = pending.pop()
            if isinstance(part, str):
                if _has_surrogate(part):
                    return f"metadata has a lone surrogate, which UTF-8 cannot encode: {_shown(part)}"
            elif isinstance(part, list):
                pending += part
            elif isinstance(part, dict):
                pending += [*part, *part.values()]
        return None


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)[:80]
    except (RecursionError, TypeError, ValueError):  # nested too deep, not JSON, or a number of too many digits
        return f"a {type(value).__name__}"
