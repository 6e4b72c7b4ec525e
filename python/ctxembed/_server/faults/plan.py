"""The fault plan: which requests meet which fault, and which limits apply, as a file or a request body.

A plan is a JSON or TOML file (``--faults FILE``), or the body of ``POST /faults``. It is an object (table) of

``steps``
    A list. Each request meets the first step that matches it and is not used up. A step is a fault's name, or an
    object with the fault's fields (:mod:`ctxembed._server.faults.fault`) or with ``fault`` (a name or such an
    object), and optionally

    ===============  ===================================================================================
    ``times``        how many requests it applies to (default 1), or ``"always"``
    ``at``           the number of the request, counted from 1; ``[first, last]``: a range of requests
    ``path``         apply only to requests to this path
    ``probability``  apply only to this share of the matching requests, 0 to 1, drawn at random
    ===============  ===================================================================================

    An empty object is a step that lets a request pass.
``random``
    ``share``, 0 to 1, of the requests without a step that meet a random fault; ``faults``, a list of names or
    objects to draw from.
``seed``
    An integer, default 0. The same plan and order of requests give the same faults.
``limits``
    Replace the server's own limits while the plan is active; absent ones stay: ``requests_per_minute`` and ``burst``
    (a leaky bucket with continuous refill), ``tokens_per_minute``; ``retry_after``, how a 429 gives the wait:
    ``"seconds"``, ``"date"`` or ``"none"``; ``ratelimit_headers``, true for ``x-ratelimit-limit-*``,
    ``-remaining-*`` and ``-reset-*`` on every response; ``documents``, ``chunks``, ``tokens_per_document`` and
    ``tokens``, the largest request that is accepted; ``tokenizer``, a ``tokenizer.json`` that counts exactly (its path
    is relative to the plan's file).

A plain list is the list of steps. In TOML:

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
from ctxembed._server.faults.fault import NAMED, NO_FAULT, Fault, parse_fault
from ctxembed._server.rate_limiter import RETRY_AFTER_STYLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["FaultPlan", "FaultSchedule", "PlanLimits", "Step", "load_plan", "parse_plan"]

_STEP_FIELDS: Final = ("times", "at", "path", "probability", "fault")
_SIZES: Final = tuple(entry.name for entry in fields(Limits))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A fault and the requests that meet it. The module docstring explains the fields."""

    fault: Fault
    times: int | None = 1
    first: int = 1
    last: int | None = None
    path: str | None = None
    probability: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that describes the step, without defaults."""
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
    """Limits that a plan sets. None, or an empty mapping, keeps the server's own."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    burst: int | None = None
    retry_after: str | None = None
    ratelimit_headers: bool | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """A parsed plan."""

    steps: tuple[Step, ...] = ()
    share: float = 0.0
    kinds: tuple[Fault, ...] = ()
    seed: int = 0
    limits: PlanLimits | None = None


def _error(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"plan field {name!r}: expected {expected}, got {value!r}")


def _integer(name: str, value: object, minimum: int, maximum: int = 2**31) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise _error(name, value, f"an integer from {minimum} to {maximum}")
    return value


