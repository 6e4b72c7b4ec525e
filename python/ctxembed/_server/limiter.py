"""Rate limits as leaky buckets with continuous refill, and what a 429 says about them."""

from __future__ import annotations

import math
from email.utils import formatdate
from typing import Final

__all__ = ["RETRY_AFTER_STYLES", "Bucket", "Limiter", "retry_after"]

RETRY_AFTER_STYLES: Final = ("seconds", "date", "none")
"""How a refusal names the wait: whole seconds, an HTTP date, or not at all."""


class Bucket:
    """Admits so much a minute, and up to ``capacity`` at once.

    Parameters
    ----------
    per_minute : float
        What flows in.
    capacity : float
        What the bucket holds; it starts full.

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
        self._then: float | None = None

    @property
    def remaining(self) -> int:
        """Whole units that the bucket held when it was last asked."""
        return max(0, math.floor(self._level + 1e-9))

    @property
    def reset(self) -> float:
        """Seconds until the bucket is full again, from when it was last asked."""
        return (self._capacity - self._level) / self._rate

    def take(self, amount: float, now: float) -> float:
        """Take ``amount`` at time ``now``, or say in how many seconds it will be there.

        Parameters
        ----------
        amount : float
            More than the capacity is admitted when the bucket is full, and leaves it in debt.
        now : float
            Seconds on a clock that does not go back.

        Returns
        -------
        float
            0 when it was taken, else seconds to wait.
        """
        if self._then is not None:
            self._level = min(self._capacity, self._level + (now - self._then) * self._rate)
        self._then = now
        missing = min(amount, self._capacity) - self._level
        if missing > 1e-9:
            return missing / self._rate
        self._level -= amount
        return 0.0


class Limiter:
    """The buckets of requests and of tokens, and the headers that tell of them.

    Parameters
    ----------
    requests_per_minute, tokens_per_minute : float or None
        None is no limit.
    burst : int
        Requests at once; the token bucket holds one minute's.
    style : {"seconds", "date", "none"}
        How a refusal names the wait.
    headers : bool
        Whether every answer tells where the buckets stand.
    """

    def __init__(
        self,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        *,
        burst: int,
        style: str = "seconds",
        headers: bool = False,
    ) -> None:
        self._buckets: dict[str, Bucket] = {}
        if requests_per_minute is not None:
            self._buckets["requests"] = Bucket(requests_per_minute, burst)
        if tokens_per_minute is not None:
            self._buckets["tokens"] = Bucket(tokens_per_minute, tokens_per_minute)
        self._style = style
        self._headers = headers

    def limits(self, kind: str) -> bool:
        """Whether there is a bucket of ``"requests"`` or ``"tokens"``."""
        return kind in self._buckets

    def admit(self, kind: str, amount: float, now: float, date: float) -> dict[str, str] | None:
        """Take from a bucket; None where it was taken, else the headers of the refusal.

        Parameters
        ----------
        kind : {"requests", "tokens"}
            Which bucket; one that there is not admits everything.
        amount : float
            How much.
        now, date : float
            Seconds on a clock that does not go back, and since 1970.
        """
        bucket = self._buckets.get(kind)
        wait = 0.0 if bucket is None else bucket.take(amount, now)
        if wait <= 0:
            return None
        if self._style == "none":
            return {}
        return {"retry-after": retry_after(wait) if self._style == "seconds" else retry_date(wait, date)}

    def headers(self) -> dict[str, str]:
        """Return what every answer tells."""
        told: dict[str, str] = {}
        if self._headers:
            for kind, bucket in self._buckets.items():
                told[f"x-ratelimit-limit-{kind}"] = f"{bucket.per_minute:.0f}"
                told[f"x-ratelimit-remaining-{kind}"] = str(bucket.remaining)
                told[f"x-ratelimit-reset-{kind}"] = f"{bucket.reset:.3f}s"
        return told


def retry_after(seconds: float) -> str:
    """Write a ``Retry-After``: whole seconds, never too few."""
    return str(max(1, math.ceil(seconds)))


def retry_date(seconds: float, now: float) -> str:
    """Write a ``Retry-After`` as an HTTP date, never too early.

    Examples
    --------
    >>> retry_date(1.5, 0.0)
    'Thu, 01 Jan 1970 00:00:02 GMT'
    """
    return formatdate(math.ceil(now + seconds), usegmt=True)
