"""Removal of a secret from text that comes from outside: responses, and the messages of libraries."""

from __future__ import annotations

import base64
import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["REDACTED", "Redactor"]

REDACTED: Final = "***"

_MIN_SECRET: Final = 4  # a shorter one is a test's, and redacting it would garble texts
_MIN_IN_BASE64: Final = 8  # characters; a shorter secret occurs in base64 vectors by chance
_PART: Final = 8  # consecutive characters of a secret that are redacted
_MIN_DIVIDED: Final = 12  # characters of a secret whose parts are redacted
_PROBE: Final = 4  # every part of 8 characters contains one of the probes, which are 5 characters apart

# The spellings of one character in URLs, JSON, Python and HTML, and line breaks, which are dropped.
_ENCODED: Final = re.compile(
    r"%(?P<percent>[0-9a-fA-F]{2})|\\+u(?P<unicode>[0-9a-fA-F]{4})|\\+x(?P<hex>[0-9a-fA-F]{2})"
    r"|&#[xX](?P<reference>[0-9a-fA-F]{1,6});|&#(?P<decimal>[0-9]{1,7});|&(?P<name>amp|lt|gt|quot|apos);"
    r"|(?P<line>(?:[\r\n]|\\+[rn])+[ \t]*)|\\(?P<escaped>.)"
)
_NAMED: Final = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class Redactor:
    """Replace a secret in text by ``***``.

    It is found in any case, with characters escaped as in URLs, JSON, Python or HTML, in base64 (as of ``Basic``
    credentials), and across line breaks. Of a secret of 12 characters or more, each part of 8 is replaced too, since a
    library or a limit may have cut the text in its midst.

    Parameters
    ----------
    secret : str
        ASCII. A secret of fewer than 4 characters is not replaced.

    Examples
    --------
    >>> redact = Redactor("pplx-0123456789")
    >>> redact.text("the key PPLX-0123456789 is invalid: pplx-0123...")
    'the key *** is invalid: ***...'
    """

    __slots__ = ("_forms", "_parts", "_probes", "_size")

    def __init__(self, secret: str) -> None:
        self._forms: tuple[str, ...] = ()
        if len(secret) >= _MIN_SECRET:
            self._forms = tuple(dict.fromkeys([secret.lower(), *_base64_forms(secret)]))
        self._size = _PART if len(secret) >= _MIN_DIVIDED else len(secret)
        divided = self._size == _PART
        self._parts = frozenset(part for form in self._forms for part in _parts_of(form, self._size))
        step, length = (_PART - _PROBE + 1, _PROBE) if divided else (1, self._size)
        self._probes = tuple(
            {form[start : start + length] for form in self._forms for start in range(0, len(form) - length + 1, step)}
        )

    def text(self, text: str) -> str:
        """Replace the secret and its parts."""
        if not text:
            return text
        lowered = _lower(text)
        spans = [*self._part_spans(lowered)]
        if _may_be_encoded(text):
            decoded = _Decoded(text)
            spans += [decoded.span(*span) for span in self._part_spans(decoded.text)]
        return _replace(text, spans)

    def concerns(self, text: str) -> bool:
        """Return whether :meth:`text` may change the text, at less cost."""
        lowered = text.lower()
        for probe in self._probes:
            if probe in lowered:
                return _may_be_encoded(text) or next(self._part_spans(_lower(text)), None) is not None
        return _may_be_encoded(text)

    def body(self, body: bytes) -> bytes:
        """Replace the whole secret in a body of any size. Its vectors are left alone."""
        if not self._forms or len(self._forms[0]) < _MIN_IN_BASE64:
            return body
        text = body.decode("latin-1")
        spans = [*self._whole_spans(_lower(text))]
        if b"\\" in body or b"%" in body or b"&" in body:
            decoded = _Decoded(text)
            spans += [decoded.span(*span) for span in self._whole_spans(decoded.text)]
        return _replace(text, spans).encode("latin-1") if spans else body

    def _whole_spans(self, lowered: str) -> Iterator[tuple[int, int]]:
        for form in self._forms:
            for start in _positions(form, lowered):
                yield start, start + len(form)

    def _part_spans(self, lowered: str) -> Iterator[tuple[int, int]]:
        size = self._size
        for probe in self._probes:
            for found in _positions(probe, lowered):
                for start in range(max(0, found + len(probe) - size), found + 1):
                    if lowered[start : start + size] in self._parts:
                        yield start, start + size


def _may_be_encoded(text: str) -> bool:
    return "%" in text or "\\" in text or "&" in text or "\n" in text or "\r" in text


def _base64_forms(secret: str) -> Iterator[str]:
    """Yield what base64 makes of the secret, whatever stands before and after it, in lower case."""
    if len(secret) < _MIN_IN_BASE64:
        return
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret.encode()).decode()
        form = encoded[-(-8 * before // 6) : 8 * (before + len(secret)) // 6].lower()
        yield form
        yield form.replace("+", "-").replace("/", "_")


def _parts_of(form: str, size: int) -> Iterator[str]:
    return (form[start : start + size] for start in range(len(form) - size + 1))


def _positions(part: str, text: str) -> Iterator[int]:
    found = text.find(part)
    while found >= 0:
        yield found
        found = text.find(part, found + 1)


def _lower(text: str) -> str:
    """Return the text with ASCII letters in lower case. Its length stays."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


def _replace(text: str, spans: list[tuple[int, int]]) -> str:
    pieces: list[str] = []
    end = 0
    for start, stop in sorted(spans):
        if start > end or not pieces:
            pieces += [text[end:start], REDACTED]
        end = max(end, stop)
    return "".join([*pieces, text[end:]])


class _Decoded:
    """A text without escapes and line breaks, in lower case, that knows where each character comes from."""

    __slots__ = ("_ends", "_places", "_starts", "text")

    def __init__(self, text: str) -> None:
        self._places: list[int] = []  # in the decoded text, where a piece begins
        self._starts: list[int] = []  # in the source
        self._ends: list[int] = []  # in the source, after an escape; 0 for a piece without one
        pieces: list[str] = []
        size = end = 0
        for found in _ENCODED.finditer(text):
            for piece, start, stop in ((text[end : found.start()], end, 0), (_decode(found), *found.span())):
                if piece:
                    pieces.append(piece)
                    self._places.append(size)
                    self._starts.append(start)
                    self._ends.append(stop)
                    size += len(piece)
            end = found.end()
        pieces.append(text[end:])
        self._places.append(size)
        self._starts.append(end)
        self._ends.append(0)
        self.text = _lower("".join(pieces))

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Return the place in the source of a range of the decoded text."""
        first = bisect_right(self._places, start) - 1
        begin = self._starts[first] + (0 if self._ends[first] else start - self._places[first])
        last = bisect_right(self._places, stop - 1) - 1
        return begin, self._ends[last] or self._starts[last] + stop - self._places[last]


def _decode(found: re.Match[str]) -> str:
    kind = found.lastgroup or ""
    value = found[kind]
    if kind == "line":
        return ""
    if kind == "escaped":
        return value
    if kind == "name":
        return _NAMED[value]
    code = int(value, 10 if kind == "decimal" else 16)
    return chr(code) if code < 128 else "\ufffd"