def _number(name: str, value: object, minimum: float, maximum: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
        raise _error(name, value, f"a number from {minimum:g} to {maximum:g}")
    return float(value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _error(name, value, "a string")
    return value


def _object(name: str, value: object, keys: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _error(name, value, "an object")
    for key in value:
        if key not in keys:
            raise _error(name, key, "keys among " + ", ".join(keys))
    return value


def _list(name: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise _error(name, value, "a list")
    return value


def _parse_step(value: object) -> Step:
    if not isinstance(value, dict):
        return Step(fault=parse_fault(value))
    options = {name: content for name, content in value.items() if name in _STEP_FIELDS}
    rest = {name: content for name, content in value.items() if name not in _STEP_FIELDS}
    if "fault" in options and rest:
        raise _error("fault", options["fault"], f"no fields of a fault beside it ({', '.join(rest)})")
    given: dict[str, Any] = {"fault": parse_fault(options.get("fault", rest))}
    if "times" in options:
        times = options["times"]
        given["times"] = None if times == "always" else _integer("times", times, 1)
    if "at" in options:
        at = options["at"]
        pair = at if isinstance(at, list) else [at, at]
        if len(pair) != 2:
            raise _error("at", at, "a number, or [first, last]")
        given["first"] = _integer("at", pair[0], 1)
        given["last"] = _integer("at", pair[1], given["first"])
    if "path" in options:
        given["path"] = _text("path", options["path"])
    if "probability" in options:
        given["probability"] = _number("probability", options["probability"], 0, 1)
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
                raise _error(f"limits.{name}", content, "one of " + ", ".join(RETRY_AFTER_STYLES))
            given[name] = content
        else:
            if not isinstance(content, bool):
                raise _error(f"limits.{name}", content, "true or false")
            given[name] = content
    return PlanLimits(**given)


def parse_plan(value: object) -> FaultPlan:
    """Parse a plan.

    Raises
    ------
    ValueError
        The message names the step, the field and what was expected.
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
        random_faults = _object("random", table["random"], ("share", "faults"))
        given["share"] = _number("random.share", random_faults.get("share"), 0, 1)
        given["kinds"] = tuple(map(parse_fault, _list("random.faults", random_faults.get("faults"))))
        if not given["kinds"]:
            raise _error("random.faults", random_faults["faults"], "at least one fault")
    if "seed" in table:
        given["seed"] = _integer("seed", table["seed"], -(2**63), 2**63)
    if "limits" in table:
        given["limits"] = _parse_limits(table["limits"])
    return FaultPlan(**given)


def load_plan(path: str | Path) -> FaultPlan:
    """Read a plan from a file: TOML if its name ends in ``.toml``, else JSON.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        The file is not a plan. The message names the file and the position.
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


class FaultSchedule:
    """Chooses the fault of each request: from the plan's steps, else its random faults, else the server's.

    Parameters
    ----------
    rate : float
        Share of requests that meet one of the server's random faults.
    seed : int
        Seed of these.
    kinds : sequence of str
        Names to draw from.

    Notes
    -----
    Used by the event loop's thread only.
    """

    def __init__(self, rate: float = 0.0, seed: int = 0, kinds: Sequence[str] = ()) -> None:
        self._server_faults = _RandomFaults(rate, seed, [NAMED[kind] for kind in kinds])
        self.set_plan(FaultPlan())

    def set_plan(self, plan: FaultPlan) -> None:
        """Replace the plan and count requests from 1 again."""
        self._steps = list(plan.steps)
        self._times_left: list[float] = [math.inf if step.times is None else step.times for step in plan.steps]
        self._number = 0
        self._random = random.Random(plan.seed)  # noqa: S311  # repeatable, not secret
        self._plan_faults = _RandomFaults(plan.share, plan.seed, plan.kinds)

    @property
    def remaining_steps(self) -> list[dict[str, Any]]:
        """The steps that are not used up, as JSON objects."""
        return [
            step.to_json() | ({"times": int(left)} if 1 < left < math.inf else {})
            for step, left in zip(self._steps, self._times_left, strict=True)
            if left and (step.last is None or step.last > self._number)
        ]

    def next_fault(self, path: str = "") -> Fault:
        """Return the fault of the next request."""
        self._number += 1
        for position, step in enumerate(self._steps):
            if not self._times_left[position] or (step.path is not None and step.path != path):
                continue
            if self._number < step.first or (step.last is not None and self._number > step.last):
                continue
            if step.probability < 1 and self._random.random() >= step.probability:
                continue
            self._times_left[position] -= 1
            return step.fault
        return self._plan_faults.draw() or self._server_faults.draw() or NO_FAULT


class _RandomFaults:
    """Faults for a random share of the requests."""

    def __init__(self, share: float, seed: int, kinds: Sequence[Fault]) -> None:
        self._share = share
        self._kinds = kinds
        self._random = random.Random(seed)  # noqa: S311  # repeatable, not secret

    def draw(self) -> Fault | None:
        # Always two draws, so the faults of later requests do not depend on the share.
        hit, choice = self._random.random() < self._share, self._random.random()
        return self._kinds[int(choice * len(self._kinds))] if hit else None
