"""The rate of a server's rate limiter, learned from its refusals."""

from __future__ import annotations

import enum
import math
from collections import deque
from typing import Final

__all__ = ["LearnedRate", "Refusal"]

_CYCLE: Final = 20.0
"""Seconds after which a learned rate is back at the rate that was refused. Shorter cycles are refused more often."""

_CYCLE_REQUESTS: Final = 80
"""Requests of a cycle, where these take longer than ``_CYCLE``."""

_DECREASE: Final = 0.95
_LARGE_DECREASE: Final = 0.8
"""Shares of the rate that remain after a refusal; the lower one where the refusal before was recent."""

_CONFIDENT_COUNT: Final = 100
_LOW_CONFIDENCE: Final = 0.25
"""A rate that was found from fewer than 100 requests is tested sooner, after a share of the cycle: those in flight
are not counted, and a rate that is too low would stay for long. Not where a test may cost a pause."""

_RECENT: Final = 10.0
"""Seconds over which the accepted rate is measured."""

_PROOF_REQUESTS: Final = 20
_PROOF_MEMORY: Final = 0.98
_DISPROOF: Final = 0.6
"""A rate is proven by 20 requests accepted between two refusals. Each later proof keeps 98% of the highest one.
Refusals at less than 60% of a proven rate show that they do not come from a rate limiter."""

_LATEST: Final = 16
"""Latest responses among which refusals are counted."""


class Refusal(enum.Enum):
    """What a 429 says about a rate."""

    RATE = enum.auto()
    """It comes from a rate limiter, which was learned from it."""
    UNKNOWN = enum.auto()
    """It may come from a rate limiter or not: nothing was learned."""
    OTHER = enum.auto()
    """Refusals have shown another cause than a rate: what was learned is forgotten."""


