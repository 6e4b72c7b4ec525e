"""Which errors are worth another attempt, and when. No I/O: time, sleep and chance are given."""

from __future__ import annotations

import math
import random as _random
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import anyio

from ctxembed._errors import APIConnectionError, APIStatusError, APITimeoutError, BadResponseError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = [
    "CLOCK",
    "Clock",
    "Deadline",
    "Hedger",
    "RetryBudget",
    "RetryPolicy",
    "is_congestion",
    "is_overload",
    "is_transient",
    "retry_after",
]

_LATENCIES: Final = 64  # the latest requests, whose times tell what is slow
_FEWEST_LATENCIES: Final = 8
_MOST_HEDGES: Final = 10.0  # that a long quiet time may save up

DEFAULT_MAX_WAIT: Final = 300.0
"""Seconds: a ``Retry-After`` beyond this is not waited for, the error is raised at once."""


@dataclass(slots=True, eq=False)
class Clock:
    """Time, sleep and chance, so that tests need none of them.

    Parameters
    ----------
    monotonic, wall : callable
        Seconds, for distances and for dates.
    sleep : async callable
        Waits that many seconds.
    random : callable
        From 0 to 1.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[object]] = anyio.sleep
    random: Callable[[], float] = field(default=_random.random)


CLOCK: Final = Clock()
"""The clock of all clients, by which those of one key know each other."""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Read ``Retry-After`` (RFC 9110, 10.2.3): seconds, or an HTTP date, as seconds from ``now``.

    Examples
    --------
    >>> retry_after({"retry-after": "3"}, now=0.0)
    3.0
    >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=20.0)
    40.0
    >>> retry_after({"retry-after": "soon"}, now=0.0) is None
    True
    """
    value = headers.get("retry-after", "").strip()
    # RFC 9110 knows whole seconds only; fractions are seen in the wild. Signs, exponents and NaN are not numbers here.
    if value and value.isascii() and value.replace(".", "", 1).isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.fromtimestamp(now, UTC)).total_seconds())


def is_congestion(error: BaseException) -> bool:
    """Say whether the API asks for fewer requests at once."""
    return isinstance(error, APIStatusError) and error.status_code in (429, 503)


def is_overload(status: int) -> bool:
    """Say whether an answer comes from something before the API's limiter, or from the limiter itself."""
    return status in (429, 502, 503, 504)


def is_transient(error: BaseException) -> bool:
    """Say whether the same request may succeed a little later."""
    if isinstance(error, APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, APIConnectionError | BadResponseError)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, unless the API names a time.

    Parameters
    ----------
    max_retries : int
        Attempts after the first.
    max_wait : float
        Seconds: a ``Retry-After`` beyond this is not waited for.
    base, longest : float
        Attempt ``n`` (from 0) is followed by a wait drawn evenly from 0 to ``min(longest, base * 2**n)`` seconds.

    Notes
    -----
    Full jitter spreads clients that failed together best and costs least work; M. Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015.
    """

    max_retries: int
    max_wait: float = DEFAULT_MAX_WAIT
    base: float = 0.5
    longest: float = 20.0

    def delay(self, error: BaseException, retries: int, clock: Clock) -> float | None:
        """Return the seconds to wait before another attempt, or None where there is none.

        Parameters
        ----------
        error : Exception
            What the last attempt ended with.
        retries : int
            Retries made so far.
        clock : Clock
            Date and chance.
        """
        if retries >= self.max_retries or not is_transient(error):
            return None
        if isinstance(error, APIStatusError):
            asked = retry_after(error.headers, clock.wall())
            if asked is not None:
                return asked if asked <= self.max_wait else None
        # 2.0**64 is far beyond any longest wait, and keeps a large max_retries from overflowing.
        return clock.random() * min(self.longest, self.base * 2.0 ** min(retries, 64))


class RetryBudget:
    """How many retries the requests of a client may take together, so that an API that is down meets no storm.

    Each request adds a share of a retry, each retry takes one, and some are there from the start.

    Parameters
    ----------
    share : float or None
        Retries a request, on average; None for as many as ``max_retries`` allows.
    reserve : int
        Retries beyond the share.

    Notes
    -----
    A reserve and a share of the requests bound the load that retries add without failing a short job that meets a
    few errors in a row. Called in one event loop.

    Examples
    --------
    >>> budget = RetryBudget(0.5, reserve=1)
    >>> budget.request()
    >>> [budget.spend() for _ in range(3)]
    [True, False, False]
    """

    __slots__ = ("_in_a_row", "_left", "_reserve", "_share")

    def __init__(self, share: float | None, reserve: int) -> None:
        self._share = share
        self._reserve = reserve
        self._left = float(reserve)
        self._in_a_row = 0

    def request(self) -> None:
        """Note a request."""
        if self._share is not None:
            self._left = min(self._left + self._share, 2.0 * self._reserve)

    def spend(self) -> bool:
        """Take a retry, if one is left."""
        if self._share is None:
            return True
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def note(self, *, worked: bool) -> None:
        """Note how an attempt ended."""
        self._in_a_row = 0 if worked else self._in_a_row + 1

    @property
    def is_down(self) -> bool:
        """Whether no retry is left and nothing has worked for as many attempts as the reserve."""
        return self._share is not None and self._left < 1.0 and self._in_a_row >= self._reserve


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a whole job must have ended.

    Parameters
    ----------
    seconds : float or None
        As the caller gave them.
    at : float
        On the monotonic clock; infinite where there is none.
    """

    seconds: float | None = None
    at: float = math.inf

    @classmethod
    def after(cls, seconds: float | None, clock: Clock) -> Deadline:
        """Start counting."""
        return cls() if seconds is None else cls(seconds, clock.monotonic() + seconds)

    def left(self, clock: Clock) -> float | None:
        """Return the seconds that are left, None where there is no end."""
        return None if self.seconds is None else max(0.0, self.at - clock.monotonic())

    def missed(self, cause: BaseException | None) -> APITimeoutError:
        """Make the error of what has not landed."""
        error = APITimeoutError(f"the job's deadline of {self.seconds:g} seconds passed")
        error.__cause__ = cause
        return error


class Hedger:
    """When a request is slow enough to be sent once more.

    Parameters
    ----------
    share : float or None
        Share of the requests that may be sent twice; None for none. A request is slow when so few of the latest
        took longer, and at least half as long again as their median.

    Examples
    --------
    >>> hedger = Hedger(0.1)
    >>> for seconds in [1.0] * 19 + [9.0]:
    ...     hedger.landed(seconds)
    >>> hedger.patience()
    1.5
    """

    __slots__ = ("_latest", "_left", "_share")

    def __init__(self, share: float | None) -> None:
        self._share = share
        self._left = 1.0
        self._latest: deque[float] = deque(maxlen=_LATENCIES)

    def landed(self, seconds: float) -> None:
        """Note how long a request took."""
        if self._share is not None:
            self._latest.append(seconds)
            self._left = min(self._left + self._share, _MOST_HEDGES)

    def patience(self) -> float | None:
        """Return the seconds after which a request is slow; None where it is not sent again."""
        if self._share is None or self._left < 1.0 or len(self._latest) < _FEWEST_LATENCIES:
            return None
        ranked = sorted(self._latest)
        slow = ranked[min(len(ranked) - 1, int((1.0 - self._share) * len(ranked)))]
        middle = ranked[len(ranked) // 2]
        return max(1.5 * middle, min(slow, 4.0 * middle))

    def spend(self) -> None:
        """Note that a request is sent once more."""
        self._left -= 1.0
