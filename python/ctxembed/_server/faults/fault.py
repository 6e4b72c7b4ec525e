"""A fault: what goes wrong with one request, as data.

The fault of a request comes from its ``X-Fault`` header, else from the plan (:mod:`ctxembed._server.faults.plan`), else
from the random faults of ``fail_rate``. A fault is a JSON object whose fields may be combined, or a name in ``NAMED``:

====================  ===========================================================================================
field                 effect
====================  ===========================================================================================
``status``            respond at once with this status, 201 to 599, in the API's format (401 is an HTML page)
``headers``           object of headers to add to the response
``retry_after``       ``Retry-After`` in seconds; ``{"date": seconds}``: as an HTTP date that many seconds ahead
``delay``             seconds to wait before the response
``payload``           a 200 that is ``"html"``, ``"empty"`` or ``"garbage"``
``body``              a string that replaces the body of any response
``pad``               number of spaces to append to the body
``shuffle``           true, or a seed: reorder the documents, and the chunks in each document
``missing_document``  document to leave out
``missing_chunk``     ``[document, chunk]`` to leave out
``duplicate_document`` document to send twice
``duplicate_chunk``   ``[document, chunk]`` to send twice
``extra_chunk``       document that gets one chunk more than was requested
``corrupt_chunk``     ``[document, chunk]`` whose vector gets a byte that is not base64
``dimensions``        send vectors with this many dimensions
``model``             name this model in the response
``omit``              list among ``usage``, ``cost``, ``object``, ``index``, ``model``, ``data``: keys to leave out
``encoding``          ``"gzip"`` or ``"deflate"``; ``"truncated-gzip"`` (ends halfway, with a matching length);
                      ``"mislabelled-gzip"`` (labelled gzip, but is not); ``"unlabelled-gzip"`` (gzip without the
                      label); ``"unknown"`` (an unknown content coding)
``chunked``           true: chunked transfer coding instead of a content length
``stall``             ``{"after": bytes, "seconds": s}``: pause in the body
``trickle``           ``{"bytes": n, "seconds": s}``: send n bytes of the body at a time, with a pause after each
``truncate``          ``{"after": bytes}``: close the connection there, before the declared length or the last chunk
``reset``             true: reset the connection instead of responding; ``{"after": bytes}``: reset it in the body
``hang_up``           true: close the connection instead of responding
``drop``              true: close the connection after a complete response that does not announce it
``raw``               a string to send instead of a response, before the connection closes
====================  ===========================================================================================

A byte count beyond the end of the body means its last byte, and a position beyond the input means its last document or
chunk, so one fault fits every request. ``pad`` with ``"encoding": "gzip"`` is a decompression bomb: spaces compress
a thousandfold.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["NAMED", "NO_FAULT", "Fault", "fault_label", "parse_fault"]

_PAYLOADS: Final = ("html", "empty", "garbage")
_ENCODINGS: Final = ("gzip", "deflate", "truncated-gzip", "mislabelled-gzip", "unlabelled-gzip", "unknown")
_OMITTABLE: Final = ("usage", "cost", "object", "index", "model", "data")
_SECOND_VALUES: Final = ("stall_seconds", "trickle_seconds", "retry_after_date")  # to_json writes them with the first
_MAX_SECONDS: Final = 3600.0
_MAX_INTEGER: Final = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One request's fault. The module docstring explains the fields; the default has no effect."""

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
        """Whether the rows differ from those of a correct response."""
        positions = (self.missing_document, self.missing_chunk, self.duplicate_document, self.duplicate_chunk)
        others = (self.extra_chunk, self.corrupt_chunk, self.shuffle, self.dimensions)
        return any(value is not None for value in positions + others)

    @property
    def breaks_connection(self) -> bool:
        """Whether the server ends the connection itself."""
        after = (self.truncate_after, self.reset_after, self.raw)
        return self.hang_up or self.drop or any(value is not None for value in after)

    @property
    def hides_usage(self) -> bool:
        """Whether the client cannot read ``usage``."""
        broken = self.truncate_after is not None or self.reset_after is not None or self.hang_up
        replaced = self.payload is not None or self.body is not None or self.raw is not None
        coded = self.encoding is not None and self.encoding not in ("gzip", "deflate")
        return broken or replaced or coded or "usage" in self.omit

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that :func:`parse_fault` reads, without defaults."""
        out: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value == getattr(NO_FAULT, entry.name) or entry.name in _SECOND_VALUES:
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
"""All named faults."""


def fault_label(fault: Fault) -> str:
    """Return the fault's name, or the names of its fields joined by ``+``."""
    found = next((name for name, named in NAMED.items() if named == fault), None)
    return found or "+".join(fault.to_json())