class LearnedRate:
    """The rate of a rate limiter, learned from its refusals.

    A leaky bucket is empty whenever it refuses. The requests that it accepted since the refusal before, divided by
    the time since, are therefore the rate at which it refills, whatever its size. The learned rate starts below that
    and rises in the shape of CUBIC (RFC 9438): fast at first, flat near the refused rate, then faster and faster until
    the next refusal.

    Notes
    -----
    A refusal counts as a rate limiter's when it carries a ``Retry-After``, or when a third of the latest responses are
    refusals: a rare 429 without one must not slow everything down. Should another cause be mistaken for a rate limiter,
    refusals that continue far below the learned rate show it, and the rate is forgotten.

    Examples
    --------
    >>> rate = LearnedRate()
    >>> rate.refused(started=0.0, now=0.0, has_retry_after=True)
    <Refusal.RATE: 1>
    >>> for second in range(1, 10):
    ...     rate.accepted(now=float(second))
    >>> rate.refused(started=9.5, now=10.0, has_retry_after=True)
    <Refusal.RATE: 1>
    >>> round(rate.per_second(10.0), 3)  # nine in ten seconds, and a little below
    0.855
    """

    __slots__ = (
        "_accepted",
        "_accepted_since",
        "_cycle",
        "_last_refusal",
        "_next_start",
        "_pause",
        "_proof_start",
        "_proven",
        "_refused_rate",
        "_responses",
    )

    def __init__(self) -> None:
        self._refused_rate = math.inf  # requests a second that were too many
        self._cycle = _CYCLE
        self._last_refusal = -math.inf
        self._proof_start = -math.inf  # an earlier refusal
        self._accepted_since = 0  # requests accepted since then
        self._proven = 0.0  # the highest rate accepted between two refusals
        self._next_start = -math.inf
        self._accepted: deque[float] = deque(maxlen=256)  # times
        self._responses = 0  # the latest, one bit each: refused or not
        self._pause = (-math.inf, -math.inf)  # the last time that a refusal paused all requests

    def per_second(self, now: float) -> float:
        """Return the requests that may start a second; infinite while no rate is known."""
        if math.isinf(self._refused_rate):
            return self._refused_rate
        x = min(1e2, max(0.0, now - self._last_refusal) / self._cycle)
        if x < 1.0:
            return self._refused_rate * (1.0 - (1.0 - _DECREASE) * (1.0 - x) ** 3)
        return self._refused_rate * (1.0 + 0.05 * (x - 1.0) + max(0.0, x - 1.5) ** 3)

    def earliest_start(self, now: float) -> float:
        """Return when the next request may start."""
        return self._next_start if self._refused_rate < math.inf else now

    def start(self, now: float, requests: int = 1) -> None:
        """Record the start of requests. A late start lets the next one start early."""
        rate = self.per_second(now)
        if rate < math.inf:
            interval = 1.0 / rate
            self._next_start = max(self._next_start, now - interval) + requests * interval

    def give_back(self, now: float) -> None:
        """Forget a start that was not used."""
        rate = self.per_second(now)
        if rate < math.inf:
            self._next_start = max(min(now, self._next_start), self._next_start - 1.0 / rate)

    def assume(self, rate: float, now: float, first: float | None = None) -> None:
        """Take over a rate that was found elsewhere, a little lower.

        With ``first`` it is that of the requests which were recorded here: they count at the next refusal, and none
        starts before ``first``. Without it nothing was recorded here.
        """
        self._refused_rate = _DECREASE * rate
        self._cycle = 0.5 * max(_CYCLE, _CYCLE_REQUESTS / rate)  # it is tested soon
        self._last_refusal = now if first is None else now - _RECENT
        self._next_start = max(self._next_start, now if first is None else first)

    def pause(self, now: float, until: float) -> None:
        """Start nothing before ``until``, and catch up with nothing after it: a small bucket is full soon."""
        since, end = self._pause
        self._pause = (since if now <= end else now), until
        self._next_start = max(self._next_start, until)

    def resume(self, now: float) -> None:
        """End a pause early."""
        since, end = self._pause
        if now < end:
            self._pause = since, now
            self._next_start = now + 1.0 / self.per_second(now)

    def accepted(self, now: float) -> None:
        """Record a response that is no refusal."""
        self._responses = (self._responses << 1) & ((1 << _LATEST) - 1)
        self._accepted.append(now)
        self._accepted_since += 1

    def refused(self, started: float, now: float, *, has_retry_after: bool, doubted: bool = False) -> Refusal:
        """Record a refusal.

        Parameters
        ----------
        started, now : float
            When the request started, and when it was refused.
        has_retry_after : bool
            Whether the refusal carries a ``Retry-After``.
        doubted : bool
            Whether requests were accepted in spite of earlier ``Retry-After``.

        Returns
        -------
        Refusal
            What the refusal says about the rate.
        """
        self._responses = ((self._responses << 1) | 1) & ((1 << _LATEST) - 1)
        if started < self._last_refusal:
            return Refusal.RATE  # it was in flight at the last refusal, which it repeats
        known = self._refused_rate < math.inf
        if not (known or has_retry_after or 3 * self._responses.bit_count() >= _LATEST):
            return Refusal.UNKNOWN
        rate, before, self._last_refusal = self.per_second(now), self._last_refusal, now
        if math.isinf(before) or now <= before:
            return Refusal.RATE  # the bucket's level before is unknown: the next refusal shows the rate
        accepted_rate, count = self._accepted_rate(before, now)
        confidence = 1.0
        if not known:
            # A small count is off by as much as one.
            self._refused_rate, confidence = accepted_rate, min(_LOW_CONFIDENCE, (count + 1) / 50)
        elif now - before < 0.3 * self._cycle:
            # The last decrease was too small. A few requests in a short time are no proof of a higher rate.
            most = math.inf if count >= _PROOF_REQUESTS // 2 else rate
            self._refused_rate = min(most, max(accepted_rate, _LARGE_DECREASE * rate))
            if self._pause[1] <= before:
                confidence = min(1.0, max(_LOW_CONFIDENCE, (count + 1) / _CONFIDENT_COUNT))
        elif accepted_rate > 0.8 * rate:
            self._refused_rate = min(rate, accepted_rate)
        else:
            self._refused_rate = math.sqrt(accepted_rate * rate)  # it rose fast, maybe far too far
            confidence = _LOW_CONFIDENCE
        # A refusal with a Retry-After is a rate limiter's unless much speaks against it.
        if self._is_disproved(now, _DISPROOF / 2 if has_retry_after and not doubted else _DISPROOF):
            self._refused_rate, self._proven, self._responses = math.inf, 0.0, 0
            return Refusal.OTHER
        # A rate learned from few requests is tested again soon.
        self._cycle = confidence * max(_CYCLE, _CYCLE_REQUESTS / self._refused_rate)
        self._next_start = now + 1.0 / self.per_second(now)
        return Refusal.RATE

    def _is_disproved(self, now: float, share: float) -> bool:
        """Return whether sparse refusals continue at less than ``share`` of a proven rate.

        A bucket that was empty at one refusal refills at the rate that it accepts until the next. It would accept all
        requests at a lower rate; had it become slower, the refusals would be many.
        """
        if math.isinf(self._proof_start) or self._accepted_since >= _PROOF_REQUESTS:
            self._proven = max(self._proven * _PROOF_MEMORY, (self._accepted_since - 1) / (now - self._proof_start))
            self._proof_start, self._accepted_since = now, 0
        return 4 * self._responses.bit_count() <= _LATEST and self._refused_rate < share * self._proven

    def _accepted_rate(self, before: float, now: float) -> tuple[float, int]:
        """Return the requests accepted a second, of late or since the refusal before, and their number."""
        since = max(before, now - _RECENT)
        if len(self._accepted) == self._accepted.maxlen:
            since = max(since, self._accepted[0])
        count = sum(at > since for at in self._accepted)
        if count < 5 and since > before:  # a slow rate: use all requests since the refusal before
            since, count = before, sum(at > before for at in self._accepted)
        # In a pause a large bucket refills for what it accepts afterwards, while a small one is full soon. The size is
        # unknown: the geometric mean of both rates is 2% off either for a pause of 1 second 20 seconds ago.
        paused, end = self._pause
        seconds = max(now - since, 1e-3)
        active = max(seconds - max(0.0, min(now, end) - max(since, paused)), 1e-3)
        return max(count, 0.5) / math.sqrt(seconds * active), count
