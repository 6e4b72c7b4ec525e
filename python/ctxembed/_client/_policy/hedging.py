"""When a slow request is sent a second time."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["HedgingPolicy"]

_LATENCIES: Final = 64  # latest requests whose latencies are kept
_MIN_LATENCIES: Final = 8
_MAX_SAVED_HEDGES: Final = 10.0


class HedgingPolicy:
    """Decide when a request is slow enough to be sent a second time.

    A request is slow when its latency exceeds the ``1 - share`` quantile of the latest requests, and at least 1.5
    times their median.

    Parameters
    ----------
    share : float or None
        Share of the requests that may be sent twice; None for none.

    Examples
    --------
    >>> hedging = HedgingPolicy(0.1)
    >>> for seconds in [1.0] * 19 + [9.0]:
    ...     hedging.record(seconds)
    >>> hedging.delay()
    1.5
    """

    __slots__ = ("_hedges", "_latencies", "_share")

    def __init__(self, share: float | None) -> None:
        self._share = share
        self._hedges = 1.0
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)

    def record(self, seconds: float) -> None:
        """Record the latency of a request that succeeded."""
        if self._share is not None:
            self._latencies.append(seconds)
            self._hedges = min(self._hedges + self._share, _MAX_SAVED_HEDGES)

    def delay(self) -> float | None:
        """Return the seconds after which a request is slow, or None where it may not be sent again."""
        if self._share is None or self._hedges < 1.0 or len(self._latencies) < _MIN_LATENCIES:
            return None
        ranked = sorted(self._latencies)
        slow = ranked[min(len(ranked) - 1, int((1.0 - self._share) * len(ranked)))]
        median = ranked[len(ranked) // 2]
        return max(1.5 * median, min(slow, 4.0 * median))

    def spend(self) -> None:
        """Use one hedge."""
        self._hedges -= 1.0
