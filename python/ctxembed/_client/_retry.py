"""Which errors are worth another attempt, and when. No I/O: time, sleep and chance are given."""

from __future__ import annotations

import random as _random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import anyio

from ctxembed._errors import APIConnectionError, APIStatusError, BadResponseError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = ["Clock", "RetryPolicy", "is_congestion", "retry_after"]

LONGEST_WAIT: Final = 300.0
"""Seconds: a ``Retry-After`` beyond this is not waited for, the error is raised at once."""


@dataclass(slots=True)
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


def is_transient(error: BaseException) -> bool:
    """Say whether the same request may succeed a little later."""
    if isinstance(error, APIStatusError):
        return error.status_code in (408, 429) or error.status_code >= 500
    return isinstance(error, APIConnectionError | BadResponseError)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, unless the API names a time.

    Parameters
    ----------
    max_retries : int
        Attempts after the first.
    base, longest : float
        Attempt ``n`` (from 0) is followed by a wait drawn evenly from 0 to ``min(longest, base * 2**n)`` seconds.

    Notes
    -----
    Full jitter spreads clients that failed together best and costs least work; M. Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015.
    """

    max_retries: int
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
                return asked if asked <= LONGEST_WAIT else None
        # 2.0**64 is far beyond any longest wait, and keeps a large max_retries from overflowing.
        return clock.random() * min(self.longest, self.base * 2.0 ** min(retries, 64))
