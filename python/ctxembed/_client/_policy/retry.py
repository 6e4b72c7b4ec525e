"""Which errors are retried, how often and after how long."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from ctxembed._client._policy.rate_headers import LONGEST_WAIT, parse_number
from ctxembed._errors import APIConnectionError, APIStatusError, BadResponseError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctxembed._client._policy.clock import Clock

__all__ = ["DEFAULT_MAX_WAIT", "RetryBudget", "RetryPolicy", "is_transient", "retry_after"]

DEFAULT_MAX_WAIT: Final = 300.0
"""Seconds. A longer ``Retry-After`` is not waited for; its error is raised at once."""

_LONGEST_DATE: Final = 100  # characters


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Parse ``Retry-After`` (RFC 9110, 10.2.3), in seconds or as an HTTP date, to seconds from ``now``.

    ``retry-after-ms``, in milliseconds, comes first where a response has both. A time of more than a week counts as a
    week.

    Examples
    --------
    >>> retry_after({"retry-after": "3"}, now=0.0)
    3.0
    >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=20.0)
    40.0
    >>> retry_after({"retry-after": "9" * 400}, now=0.0)
    604800.0
    >>> retry_after({"retry-after": "soon"}, now=0.0) is None
    True
    """
    milliseconds = parse_number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return min(milliseconds / 1000, LONGEST_WAIT)
    value = headers.get("retry-after", "")
    # RFC 9110 allows whole seconds only, but servers send fractions too. Signs, exponents and NaN are refused.
    seconds = parse_number(value)
    if seconds is not None:
        return min(seconds, LONGEST_WAIT)
    try:
        when = parsedate_to_datetime(value[:_LONGEST_DATE])
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        seconds = (when - datetime.fromtimestamp(now, UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, seconds), LONGEST_WAIT)


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed a little later."""
    if isinstance(error, APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    if isinstance(error, APIConnectionError):
        return type(error.__cause__) is not ValueError  # the environment cannot be used: a variable is wrong
    return isinstance(error, BadResponseError)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, unless the response names a time.

    Parameters
    ----------
    max_retries : int
        Attempts after the first.
    max_wait : float
        Seconds. A longer ``Retry-After`` is not waited for.
    base, longest : float
        The wait after attempt ``n`` (from 0) is drawn evenly from 0 to ``min(longest, base * 2**n)`` seconds.

    Notes
    -----
    Of the common jitters, full jitter spreads clients that failed together best at the least work: M. Brooker,
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    max_retries: int
    max_wait: float = DEFAULT_MAX_WAIT
    base: float = 0.5
    longest: float = 20.0

    def delay(self, error: BaseException, retries: int, retry_after: float | None, clock: Clock) -> float | None:
        """Return the seconds to wait before the next attempt, or None where there is none.

        Parameters
        ----------
        error : Exception
            The error of the last attempt.
        retries : int
            Retries made so far.
        retry_after : float or None
            Seconds that the response asked for.
        clock : Clock
            Its randomness is used.
        """
        if retries >= self.max_retries or not is_transient(error):
            return None
        if retry_after is not None:
            return retry_after if retry_after <= self.max_wait else None
        # 2.0**64 is far above any `longest`, and keeps a large max_retries from overflowing.
        return clock.random() * min(self.longest, self.base * 2.0 ** min(retries, 64))


class RetryBudget:
    """Limit the retries of all requests of a client together, so that an outage is not met with a storm of retries.

    Each request adds ``share`` of a retry and each retry takes one; ``reserve`` retries are there from the start.

    Parameters
    ----------
    share : float or None
        Retries that each request adds; None for no limit beyond ``max_retries``.
    reserve : int
        Retries beyond the share.

    Notes
    -----
    The share bounds the load that retries add, and the reserve keeps a short job from failing after a few errors in
    a row. Not thread-safe: called in one event loop.

    Examples
    --------
    >>> budget = RetryBudget(0.5, reserve=1)
    >>> budget.request()
    >>> [budget.spend() for _ in range(3)]
    [True, False, False]
    """

    __slots__ = ("_failures_in_a_row", "_reserve", "_retries", "_share")

    def __init__(self, share: float | None, reserve: int) -> None:
        self._share = share
        self._reserve = reserve
        self._retries = float(reserve)
        self._failures_in_a_row = 0

    def request(self) -> None:
        """Count a request, which adds to the budget."""
        if self._share is not None:
            self._retries = min(self._retries + self._share, 2.0 * self._reserve)

    def spend(self) -> bool:
        """Take a retry; return False where none is left."""
        if self._share is None:
            return True
        if self._retries < 1.0:
            return False
        self._retries -= 1.0
        return True

    def record(self, *, success: bool) -> None:
        """Record the result of an attempt."""
        self._failures_in_a_row = 0 if success else self._failures_in_a_row + 1

    @property
    def is_outage(self) -> bool:
        """Whether no retry is left and as many attempts as the reserve have failed in a row."""
        return self._share is not None and self._retries < 1.0 and self._failures_in_a_row >= self._reserve
