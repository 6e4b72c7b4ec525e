"""The server's rate limits: leaky buckets with continuous refill, and the headers that report them."""

from __future__ import annotations

import math
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ctxembed._server.clock import Clock

__all__ = ["RETRY_AFTER_STYLES", "Bucket", "RateLimiter", "retry_after_date", "retry_after_seconds"]

RETRY_AFTER_STYLES: Final = ("seconds", "date", "none")
"""How a 429 gives the wait: whole seconds, an HTTP date, or not at all."""


class Bucket:
    """A leaky bucket: admits a steady rate, and bursts of up to ``capacity``.

    Parameters
    ----------
    per_minute : float
        Refill rate.
    capacity : float
        Largest level; the bucket starts full.

    Examples
    --------
    >>> bucket = Bucket(per_minute=60, capacity=1)
    >>> bucket.take(1, now=0.0), bucket.take(1, now=0.25), bucket.take(1, now=1.25)
    (0.0, 0.75, 0.0)
    """

    def __init__(self, per_minute: float, capacity: float) -> None:
        self.per_minute = per_minute
        self._rate = per_minute / 60
        self._capacity = capacity
        self._level = capacity
        self._updated: float | None = None

    @property
    def remaining(self) -> int:
        """Whole units in the bucket at the last ``take``."""
        return max(0, math.floor(self._level + 1e-9))

    @property
    def reset(self) -> float:
        """Seconds from the last ``take`` until the bucket is full."""
        return (self._capacity - self._level) / self._rate

    def take(self, amount: float, now: float) -> float:
        """Take ``amount``, or return how long to wait for it.

        Parameters
        ----------
        amount : float
            An amount above the capacity is admitted when the bucket is full, and leaves it in debt.
        now : float
            Seconds on a monotonic clock.

        Returns
        -------
        float
            0 if the amount was taken, else the seconds to wait.
        """
        if self._updated is not None:
            self._level = min(self._capacity, self._level + (now - self._updated) * self._rate)
        self._updated = now
        missing = min(amount, self._capacity) - self._level
        if missing > 1e-9:
            return missing / self._rate
        self._level -= amount
        return 0.0


class RateLimiter:
    """The buckets for requests and tokens, and the headers that report them.

    Parameters
    ----------
    requests_per_minute, tokens_per_minute : float or None
        None for no limit.
    burst : int
        Capacity of the request bucket. The token bucket holds one minute's tokens.
    style : {"seconds", "date", "none"}
        How a 429 gives the wait.
    headers : bool
        Whether every response reports the state of the buckets.
    clock : Clock
        Gives the time.
    """

    def __init__(
        self,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        *,
        burst: int,
        style: str,
        headers: bool,
        clock: Clock,
    ) -> None:
        self._buckets: dict[str, Bucket] = {}
        if requests_per_minute is not None:
            self._buckets["requests"] = Bucket(requests_per_minute, burst)
        if tokens_per_minute is not None:
            self._buckets["tokens"] = Bucket(tokens_per_minute, tokens_per_minute)
        self._style = style
        self._headers = headers
        self._clock = clock

    def limits(self, kind: str) -> bool:
        """Whether ``"requests"`` or ``"tokens"`` are limited."""
        return kind in self._buckets

    def admit(self, kind: str, amount: float) -> dict[str, str] | None:
        """Take from a bucket; return None on success, else the headers of the 429.

        Parameters
        ----------
        kind : {"requests", "tokens"}
            The bucket. A kind without a limit always succeeds.
        amount : float
            How much to take.
        """
        bucket = self._buckets.get(kind)
        wait = 0.0 if bucket is None else bucket.take(amount, self._clock.monotonic())
        if wait <= 0:
            return None
        if self._style == "none":
            return {}
        if self._style == "date":
            return {"retry-after": retry_after_date(wait, self._clock.wall())}
        return {"retry-after": retry_after_seconds(wait)}

    def headers(self) -> dict[str, str]:
        """Return the ``x-ratelimit-*`` headers of every response."""
        headers: dict[str, str] = {}
        if self._headers:
            for kind, bucket in self._buckets.items():
                headers[f"x-ratelimit-limit-{kind}"] = f"{bucket.per_minute:.0f}"
                headers[f"x-ratelimit-remaining-{kind}"] = str(bucket.remaining)
                headers[f"x-ratelimit-reset-{kind}"] = f"{bucket.reset:.3f}s"
        return headers


def retry_after_seconds(seconds: float) -> str:
    """Format a ``Retry-After`` in whole seconds, rounded up."""
    return str(max(1, math.ceil(seconds)))


def retry_after_date(seconds: float, now: float) -> str:
    """Format a ``Retry-After`` as an HTTP date, rounded up.

    Examples
    --------
    >>> retry_after_date(1.5, now=0.0)
    'Thu, 01 Jan 1970 00:00:02 GMT'
    """
    return formatdate(math.ceil(now + seconds), usegmt=True)
