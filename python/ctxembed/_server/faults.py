"""Faults: what can be made to go wrong with one request, as data.

A fault comes from the request's ``X-Fault`` header, from the plan (:mod:`ctxembed._server.plan`), or from the dice of
``fail_rate``, in this order. Each is a JSON object whose fields may be combined, or the name of one in ``NAMED``:

====================  ===========================================================================================
field                 effect
====================  ===========================================================================================
``status``            answer at once with this status, 201 to 599, in the contract's shape (401 is an HTML page)
``headers``           object of headers to add to the answer
``retry_after``       seconds: ``Retry-After`` as a number; ``{"date": seconds}``: as an HTTP date so far ahead
``delay``             seconds to wait before the answer
``payload``           a 200 that is ``"html"``, ``"empty"`` or ``"garbage"``
``body``              a string that replaces the body of whatever the answer is
``pad``               so many bytes of blanks after the body
``shuffle``           true, or a seed: documents, and chunks in each document, in another order
``missing_document``  document: leave it out
``missing_chunk``     ``[document, chunk]``: leave this chunk out
``duplicate_document`` document: send it twice
``duplicate_chunk``   ``[document, chunk]``: send this chunk twice
``extra_chunk``       document: send one more chunk of it than were asked for
``corrupt_chunk``     ``[document, chunk]``: put a byte that is not base64 into its vector
``dimensions``        send vectors of this many dimensions instead
``model``             name this model instead
``omit``              list among ``usage``, ``cost``, ``object``, ``index``, ``model``, ``data``: leave these keys out
``encoding``          ``"gzip"`` or ``"deflate"``; ``"truncated-gzip"`` (ends halfway, the length says so);
                      ``"mislabelled-gzip"`` (says gzip, is not); ``"unlabelled-gzip"`` (is gzip, does not say so);
                      ``"unknown"`` (a coding that nobody knows)
``chunked``           true: chunked transfer coding instead of a content length
``stall``             ``{"after": bytes, "seconds": s}``: pause in the body
``trickle``           ``{"bytes": n, "seconds": s}``: so many bytes of the body at a time, a pause after each
``truncate``          ``{"after": bytes}``: close the connection there, before the promised length or the last chunk
``reset``             true: reset the connection in place of an answer; ``{"after": bytes}``: in the body
``hang_up``           true: close the connection in place of an answer
``drop``              true: close the connection after a whole answer that does not announce it
``raw``               a string to send in place of an answer, after which the connection closes
====================  ===========================================================================================

A number of bytes beyond the body's length means the body's last byte; a position beyond the input means its last
document or chunk, so that one fault fits every request. ``pad`` with ``"encoding": "gzip"`` is a bomb: blanks
compress a thousandfold.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["NAMED", "NO_FAULT", "Fault", "label_of", "parse_fault"]

_PAYLOADS: Final = ("html", "empty", "garbage")
_ENCODINGS: Final = ("gzip", "deflate", "truncated-gzip", "mislabelled-gzip", "unlabelled-gzip", "unknown")
_OMITTABLE: Final = ("usage", "cost", "object", "index", "model", "data")
_COMPANIONS: Final = ("stall_seconds", "trickle_seconds", "retry_after_date")  # written beside what they belong to
_LONGEST: Final = 3600.0
_LARGEST: Final = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One request's fault; the module's docstring explains each field. Without any, nothing goes wrong."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after: float | None = None
    retry_after_date: bool = False
    delay: float = 0.0
    payload: str | None = None
    body: str | None = None
    pad: int = 0
    shuffle: int | None = None
    missing_document: int | None = None
    missing_chunk: tuple[int, int] | None = None
    duplicate_document: int | None = None
    duplicate_chunk: tuple[int, int] | None = None
    extra_chunk: int | None = None
    corrupt_chunk: tuple[int, int] | None = None
    dimensions: int | None = None
    model: str | None = None
    omit: frozenset[str] = frozenset()
    encoding: str | None = None
    chunked: bool = False
    stall_after: int | None = None
    stall_seconds: float = 0.0
    trickle_bytes: int | None = None
    trickle_seconds: float = 0.0
    truncate_after: int | None = None
    reset_after: int | None = None
    hang_up: bool = False
    drop: bool = False
    raw: str | None = None

    @property
    def alters_rows(self) -> bool:
        """Whether the rows of the answer are not the ones that were asked for."""
        positions = (self.missing_document, self.missing_chunk, self.duplicate_document, self.duplicate_chunk)
        others = (self.extra_chunk, self.corrupt_chunk, self.shuffle, self.dimensions)
        return any(value is not None for value in positions + others)

    @property
    def breaks_connection(self) -> bool:
        """Whether the connection ends before the answer does."""
        after = (self.truncate_after, self.reset_after, self.raw)
        return self.hang_up or self.drop or any(value is not None for value in after)

    @property
    def hides_usage(self) -> bool:
        """Whether ``usage`` cannot be read from what reaches the client."""
        broken = self.truncate_after is not None or self.reset_after is not None or self.hang_up
        replaced = self.payload is not None or self.body is not None or self.raw is not None
        coded = self.encoding is not None and self.encoding not in ("gzip", "deflate")
        return broken or replaced or coded or "usage" in self.omit

    def to_json(self) -> dict[str, Any]:
        """Write the fault as the object it was read from, defaults left out."""
        out: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value == getattr(NO_FAULT, entry.name) or entry.name in _COMPANIONS:
                continue
            if entry.name == "stall_after":
                out["stall"] = {"after": value, "seconds": self.stall_seconds}
            elif entry.name == "trickle_bytes":
                out["trickle"] = {"bytes": value, "seconds": self.trickle_seconds}
            elif entry.name == "retry_after":
                out["retry_after"] = {"date": value} if self.retry_after_date else value
            elif entry.name in ("truncate_after", "reset_after"):
                out[entry.name.removesuffix("_after")] = {"after": value}
            elif isinstance(value, frozenset):
                out[entry.name] = sorted(value)
            else:
                out[entry.name] = list(value) if isinstance(value, tuple) else value
        return out


NO_FAULT: Final = Fault()

NAMED: Final[Mapping[str, Fault]] = {
    "none": NO_FAULT,
    **{str(status): Fault(status=status) for status in (202, 204, 302, 400, 401, 402, 403, 404, 408, 409, 413, 422)},
    **{str(status): Fault(status=status) for status in (429, 500, 502, 503, 504, 529)},
    "429-seconds": Fault(status=429, retry_after=1.0),
    "429-date": Fault(status=429, retry_after=2.0, retry_after_date=True),
    "429-too-long": Fault(status=429, retry_after=3600.0),
    "503-seconds": Fault(status=503, retry_after=1.0),
    "redirect": Fault(status=307, headers={"location": "http://127.0.0.1:9/elsewhere"}),
    "delay": Fault(delay=30.0),
    "stall": Fault(stall_after=100, stall_seconds=30.0),
    "slow-loris": Fault(trickle_bytes=1, trickle_seconds=0.25),
    "reset": Fault(reset_after=0),
    "reset-in-body": Fault(reset_after=100),
    "hang-up": Fault(hang_up=True),
    "drop": Fault(drop=True),
    "not-http": Fault(raw="\x00\x01 this is not HTTP\r\n\r\n"),
    "truncated": Fault(truncate_after=100),
    "truncated-chunked": Fault(truncate_after=100, chunked=True),
    "chunked": Fault(chunked=True),
    "shuffled": Fault(shuffle=0),
    "missing-document": Fault(missing_document=0),
    "missing-chunk": Fault(missing_chunk=(0, 0)),
    "duplicate-document": Fault(duplicate_document=0),
    "duplicate-chunk": Fault(duplicate_chunk=(0, 0)),
    "extra-chunk": Fault(extra_chunk=0),
    "corrupt-chunk": Fault(corrupt_chunk=(0, 0)),
    "wrong-dimensions": Fault(dimensions=136),
    "wrong-model": Fault(model="another-model"),
    "bare": Fault(omit=frozenset({"usage", "object", "index", "model"})),
    "no-data": Fault(omit=frozenset({"data"})),
    "no-cost": Fault(omit=frozenset({"cost"})),
    "html": Fault(payload="html"),
    "html-as-json": Fault(payload="html", headers={"content-type": "application/json"}),
    "json-as-html": Fault(headers={"content-type": "text/html"}),
    "empty": Fault(payload="empty"),
    "garbage": Fault(payload="garbage"),
    "error-in-200": Fault(body='{"error": {"message": "overloaded", "code": 503}}'),
    "gzip": Fault(encoding="gzip"),
    "deflate": Fault(encoding="deflate"),
    "truncated-gzip": Fault(encoding="truncated-gzip"),
    "mislabelled-gzip": Fault(encoding="mislabelled-gzip"),
    "unlabelled-gzip": Fault(encoding="unlabelled-gzip"),
    "unknown-coding": Fault(encoding="unknown"),
    "gzip-bomb": Fault(encoding="gzip", pad=64 * 1024 * 1024),
    "oversized": Fault(pad=16 * 1024 * 1024),
}
"""The faults that have a name."""


def label_of(fault: Fault) -> str:
    """Return a fault's name, or else the names of its fields."""
    found = next((name for name, named in NAMED.items() if named == fault), None)
    return found or "+".join(fault.to_json())


