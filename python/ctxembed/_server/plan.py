"""The fault plan: which request meets which fault, and which limits hold meanwhile, as a file or a request's body.

A plan is a JSON or TOML file (``--faults FILE``), or the body of ``POST /faults``: an object (table) of

``steps``
    A list. Each request meets the first step that matches it and is not used up. A step is a fault's name, or an
    object of the fault's fields (:mod:`ctxembed._server.faults`), or of ``fault`` (a name or such an object), and of

    ===============  ===================================================================================
    ``times``        for so many requests (1 unless said); ``"always"``: without end
    ``at``           the request with this number, counted from 1 by the plan; ``[first, last]``: those from first
                     to last
    ``path``         only requests to this path
    ``probability``  only this share of the requests that match otherwise, 0 to 1, by the plan's dice
    ===============  ===================================================================================

    An empty object is a step that lets a request pass.
``random``
    ``share``, 0 to 1, of the requests that met no step and meet a fault instead; ``faults``, a list of names or
    objects to draw from.
``seed``
    An integer, 0 unless said: the same plan and order of requests give the same faults.
``limits``
    What the server's own limits are while the plan is in force; those that are not named stay as they are:
    ``requests_per_minute`` and ``burst`` (a leaky bucket with continuous refill), ``tokens_per_minute``;
    ``retry_after``, how a 429 names the wait: ``"seconds"``, ``"date"`` or ``"none"``; ``ratelimit_headers``, true
    for ``x-ratelimit-limit-*``, ``-remaining-*`` and ``-reset-*`` on every answer; ``documents``, ``chunks``,
    ``tokens_per_document`` and ``tokens``, beyond which a request is refused; ``tokenizer``, the file of a
    vocabulary that counts exactly (relative to the plan's file).

A list alone is the list of steps. In TOML:

.. code-block:: toml

    seed = 7

    [[steps]]
    fault = "503"
    at = [1, 3]
    times = "always"

    [[steps]]
    status = 429
    retry_after = 2
    path = "/v1/embeddings"
    probability = 0.5
    times = 10

    [random]
    share = 0.2
    faults = ["reset", "truncated", {trickle = {bytes = 1, seconds = 0.1}}]

    [limits]
    requests_per_minute = 600
    burst = 5
    retry_after = "none"
"""

from __future__ import annotations

import json
import math
import random
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ctxembed._planning.limits import Limits
from ctxembed._server.faults import NAMED, NO_FAULT, Fault, parse_fault
from ctxembed._server.limiter import RETRY_AFTER_STYLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["FaultPlan", "FaultSource", "PlanLimits", "Step", "load_plan", "parse_plan"]

_MATCHERS: Final = ("times", "at", "path", "probability", "fault")
_SIZES: Final = tuple(entry.name for entry in fields(Limits))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A fault, and the requests that meet it; the module's docstring explains each field."""

    fault: Fault
    times: int | None = 1
    first: int = 1
    last: int | None = None
    path: str | None = None
    probability: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Write the step as the object it was read from, defaults left out."""
        out = self.fault.to_json()
        if self.times != 1:
            out["times"] = "always" if self.times is None else self.times
        if self.last is not None:
            out["at"] = self.first if self.first == self.last else [self.first, self.last]
        if self.path is not None:
            out["path"] = self.path
        if self.probability < 1:
            out["probability"] = self.probability
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLimits:
    """Limits that a plan sets; None, or an empty mapping, leaves the server's own."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    burst: int | None = None
    retry_after: str | None = None
    ratelimit_headers: bool | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """What goes wrong, and when."""

    steps: tuple[Step, ...] = ()
    share: float = 0.0
    kinds: tuple[Fault, ...] = ()
    seed: int = 0
    limits: PlanLimits | None = None


def _refuse(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"plan field {name!r}: expected {expected}, got {value!r}")


def _integer(name: str, value: object, least: int, most: int = 2**31) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _refuse(name, value, f"an integer from {least} to {most}")
    return value


