"""The pace that a shared limiter gave this process of late: what it keeps when the limiter is away."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["OwnPace"]

_ROUND_TRIP: Final = 0.05
"""Seconds. A shorter wait is the time that it takes to ask."""

_RECENT: Final = 10.0
_LATEST: Final = 32
"""Seconds, and starts, over which the pace is measured."""


class OwnPace:
    """The requests that this process started a second, while a limiter made them wait.

    Examples
    --------
    >>> pace = OwnPace()
    >>> for second in range(10):
    ...     pace.start(now=float(second), waited=0.5)
    >>> pace.last(now=9.5)  # starts a second, and the next start
    (1.0, 10.0)
    """

    __slots__ = ("_last_wait", "_starts")

    def __init__(self) -> None:
        self._starts: deque[float] = deque(maxlen=_LATEST + 1)
        self._last_wait = float("-inf")

    def start(self, now: float, waited: float) -> None:
        """Record a start which the limiter made wait for ``waited`` seconds."""
        self._starts.append(now)
        if waited > _ROUND_TRIP:
            self._last_wait = now

    def last(self, now: float | None = None) -> tuple[float, float] | None:
        """Return the starts a second of late, and when the next one would come at that pace.

        None where the limiter held nothing back. Without ``now`` it is asked about the latest start.
        """
        if now is None:
            now = self._starts[-1] if self._starts else 0.0
        recent = [at for at in self._starts if at > now - _RECENT]
        if len(recent) < 2 or self._last_wait < now - _RECENT:
            return None
        pace = (len(recent) - 1) / max(recent[-1] - recent[0], 0.1)
        return pace, recent[-1] + 1.0 / pace
