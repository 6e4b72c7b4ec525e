"""A rate limit as a leaky bucket with continuous refill."""

from __future__ import annotations

import math

__all__ = ["Bucket", "retry_after"]


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
        self._rate = per_minute / 60
        self._capacity = capacity
        self._level = capacity
        self._then: float | None = None

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


def retry_after(seconds: float) -> str:
    """Write a ``Retry-After``: whole seconds, never too few."""
    return str(max(1, math.ceil(seconds)))