def _number(name: str, value: object, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _refuse(name, value, f"a number from {least:g} to {most:g}")
    return float(value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _refuse(name, value, "a string")
    return value


def _object(name: str, value: object, keys: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refuse(name, value, "an object")
    for key in value:
        if key not in keys:
            raise _refuse(name, key, "keys among " + ", ".join(keys))
    return value


def _list(name: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise _refuse(name, value, "a list")
    return value


def _parse_step(value: object) -> Step:
    if not isinstance(value, dict):
        return Step(fault=parse_fault(value))
    matchers = {name: content for name, content in value.items() if name in _MATCHERS}
    rest = {name: content for name, content in value.items() if name not in _MATCHERS}
    if "fault" in matchers and rest:
        raise _refuse("fault", matchers["fault"], f"no fields of a fault beside it ({', '.join(rest)})")
    given: dict[str, Any] = {"fault": parse_fault(matchers.get("fault", rest))}
    if "times" in matchers:
        times = matchers["times"]
        given["times"] = None if times == "always" else _integer("times", times, 1)
    if "at" in matchers:
        at = matchers["at"]
        pair = at if isinstance(at, list) else [at, at]
        if len(pair) != 2:
            raise _refuse("at", at, "a number, or [first, last]")
        given["first"] = _integer("at", pair[0], 1)
        given["last"] = _integer("at", pair[1], given["first"])
    if "path" in matchers:
        given["path"] = _text("path", matchers["path"])
    if "probability" in matchers:
        given["probability"] = _number("probability", matchers["probability"], 0, 1)
    return Step(**given)


def _parse_limits(value: object) -> PlanLimits:
    names = [entry.name for entry in fields(PlanLimits) if entry.name != "sizes"]
    table = _object("limits", value, (*names, *_SIZES))
    given: dict[str, Any] = {"sizes": {}}
    for name, content in table.items():
        if name in _SIZES:
            given["sizes"][name] = _integer(f"limits.{name}", content, 1)
        elif name in ("requests_per_minute", "tokens_per_minute"):
            given[name] = _number(f"limits.{name}", content, 1e-6, 1e12)
        elif name == "burst":
            given[name] = _integer(f"limits.{name}", content, 1)
        elif name == "tokenizer":
            given[name] = _text(f"limits.{name}", content)
        elif name == "retry_after":
            if content not in RETRY_AFTER_STYLES:
                raise _refuse(f"limits.{name}", content, "one of " + ", ".join(RETRY_AFTER_STYLES))
            given[name] = content
        else:
            if not isinstance(content, bool):
                raise _refuse(f"limits.{name}", content, "true or false")
            given[name] = content
    return PlanLimits(**given)


def parse_plan(value: object) -> FaultPlan:
    """Read a plan.

    Raises
    ------
    ValueError
        Naming the step, the field and what was expected.
    """
    table = (
        {"steps": value} if isinstance(value, list) else _object("plan", value, ("steps", "random", "seed", "limits"))
    )
    given: dict[str, Any] = {}
    steps: list[Step] = []
    for position, step in enumerate(_list("steps", table.get("steps", []))):
        try:
            steps.append(_parse_step(step))
        except ValueError as error:
            raise ValueError(f"step {position}: {error}") from None
    given["steps"] = tuple(steps)
    if "random" in table:
        dice = _object("random", table["random"], ("share", "faults"))
        given["share"] = _number("random.share", dice.get("share"), 0, 1)
        given["kinds"] = tuple(map(parse_fault, _list("random.faults", dice.get("faults"))))
        if not given["kinds"]:
            raise _refuse("random.faults", dice["faults"], "at least one fault")
    if "seed" in table:
        given["seed"] = _integer("seed", table["seed"], -(2**63), 2**63)
    if "limits" in table:
        given["limits"] = _parse_limits(table["limits"])
    return FaultPlan(**given)


def load_plan(path: str | Path) -> FaultPlan:
    """Read a plan's file: TOML where its name ends in ``.toml``, else JSON.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is not a plan; the message names the file and the place.
    """
    file = Path(path)
    text = file.read_bytes()
    try:
        value: object = tomllib.loads(text.decode()) if file.suffix == ".toml" else json.loads(text)
        if isinstance(value, dict) and isinstance(value.get("limits"), dict) and "tokenizer" in value["limits"]:
            named = _text("limits.tokenizer", value["limits"]["tokenizer"])
            value["limits"]["tokenizer"] = str(file.parent / named)
        return parse_plan(value)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


class FaultSource:
    """Deals one fault to each request: by the plan's steps, else by its dice, else by the server's own.

    Parameters
    ----------
    rate : float
        Share of the requests that the server's own dice spoil.
    seed : int
        Of those dice.
    kinds : sequence of str
        Names that they choose from.

    Notes
    -----
    Belongs to the event loop's thread.
    """

    def __init__(self, rate: float = 0.0, seed: int = 0, kinds: Sequence[str] = ()) -> None:
        self._own = _Dice(rate, seed, [NAMED[kind] for kind in kinds])
        self.set_plan(FaultPlan())

    def set_plan(self, plan: FaultPlan) -> None:
        """Start a plan from its first request."""
        self._steps = list(plan.steps)
        self._left: list[float] = [math.inf if step.times is None else step.times for step in plan.steps]
        self._number = 0
        self._chance = random.Random(plan.seed)  # noqa: S311  # repeatable on purpose
        self._dice = _Dice(plan.share, plan.seed, plan.kinds)

    @property
    def left(self) -> list[dict[str, Any]]:
        """The steps that are not used up, as objects."""
        return [
            step.to_json() | ({"times": int(left)} if 1 < left < math.inf else {})
            for step, left in zip(self._steps, self._left, strict=True)
            if left and (step.last is None or step.last > self._number)
        ]

    def deal(self, path: str = "") -> Fault:
        """Return the next request's fault."""
        self._number += 1
        for position, step in enumerate(self._steps):
            if not self._left[position] or (step.path is not None and step.path != path):
                continue
            if self._number < step.first or (step.last is not None and self._number > step.last):
                continue
            if step.probability < 1 and self._chance.random() >= step.probability:
                continue
            self._left[position] -= 1
            return step.fault
        return self._dice.deal() or self._own.deal() or NO_FAULT


class _Dice:
    """A share of the requests, and what they meet."""

    def __init__(self, share: float, seed: int, kinds: Sequence[Fault]) -> None:
        self._share = share
        self._kinds = kinds
        self._random = random.Random(seed)  # noqa: S311  # repeatable on purpose

    def deal(self) -> Fault | None:
        # Two draws a request, needed or not, keep the sequence independent of which requests were spoilt.
        spoilt, chosen = self._random.random() < self._share, self._random.random()
        return self._kinds[int(chosen * len(self._kinds))] if spoilt else None
