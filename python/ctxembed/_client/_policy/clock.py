"""Time, sleep and randomness as arguments, and the deadline of a call."""

from __future__ import annotations

import math
import random as _random
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from ctxembed._errors import APITimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["SYSTEM_CLOCK", "Clock", "Deadline"]

# Tools that freeze time for tests replace time.monotonic, perhaps before this module is imported.
_monotonic: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_MONOTONIC) if hasattr(time, "clock_gettime") else time.monotonic
)


@dataclass(slots=True, eq=False)
class Clock:
    """The time, the sleep and the randomness that a client uses. Tests pass another one and need not wait.

    Parameters
    ----------
    monotonic : callable
        Returns seconds from an arbitrary start; used for durations.
    wall : callable
        Returns seconds since 1970; used for dates in headers.
    sleep : async callable
        Sleeps for a number of seconds.
    random : callable
        Returns a float from 0 to 1; used for jitter.
    """

    monotonic: Callable[[], float] = _monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[object]] = anyio.sleep
    random: Callable[[], float] = field(default=_random.random)


SYSTEM_CLOCK: Final = Clock()
"""The default clock. Clients share a rate limiter only where they share a clock."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time by which a call must end.

    Parameters
    ----------
    seconds : float or None
        Duration that the caller allowed; None for no limit.
    at : float
        The end on the monotonic clock; infinite without a limit.
    """

    seconds: float | None = None
    at: float = math.inf

    @classmethod
    def after(cls, seconds: float | None, clock: Clock) -> Deadline:
        """Create a deadline that many seconds from now."""
        return cls() if seconds is None else cls(seconds, clock.monotonic() + seconds)

    def remaining(self, clock: Clock) -> float | None:
        """Return the seconds that are left, or None without a limit."""
        return None if self.seconds is None else max(0.0, self.at - clock.monotonic())

    def error(self, cause: BaseException | None) -> APITimeoutError:
        """Create the error of a request that missed this deadline."""
        error = APITimeoutError(f"the job's deadline of {self.seconds:g} seconds passed")
        error.__cause__ = cause
        return error
