"""The pace that a shared limiter gave this process of late: what it keeps when the limiter is away."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["OwnPace"]

_ROUND_TRIP: Final = 0.05
"""Seconds. A shorter wait is the time that it takes to ask."""

_RECENT: Final = 10.0
"""Seconds over which the pace is measured."""


class OwnPace:
    """The requests that this process started a second, while a limiter made them wait.

    Examples
    --------
    >>> pace = OwnPace()
    >>> for second in range(10):
    ...     pace.start(now=float(second), waited=0.5)
    >>> pace.per_second(now=10.0)
    1.0
    """

    __slots__ = ("_last_wait", "_starts")

    def __init__(self) -> None:
        self._starts: deque[float] = deque(maxlen=4096)
        self._last_wait = float("-inf")

    def start(self, now: float, waited: float) -> None:
        """Record a start which the limiter made wait for ``waited`` seconds."""
        self._starts.append(now)
        if waited > _ROUND_TRIP:
            self._last_wait = now

    def per_second(self, now: float) -> float | None:
        """Return the pace of the last ten seconds, or None where the limiter held nothing back in them."""
        if self._last_wait < now - _RECENT:
            return None
        since = now - _RECENT
        if len(self._starts) == self._starts.maxlen:
            since = max(since, self._starts[0])
        count = sum(since < at <= now for at in self._starts)
        first = next((at for at in self._starts if at > since), now)
        # A process that has just begun is measured from its first start on, of which the interval is not known.
        return max(count, 1) / max(min(_RECENT, now - first), 1.0)
