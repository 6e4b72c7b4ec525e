"""Reads JSON Lines, and one JSON array, piece by piece."""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ctxembed._jobs.documents import UnchangedDocument
from ctxembed._jobs.reading.documents import InputDocument, Rejected
from ctxembed._jobs.reading.files import BOM, MAX_RECORD, UTF16_AND_32, BytesRead, shown_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ctxembed._jobs.reading.known import KnownRecords
    from ctxembed._jobs.reading.records import Records

__all__ = ["ArrayError", "array_elements", "read_json_array", "read_json_lines"]

_PIECE: Final = 1 << 20
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODE: Final = json.JSONDecoder().raw_decode
_ENDS: Final = frozenset({"\n", "\r\n", ""})
_BOM_START: Final = BOM[:1]
_CONVERTED: Final = (
    'expected JSON Lines, one {"id": ..., "chunks": [...]} per line '
    "(a file named .json may be an array; jq -c '.[]' converts one)"
)
_TAIL: Final = 16
"""Characters at the end of a buffer that may be part of a literal, an escape or a number that goes on."""


def read_json_lines(
    stream: BinaryIO, name: str, records: Records, known: KnownRecords, read: BytesRead
) -> Iterator[InputDocument | UnchangedDocument | Rejected]:
    """Yield the document of each line, or why it is not one. Blank lines are skipped.

    A line is at most 64 MiB. A file that is one JSON array, or UTF-16, is rejected as a whole.
    """
    readline, look_up, read_plain = stream.readline, known.look_up, records.read_plain
    number, begun, start = 0, False, f"{name}, line "
    while line := readline(MAX_RECORD + 1):
        number += 1
        read.total += len(line)
        digest, stored = look_up(line)
        if stored is not None:
            begun = True
            yield UnchangedDocument(*stored, name, number)
            continue
        place = f"{start}{number}"
        plain = read_plain(line, place, digest)
        if plain is not None:
            begun = True
            yield plain
            continue
        try:
            record = _loads(line)
        except (ValueError, RecursionError) as error:
            content = line.removeprefix(BOM).strip()
            if number == 1 and line.startswith(UTF16_AND_32):
                yield Rejected(name, "UTF-16 or UTF-32 by its byte order mark, not UTF-8")
                return
            if not begun and content.startswith(b"["):
                yield Rejected(name, f"this is one JSON array; {_CONVERTED}")
                return
            if len(line) > MAX_RECORD:
                yield Rejected(place, f"longer than {shown_size(MAX_RECORD)}: not a document")
                while not line.endswith(b"\n") and (line := readline(_PIECE)):
                    read.total += len(line)
            elif content:
                yield Rejected(place, _reason(error, line))
            begun = begun or bool(content)
        else:
            if type(record) is list:
                yield Rejected(place, f"this is a JSON array; {_CONVERTED}")
            else:
                yield records.read(record, place, surrogates=b"\\u" in line, digest=digest)
            begun = True


def _loads(line: bytes) -> Any:
    # json.loads(bytes) would also accept UTF-16 and UTF-32.
    text = line.decode() if line[:1] != _BOM_START else line.decode("utf-8-sig")
    try:
        value, end = _DECODE(text)
    except json.JSONDecodeError:
        return json.loads(text)  # whitespace before it, or an error
    return value if text[end:] in _ENDS else json.loads(text)


def _reason(error: Exception, line: bytes) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start + len(line) - len(error.object)} of the line"
    if isinstance(error, json.JSONDecodeError):
        end = len(error.doc.rstrip())
        cut = " (the line ends there: a document must be on one line)" if error.pos >= end else ""
        return f"not JSON: {error.msg} at column {min(error.pos, end) + 1}{cut}"
    if isinstance(error, RecursionError):
        return "nested too deep"
    return "a number has too many digits"  # Python's limit


