"""Faults: what can be made to go wrong with one request, as data.

A fault comes from the request's ``X-Fault`` header, from the plan that ``POST /faults`` sets (one step a request),
or from the dice of ``fail_rate``, in this order. Each is a JSON object whose fields may be combined, or the name of
one in ``NAMED``:

=================  ==============================================================================================
field              effect
=================  ==============================================================================================
``status``         answer at once with this status, 400 to 599, in the contract's shape (401 is an HTML page)
``headers``        object of headers to add to the answer
``delay``          seconds to wait before the answer
``payload``        a 200 that is ``"html"``, ``"empty"`` or ``"garbage"``
``body``           a string that replaces the body of whatever the answer is
``shuffle``        true, or a seed: documents, and chunks in each document, in another order
``missing_chunk``  ``[document, chunk]``: leave this chunk out
``duplicate_chunk`` ``[document, chunk]``: send this chunk twice
``corrupt_chunk``  ``[document, chunk]``: put a byte that is not base64 into its vector
``dimensions``     send vectors of this many dimensions instead
``model``          name this model instead
``omit``           list among ``usage``, ``cost``, ``object``, ``index``, ``model``, ``data``: leave these keys out
``encoding``       ``"gzip"``; ``"mislabelled-gzip"`` (says gzip, is not); ``"unlabelled-gzip"`` (is gzip, does not
                   say so)
``chunked``        true: chunked transfer coding instead of a content length
``stall``          ``{"after": bytes, "seconds": s}``: pause in the body
``truncate``       ``{"after": bytes}``: close the connection there, before the promised length or the last chunk
``reset``          true: reset the connection in place of an answer; ``{"after": bytes}``: in the body
``times``          in a plan: for this many requests
=================  ==============================================================================================

A number of bytes beyond the body's length means the body's last byte; a position beyond the input means its last
document or chunk, so that one fault fits every request.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["NAMED", "NO_FAULT", "Fault", "FaultSource", "parse_fault", "parse_plan"]

_PAYLOADS: Final = ("html", "empty", "garbage")
_ENCODINGS: Final = ("gzip", "mislabelled-gzip", "unlabelled-gzip")
_OMITTABLE: Final = ("usage", "cost", "object", "index", "model", "data")
_LONGEST: Final = 3600.0
_LARGEST: Final = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One request's fault; the module's docstring explains each field. Without any, nothing goes wrong."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    payload: str | None = None
    body: str | None = None
    shuffle: int | None = None
    missing_chunk: tuple[int, int] | None = None
    duplicate_chunk: tuple[int, int] | None = None
    corrupt_chunk: tuple[int, int] | None = None
    dimensions: int | None = None
    model: str | None = None
    omit: frozenset[str] = frozenset()
    encoding: str | None = None
    chunked: bool = False
    stall_after: int | None = None
    stall_seconds: float = 0.0
    truncate_after: int | None = None
    reset_after: int | None = None
    times: int = 1

    @property
    def alters_rows(self) -> bool:
        """Whether the rows of the answer are not the ones that were asked for."""
        positions = (self.missing_chunk, self.duplicate_chunk, self.corrupt_chunk, self.shuffle, self.dimensions)
        return any(value is not None for value in positions)

    @property
    def breaks_connection(self) -> bool:
        """Whether the connection ends before the answer does."""
        return self.truncate_after is not None or self.reset_after is not None

    def to_json(self) -> dict[str, Any]:
        """Write the fault as the object it was read from, defaults left out."""
        out: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value == getattr(NO_FAULT, entry.name) or entry.name == "stall_seconds":
                continue
            if entry.name == "stall_after":
                out["stall"] = {"after": value, "seconds": self.stall_seconds}
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
    "400": Fault(status=400),
    "401": Fault(status=401),
    "403": Fault(status=403),
    "404": Fault(status=404),
    "408": Fault(status=408),
    "422": Fault(status=422),
    "429": Fault(status=429),
    "500": Fault(status=500),
    "502": Fault(status=502),
    "503": Fault(status=503),
    "504": Fault(status=504),
    "reset": Fault(reset_after=0),
    "reset-in-body": Fault(reset_after=100),
    "truncated": Fault(truncate_after=100),
    "truncated-chunked": Fault(truncate_after=100, chunked=True),
    "stall": Fault(stall_after=100, stall_seconds=30.0),
    "shuffled": Fault(shuffle=0),
    "missing-chunk": Fault(missing_chunk=(0, 0)),
    "duplicate-chunk": Fault(duplicate_chunk=(0, 0)),
    "corrupt-chunk": Fault(corrupt_chunk=(0, 0)),
    "wrong-dimensions": Fault(dimensions=136),
    "wrong-model": Fault(model="another-model"),
    "bare": Fault(omit=frozenset({"usage", "object", "index", "model"})),
    "html": Fault(payload="html"),
    "empty": Fault(payload="empty"),
    "garbage": Fault(payload="garbage"),
    "gzip": Fault(encoding="gzip"),
    "mislabelled-gzip": Fault(encoding="mislabelled-gzip"),
    "unlabelled-gzip": Fault(encoding="unlabelled-gzip"),
}
"""The faults that have a name."""


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


_READERS: Final[Mapping[str, Callable[[str, object], object]]] = {
    "status": partial(_integer, least=400, most=599),
    "headers": _headers,
    "delay": _seconds,
    "payload": partial(_choice, choices=_PAYLOADS),
    "body": _text,
    "shuffle": _shuffle,
    "missing_chunk": _position,
    "duplicate_chunk": _position,
    "corrupt_chunk": _position,
    "dimensions": partial(_integer, least=1, most=65_536),
    "model": _text,
    "omit": partial(_choices, choices=_OMITTABLE),
    "encoding": partial(_choice, choices=_ENCODINGS),
    "chunked": _flag,
    "truncate": _after,
    "reset": _reset,
    "times": partial(_integer, least=1, most=1_000_000),
}
"""What reads each field that has one value; ``stall`` has two."""


def _read_field(name: str, value: object) -> dict[str, Any]:
    if name == "stall":
        given = _object(name, value, ("after", "seconds"))
        after, seconds = _integer("stall.after", given["after"]), _seconds("stall.seconds", given["seconds"])
        return {"stall_after": after, "stall_seconds": seconds}
    reader = _READERS.get(name)
    if reader is None:
        raise _refuse(name, value, "one of the fields " + ", ".join([*_READERS, "stall"]))
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
    if given.get("truncate_after") is not None and given.get("reset_after") is not None:
        raise ValueError("fault fields 'truncate' and 'reset' exclude each other")
    return Fault(**given)


def parse_plan(value: object) -> list[Fault]:
    """Read a list of faults.

    Raises
    ------
    ValueError
        Naming the step, its field and what was expected.
    """
    if not isinstance(value, list):
        raise ValueError(f"a plan is a list of faults, got {type(value).__name__}")  # noqa: TRY004  # as above
    plan: list[Fault] = []
    for position, step in enumerate(value):
        try:
            plan.append(parse_fault(step))
        except ValueError as error:
            raise ValueError(f"step {position}: {error}") from None
    return plan


class FaultSource:
    """Deals one fault to each request: from the plan while it lasts, else by the dice.

    Parameters
    ----------
    rate : float
        Share of the requests that the dice spoil.
    seed : int
        Of the dice.
    kinds : sequence of str
        Names that the dice choose from.

    Notes
    -----
    Belongs to the event loop's thread.
    """

    def __init__(self, rate: float = 0.0, seed: int = 0, kinds: Sequence[str] = ()) -> None:
        self._rate = rate
        self._dice = random.Random(seed)  # noqa: S311  # repeatable on purpose
        self._kinds = [NAMED[kind] for kind in kinds]
        self._plan: deque[Fault] = deque()

    def set_plan(self, plan: Sequence[Fault]) -> None:
        """Replace what is left of the plan."""
        self._plan = deque(plan)

    @property
    def left(self) -> list[Fault]:
        """The steps that no request has met yet."""
        return list(self._plan)

    def deal(self) -> Fault:
        """Return the next request's fault."""
        if self._plan:
            step = self._plan[0]
            if step.times > 1:
                self._plan[0] = replace(step, times=step.times - 1)
            else:
                self._plan.popleft()
            return step
        # Two draws a request, needed or not, keep the sequence independent of which requests were spoilt.
        spoilt, chosen = self._dice.random() < self._rate, self._dice.random()
        return self._kinds[int(chosen * len(self._kinds))] if spoilt else NO_FAULT
