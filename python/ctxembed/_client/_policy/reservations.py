"""The starts of requests of several processes, in one order: what a shared limiter computes. It never waits."""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ctxembed._client._policy.rate_headers import LONGEST_WAIT
from ctxembed._client._policy.rate_limiter import RateLimiter

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["OUTCOMES", "Ending", "Grant", "Reservations"]

OUTCOMES: Final = ("accepted", "refused", "unavailable", "failed", "unused")
"""How a reserved request can end. See :class:`ctxembed.Limiter`."""

_LONG_BLOCK: Final = 10.0
"""Seconds. While the API allows nothing for longer than that, a caller is told so at once."""

_FIRST_WINDOW: Final = 4.0
"""Requests in flight before the first was accepted."""

_INCREASE: Final = 0.1
_DECREASE: Final = 0.7
"""How the requests in flight grow with each that is accepted, and what remains of them after a refusal."""

_RETURN: Final = 10.0
"""Seconds in which processes come back to a limiter that was away. They ask every five."""

_DECREASES: Final = 3
"""Refusals that each made the window smaller, after which they are taken for those of a rate."""

_PATIENCE: Final = 10.0
"""Seconds after which another request starts although the window is full: a holder may have settled nothing."""

_MOST: Final = 2**53


class Grant(NamedTuple):
    """A place in the order that has come to its start."""

    ticket: Any
    seconds: float


class Ending(NamedTuple):
    """How a request ended: the arguments of :meth:`ctxembed.Limiter.settle`."""

    outcome: str
    age: float
    retry_after: float | None = None
    actual_tokens: int | None = None


class _Request(NamedTuple):
    """A place in the order."""

    holder: Hashable
    requests: int
    tokens: int
    ticket: Any


class _SlowStart:
    """Limit the requests in flight while no rate is known, as TCP's slow start does.

    One more for each that is accepted, and after the first refusal a tenth. Else all processes would send all that they
    may at once, and most of it would be refused.
    """

    __slots__ = ("_decreases", "_last_decrease", "_last_start", "_window")

    def __init__(self) -> None:
        self._window = _FIRST_WINDOW
        self._decreases = 0
        self._last_start = self._last_decrease = -math.inf

    def seconds(self, in_flight: int, now: float) -> float:
        """Return the seconds after which the next may start, unless a response lets it start before."""
        return 0.0 if in_flight < self._window else max(0.0, self._last_start + _PATIENCE - now)

    def start(self, now: float) -> None:
        self._last_start = now

    def accepted(self) -> None:
        self._window += 1.0 if math.isinf(self._last_decrease) else _INCREASE

    def refused(self, started: float, now: float) -> None:
        """Make the window smaller, once for all requests that were in flight together."""
        if started > self._last_decrease:
            # At the first refusal as many were in flight as were known to be too many.
            share = 0.5 if math.isinf(self._last_decrease) else _DECREASE
            self._last_decrease = now
            self._decreases += 1
            self._window = max(1.0, share * self._window)

    @property
    def is_refused_repeatedly(self) -> bool:
        """Whether refusals have come again and again. A few of each hundred can go on for ever, with a small window."""
        return self._decreases >= _DECREASES


class _Holder:
    """The requests of one process that were granted and are not settled."""

    __slots__ = ("count", "tokens")

    def __init__(self) -> None:
        self.count = 0
        self.tokens = 0.0

    def settle(self) -> float | None:
        """Remove one request, and return the tokens that it stands for; None where there is none."""
        if not self.count:
            return None
        share = self.tokens / self.count
        self.count -= 1
        self.tokens -= share
        return share