def read_json_array(
    stream: BinaryIO, name: str, records: Records, read: BytesRead
) -> Iterator[InputDocument | Rejected]:
    """Yield the document of each element of a JSON array, or why it is not one.

    An error in the JSON ends the array: where the next element begins is unknown then.
    """
    number = 0
    try:
        for record in array_elements(_pieces(stream, read)):
            number += 1
            yield records.read(record, f"{name}, row {number}", surrogates=True)
    except _NotUtf8Error as error:
        yield Rejected(name, str(error))
    except ArrayError as error:
        yield Rejected(f"{name}, line {error.line}", str(error))


class _NotUtf8Error(ValueError):
    pass


def _pieces(stream: BinaryIO, read: BytesRead) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    position = 0
    while True:
        content = stream.read(_PIECE)
        start = position - len(decoder.getstate()[0])
        position += len(content)
        read.total += len(content)
        try:
            text = decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            raise _NotUtf8Error(f"not UTF-8 at byte {start + error.start}") from None
        if not content:
            break
        yield text


class ArrayError(ValueError):
    """An error in a JSON array, or an element that is too long.

    Attributes
    ----------
    line : int
        The line, from 1.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def array_elements(pieces: Iterable[str]) -> Iterator[Any]:
    """Yield the elements of a JSON array, given in pieces. It holds one element and one piece.

    Raises
    ------
    ArrayError
        The text is not a JSON array, or an element is longer than 64 MiB.

    Examples
    --------
    >>> list(array_elements(["[1, {", '"a": [2', "3]}]"]))
    [1, {'a': [23]}]
    """
    return _ArrayScanner(pieces).elements()


class _ArrayScanner:
    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces = iter(pieces)
        self._buffer = ""
        self._at = 0
        self._ended = False
        self._line, self._column = 1, 1  # of the start of the buffer

    def elements(self) -> Iterator[Any]:
        if self._next_character() != "[":
            raise self._error("expected a JSON array", self._at)
        self._at += 1
        if self._next_character() == "]":
            self._at += 1
        else:
            while True:
                yield self._element()
                character = self._next_character()
                self._at += 1
                if character == "]":
                    break
                if character != ",":
                    raise self._error("Expecting ',' delimiter", self._at - 1)
                self._next_character()
        if self._next_character():
            raise self._error("Extra data after the array", self._at)

    def _next_character(self) -> str:
        """Skip whitespace, and return the next character; empty at the end."""
        while True:
            match = _SPACE.match(self._buffer, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if self._ended:
                return ""
            self._read()

    def _element(self) -> Any:
        while True:
            size = len(self._buffer)
            try:
                value, end = _DECODE(self._buffer, self._at)
            except json.JSONDecodeError as error:
                in_tail = error.pos > size - _TAIL or error.msg.startswith("Unterminated string")
                if self._ended or not in_tail:
                    raise self._error(error.msg, error.pos) from None
            except RecursionError:
                raise self._error("nested too deep", self._at) from None
            except ValueError:  # Python's limit on the digits of an int
                raise self._error("a number has too many digits", self._at) from None
            else:
                if self._ended or end < size - _TAIL:
                    self._at = end
                    return value
            if size - self._at > MAX_RECORD:
                raise self._error(f"longer than {shown_size(MAX_RECORD)}: not a document", self._at)
            self._read()

    def _read(self) -> None:
        """Drop what was read from the buffer, and add at least as much to it as is left."""
        line_ends = self._buffer.count("\n", 0, self._at)
        self._line += line_ends
        self._column = self._at - self._buffer.rfind("\n", 0, self._at) if line_ends else self._column + self._at
        parts = [self._buffer[self._at :]]
        wanted = max(len(parts[0]), 1)
        while wanted > 0 and not self._ended:
            piece = next(self._pieces, None)
            self._ended = piece is None
            parts.append(piece or "")
            wanted -= len(piece or "")
        self._buffer, self._at = "".join(parts), 0

    def _error(self, message: str, position: int) -> ArrayError:
        line_ends = self._buffer.count("\n", 0, position)
        column = position - self._buffer.rfind("\n", 0, position) if line_ends else self._column + position
        return ArrayError(f"not JSON: {message} at column {column}", self._line + line_ends)