def _error(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"fault field {name!r}: expected {expected}, got {value!r}")


def _integer(name: str, value: object, minimum: int = 0, maximum: int = _MAX_INTEGER) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise _error(name, value, f"an integer from {minimum} to {maximum}")
    return value


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_SECONDS:
        raise _error(name, value, f"seconds from 0 to {_MAX_SECONDS:g}")
    return float(value)


def _position(name: str, value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise _error(name, value, "[document, chunk]")
    return _integer(name, value[0]), _integer(name, value[1])


def _choice(name: str, value: object, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise _error(name, value, "one of " + ", ".join(choices))
    return value


def _choices(name: str, value: object, choices: Sequence[str]) -> frozenset[str]:
    if not isinstance(value, list):
        raise _error(name, value, "a list of names")
    return frozenset(_choice(name, entry, choices) for entry in value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _error(name, value, "a string")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _error(name, value, "true or false")
    return value


def _headers(name: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _error(name, value, "an object of strings")
    for header, content in value.items():
        # Control characters could inject another header or a body.
        if not isinstance(content, str) or not header.isascii() or not (header + content).isprintable():
            raise _error(name, {header: content}, "names and values of printable ASCII")
        if not content.isascii() or not header or set(header) & set(' :"(),/;<=>?@[]{}'):
            raise _error(name, {header: content}, "names and values of printable ASCII")
        if header.lower() in ("content-length", "transfer-encoding"):
            raise _error(name, {header: content}, "no framing headers: use truncate or chunked")
    return {header.lower(): content for header, content in value.items()}


def _object(name: str, value: object, keys: Sequence[str]) -> dict[str, object]:
    if not isinstance(value, dict) or set(value) != set(keys):
        raise _error(name, value, "an object with " + " and ".join(keys))
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


_PARSERS: Final[Mapping[str, Callable[[str, object], object]]] = {
    "status": partial(_integer, minimum=201, maximum=599),
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
    "dimensions": partial(_integer, minimum=1, maximum=65_536),
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
"""Parsers of the fields that set one attribute."""

_PAIR_PARSERS: Final[Mapping[str, Callable[[str, object], dict[str, Any]]]] = {
    "retry_after": _retry_after,
    "stall": _stall,
    "trickle": _trickle,
}


def _parse_field(name: str, value: object) -> dict[str, Any]:
    pair = _PAIR_PARSERS.get(name)
    if pair is not None:
        return pair(name, value)
    parse = _PARSERS.get(name)
    if parse is None:
        raise _error(name, value, "one of the fields " + ", ".join([*_PARSERS, *_PAIR_PARSERS]))
    return {name + "_after" if name in ("truncate", "reset") else name: parse(name, value)}


def parse_fault(value: object) -> Fault:
    """Parse a fault: a name in ``NAMED``, or an object of fields.

    Raises
    ------
    ValueError
        The message names the field, its value and what was expected.
    """
    if isinstance(value, str):
        if value not in NAMED:
            raise ValueError(f"fault {value!r}: expected one of {', '.join(NAMED)}")
        return NAMED[value]
    if not isinstance(value, dict):
        raise ValueError(f"fault {value!r}: expected an object or a name")  # noqa: TRY004  # JSON has no Python type
    given: dict[str, Any] = {}
    for name, content in value.items():
        given |= _parse_field(name, content)
    ends = {"truncate": given.get("truncate_after"), "reset": given.get("reset_after"), "raw": given.get("raw")}
    chosen = [name for name, content in ends.items() if content is not None]
    chosen += [name for name in ("hang_up", "drop") if given.get(name)]
    if len(chosen) > 1:
        raise ValueError(f"fault fields {' and '.join(map(repr, chosen))} exclude each other")
    return Fault(**given)