class Reservations:
    """Decide when requests of one API key may start, in the order in which processes ask.

    Which one a request settles is not said: it settles the mean of its holder's, and when all are settled every token
    has been counted once.

    Parameters
    ----------
    requests_per_minute, tokens_per_minute : float or None
        Limits that are known.
    slow_start : bool
        Whether few requests are in flight before a rate is known. It needs :meth:`grant` after each :meth:`settle`.

    Notes
    -----
    Thread-safe. All times are the caller's monotonic clock.

    Examples
    --------
    >>> reservations = Reservations(requests_per_minute=120)
    >>> for name in "abc":
    ...     reservations.ask("a process", 1, 0, ticket=name)
    >>> reservations.grant(now=10.0)
    ([Grant(ticket='a', seconds=0.0), Grant(ticket='b', seconds=0.0)], 0.5)
    >>> reservations.grant(now=10.5)
    ([Grant(ticket='c', seconds=0.0)], None)
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        slow_start: bool = True,
    ) -> None:
        self._limiter = RateLimiter()
        self._request_bucket = self._limiter.bucket("requests", requests_per_minute)
        self._token_bucket = self._limiter.bucket("tokens", tokens_per_minute)
        self._holders: dict[Hashable, _Holder] = {}
        self._waiting: deque[_Request] = deque()
        self._in_flight = 0
        self._paces = 0.0
        self._paces_until: float | None = None
        self._slow_start = _SlowStart() if slow_start else None
        self._lock = threading.Lock()

    def ask(self, holder: Hashable, requests: int, tokens: int, ticket: Any) -> None:
        """Take a place in the order.

        Raises
        ------
        ValueError
            ``requests`` is no int from 1, or ``tokens`` no int from 0.
        """
        _check_count("requests", requests, 1)
        _check_count("tokens", tokens, 0)
        with self._lock:
            self._waiting.append(_Request(holder, requests, tokens, ticket))

    def grant(self, now: float) -> tuple[list[Grant], float | None]:
        """Return the places whose requests may start, and the seconds after which to ask again; None if all may."""
        granted: list[Grant] = []
        with self._lock:
            while self._waiting:
                first = self._waiting[0]
                may_start, seconds = self._try(first.holder, first.requests, first.tokens, now)
                if not may_start:
                    return granted, seconds
                self._waiting.popleft()
                granted.append(Grant(first.ticket, seconds))
        return granted, None

    def try_start(self, holder: Hashable, requests: int, tokens: int, now: float) -> tuple[bool, float]:
        """Return whether requests may start, and the seconds until then, or after which to ask again.

        Raises
        ------
        ValueError
            ``requests`` is no int from 1, or ``tokens`` no int from 0.
        """
        _check_count("requests", requests, 1)
        _check_count("tokens", tokens, 0)
        with self._lock:
            return self._try(holder, requests, tokens, now)

    def _try(self, holder: Hashable, requests: int, tokens: int, now: float) -> tuple[bool, float]:
        limiter = self._limiter
        seconds = 0.0
        if self._slow_start is not None and limiter.known_rate(now) is None:
            seconds = self._slow_start.seconds(self._in_flight, now)
        if seconds == 0:
            seconds = limiter.reserve(tokens, self._request_bucket, self._token_bucket, now, requests=requests)
        if seconds > 0 and limiter.blocked(now) < _LONG_BLOCK:
            return False, seconds
        if self._slow_start is not None:
            self._slow_start.start(now)
        self._in_flight += requests
        found = self._holders.setdefault(holder, _Holder())
        found.count += requests
        found.tokens += tokens
        return True, seconds

    def cancel(self, ticket: Any) -> bool:
        """Give up a place in the order; return whether it was still waiting."""
        with self._lock:
            before = len(self._waiting)
            self._waiting = deque(request for request in self._waiting if request.ticket != ticket)
            return len(self._waiting) < before

    def settle(self, holder: Hashable, ending: Ending, now: float) -> None:
        """Record how one request ended.

        Raises
        ------
        ValueError
            The outcome is none of ``OUTCOMES``, or a number is negative, not finite or no number.
        """
        outcome, age, retry_after, actual_tokens = ending
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}, got {outcome!r:.80}")
        started = now - _check_seconds("age", age)
        wait = None if retry_after is None else min(_check_seconds("retry_after", retry_after), LONGEST_WAIT)
        if actual_tokens is not None:
            _check_count("actual_tokens", actual_tokens, 0)
        with self._lock:
            found = self._holders.get(holder)
            reserved = None if found is None else found.settle()
            self._in_flight -= reserved is not None
            if reserved is not None and self._token_bucket is not None:
                used = 0.0 if outcome == "unused" else reserved if actual_tokens is None else actual_tokens
                self._token_bucket.give_back(reserved - used)
            if outcome == "unused":
                if reserved is not None:
                    self._limiter.give_back(self._request_bucket, now)
            elif outcome == "accepted":
                self._limiter.accepted(started, now)
                if self._slow_start is not None:
                    self._slow_start.accepted()
            elif outcome == "refused":
                repeated = False
                if self._slow_start is not None:
                    self._slow_start.refused(started, now)
                    repeated = self._slow_start.is_refused_repeatedly
                self._limiter.refused(started, now, wait, repeated=repeated)
            elif outcome == "unavailable" and wait is not None:
                self._limiter.unavailable(wait, started, now)

    def release(self, holder: Hashable) -> None:
        """Forget a holder that has gone, and its places in the order."""
        with self._lock:
            found = self._holders.pop(holder, None)
            self._in_flight -= 0 if found is None else found.count
            self._waiting = deque(request for request in self._waiting if request.holder != holder)

    def add_pace(self, pace: float, now: float) -> None:
        """Add the pace of a process that another limiter had served before it ended.

        What the processes had together is what the API allowed. Each adds its own part when it comes, so that those
        which come later have theirs until then.

        Raises
        ------
        ValueError
            It is no number above 0.
        """
        if _check_seconds("pace", pace) <= 0:
            raise ValueError(f"pace must be above 0, got {pace!r:.80}")
        with self._lock:
            if self._paces_until is None:
                is_new = self._limiter.known_rate(now) is None
                self._paces_until = now + _RETURN if is_new else now
            if now < self._paces_until:
                self._paces += pace
                self._limiter.assume(self._paces, now)


def _check_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _MOST:
        raise ValueError(f"{name} must be an int from {least}, got {value!r:.80}")


def _check_seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number from 0, got {value!r:.80}")
    return float(value)