def _refuse(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"fault field {name!r}: expected {expected}, got {value!r}")


def _integer(name: str, value: object, least: int = 0, most: int = _LARGEST) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _refuse(name, value, f"an integer from {least} to {most}")
    return value


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST:
        raise _refuse(name, value, f"seconds from 0 to {_LONGEST:g}")
    return float(value)


def _position(name: str, value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise _refuse(name, value, "[document, chunk]")
    return _integer(name, value[0]), _integer(name, value[1])


def _choice(name: str, value: object, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise _refuse(name, value, "one of " + ", ".join(choices))
    return value


def _choices(name: str, value: object, choices: Sequence[str]) -> frozenset[str]:
    if not isinstance(value, list):
        raise _refuse(name, value, "a list of names")
    return frozenset(_choice(name, entry, choices) for entry in value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _refuse(name, value, "a string")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, value, "true or false")
    return value


def _headers(name: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _refuse(name, value, "an object of strings")
    for header, content in value.items():
        # What would let a fault write a second header or a body is not a header.
        if not isinstance(content, str) or not header.isascii() or not (header + content).isprintable():
            raise _refuse(name, {header: content}, "names and values of printable ASCII")
        if not content.isascii() or not header or set(header) & set(' :"(),/;<=>?@[]{}'):
            raise _refuse(name, {header: content}, "names and values of printable ASCII")
        if header.lower() in ("content-length", "transfer-encoding"):
            raise _refuse(name, {header: content}, "headers other than those of framing: see truncate and chunked")
    return {header.lower(): content for header, content in value.items()}


def _object(name: str, value: object, keys: Sequence[str]) -> dict[str, object]:
    if not isinstance(value, dict) or set(value) != set(keys):
        raise _refuse(name, value, "an object with " + " and ".join(keys))
    return value


def _shuffle(name: str, value: object) -> int | None:
    if isinstance(value, bool):
        return 0 if value else None
    return _integer(name, value)


def _after(name: str, value: object) -> int:
    return _integer(f"{name}.after", _object(name, value, ("after",))["after"])


def _reset(name: str, value: object) -> int | None:
    if isinstance(value, bool):
        return 0 if value else None
    return _after(name, value)


def _retry_after(name: str, value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return {name: _seconds(f"{name}.date", _object(name, value, ("date",))["date"]), f"{name}_date": True}
    return {name: _seconds(name, value)}


def _stall(name: str, value: object) -> dict[str, Any]:
    given = _object(name, value, ("after", "seconds"))
    after, seconds = _integer("stall.after", given["after"]), _seconds("stall.seconds", given["seconds"])
    return {"stall_after": after, "stall_seconds": seconds}


def _trickle(name: str, value: object) -> dict[str, Any]:
    given = _object(name, value, ("bytes", "seconds"))
    size, seconds = _integer("trickle.bytes", given["bytes"], 1), _seconds("trickle.seconds", given["seconds"])
    return {"trickle_bytes": size, "trickle_seconds": seconds}


_READERS: Final[Mapping[str, Callable[[str, object], object]]] = {
    "status": partial(_integer, least=201, most=599),
    "headers": _headers,
    "delay": _seconds,
    "payload": partial(_choice, choices=_PAYLOADS),
    "body": _text,
    "pad": _integer,
    "shuffle": _shuffle,
    "missing_document": _integer,
    "missing_chunk": _position,
    "duplicate_document": _integer,
    "duplicate_chunk": _position,
    "extra_chunk": _integer,
    "corrupt_chunk": _position,
    "dimensions": partial(_integer, least=1, most=65_536),
    "model": _text,
    "omit": partial(_choices, choices=_OMITTABLE),
    "encoding": partial(_choice, choices=_ENCODINGS),
    "chunked": _flag,
    "truncate": _after,
    "reset": _reset,
    "hang_up": _flag,
    "drop": _flag,
    "raw": _text,
}
"""What reads each field that has one value."""

_READERS_OF_PAIRS: Final[Mapping[str, Callable[[str, object], dict[str, Any]]]] = {
    "retry_after": _retry_after,
    "stall": _stall,
    "trickle": _trickle,
}


def _read_field(name: str, value: object) -> dict[str, Any]:
    pair = _READERS_OF_PAIRS.get(name)
    if pair is not None:
        return pair(name, value)
    reader = _READERS.get(name)
    if reader is None:
        raise _refuse(name, value, "one of the fields " + ", ".join([*_READERS, *_READERS_OF_PAIRS]))
    return {name + "_after" if name in ("truncate", "reset") else name: reader(name, value)}


def parse_fault(value: object) -> Fault:
    """Read one fault: a name in ``NAMED``, or an object of fields.

    Raises
    ------
    ValueError
        Naming the field, its value and what was expected.
    """
    if isinstance(value, str):
        if value not in NAMED:
            raise ValueError(f"fault {value!r}: expected one of {', '.join(NAMED)}")
        return NAMED[value]
    if not isinstance(value, dict):
        raise ValueError(f"fault {value!r}: expected an object or a name")  # noqa: TRY004  # JSON has no Python type
    given: dict[str, Any] = {}
    for name, content in value.items():
        given |= _read_field(name, content)
    ends = {"truncate": given.get("truncate_after"), "reset": given.get("reset_after"), "raw": given.get("raw")}
    chosen = [name for name, content in ends.items() if content is not None]
    chosen += [name for name in ("hang_up", "drop") if given.get(name)]
    if len(chosen) > 1:
        raise ValueError(f"fault fields {' and '.join(map(repr, chosen))} exclude each other")
    return Fault(**given)
