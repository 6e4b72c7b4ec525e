"""When requests of one key to one host may start, shared by all clients of the process. It never waits."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from ctxembed._client._policy.learned_rate import LearnedRate, Refusal
from ctxembed._client._policy.rate_headers import parse_rate_headers

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

__all__ = ["Bucket", "RateLimiter", "RetryAfterScope", "shared_rate_limiter"]

_LATEST: Final = 16
"""Latest responses that decide whether a ``Retry-After`` means all requests."""


class Bucket:
    """A leaky bucket with continuous refill.

    A unit leaks every ``60 / per_minute`` seconds, and the bucket holds what leaks in one second, so that much may
    start at once after a pause. Any 60 seconds therefore start at most ``per_minute`` units and a second's worth, and
    at least one. A single start beyond that is allowed and followed by a longer wait (the generic cell rate algorithm,
    ITU-T I.371).

    Parameters
    ----------
    per_minute : float
        Units a minute.

    Examples
    --------
    >>> bucket = Bucket(120)
    >>> for _ in range(3):
    ...     start = bucket.earliest_start(now=100.0)
    ...     bucket.take(1, now=start)
    ...     print(start)
    100.0
    100.0
    100.5
    """

    __slots__ = ("_burst", "_empty_at", "_seconds_per_unit")

    def __init__(self, per_minute: float) -> None:
        self._seconds_per_unit = 60.0 / per_minute
        self._burst = max(0.0, 1.0 - self._seconds_per_unit)
        self._empty_at = float("-inf")

    def earliest_start(self, now: float) -> float:
        """Return when the next start may be."""
        return max(now, self._empty_at - self._burst)

    def take(self, units: float, now: float) -> None:
        """Start ``units``."""
        self._empty_at = max(now, self._empty_at) + units * self._seconds_per_unit

    def give_back(self, units: float) -> None:
        """Give units back that were taken and not used; negative: more were used than taken."""
        self._empty_at -= units * self._seconds_per_unit


class RetryAfterScope:
    """Whether a ``Retry-After`` means all requests of the key, or only the request that it was sent for.

    Requests that start after the refused one and complete before its ``Retry-After`` ends decide: a rate limiter that
    means all requests refuses these too. Where nearly all of them are accepted, the refusals either come at random, or
    the rate limiter allows many requests a second and can only name whole seconds.

    Attributes
    ----------
    one_request : bool
        Whether it means only the one request.
    unrelated_to_rate : bool
        Whether such refusals say nothing about a rate either.

    Examples
    --------
    >>> scope = RetryAfterScope()
    >>> scope.record_refusal(started=0.0, until=1.1)
    >>> for number in range(1, 9):
    ...     scope.record_response(started=number / 100, now=number / 100 + 0.1, accepted=True)
    >>> scope.one_request
    True
    """

    __slots__ = ("_count", "_refused_bits", "_started", "_until", "one_request", "unrelated_to_rate")

    def __init__(self) -> None:
        self._started = -math.inf  # of the latest refused request
        self._until = -math.inf
        self._refused_bits = 0  # the latest such responses, one bit each: refused or not
        self._count = 0
        self.one_request = self.unrelated_to_rate = False

    def record_refusal(self, started: float, until: float) -> None:
        """Record a refusal with a ``Retry-After`` of a request that started at ``started``."""
        self._started = max(started, self._started)
        self._until = max(until, self._until)

    def record_response(self, started: float, now: float, *, accepted: bool) -> None:
        """Record any response; a refusal, before :meth:`record_refusal`."""
        if started <= self._started or now > self._until:
            return
        self._refused_bits = ((self._refused_bits << 1) | (not accepted)) & ((1 << _LATEST) - 1)
        self._count = min(self._count + 1, _LATEST)
        refused = self._refused_bits.bit_count()
        if self.one_request:
            self.one_request = 3 * refused < self._count
        else:
            self.one_request = 2 * self._count >= _LATEST and 8 * refused <= self._count
        self.unrelated_to_rate = self.unrelated_to_rate and self.one_request

    def disprove_rate(self) -> None:
        """Record that refusals have another cause than a rate; from now on a third of the responses decides."""
        if not self.one_request:
            self._refused_bits, self._count = 0, _LATEST
        self.one_request = self.unrelated_to_rate = True


class RateLimiter:
    """Decide when requests of one key to one host may start.

    Notes
    -----
    Thread-safe: clients in several threads and event loops share one. It never waits
    itself: it returns the seconds to wait, after which the caller asks again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rate = LearnedRate()
        self._scope = RetryAfterScope()
        self._blocked_until = -math.inf
        self._remaining: dict[str, tuple[float, float]] = {}  # as the headers say: what remains, and until when
        self._buckets: dict[tuple[str, float], Bucket] = {}

    def bucket(self, kind: str, per_minute: float | None) -> Bucket | None:
        """Return the bucket of a limit that the caller set; clients that name the same limit share it."""
        if per_minute is None:
            return None
        with self._lock:
            return self._buckets.setdefault((kind, per_minute), Bucket(per_minute))

    def reserve(
        self,
        tokens: int,
        request_bucket: Bucket | None,
        token_bucket: Bucket | None,
        now: float,
        *,
        requests: int = 1,
        learned: bool = True,
    ) -> float:
        """Start requests of ``tokens`` in all and return 0, or return the seconds after which to ask again.

        Where a limiter of several processes keeps the learned rate, ``learned`` is False: the limits that the caller
        set, and what the API has said to this process, still hold.
        """
        with self._lock:
            start = self._earliest_start(tokens, request_bucket, token_bucket, now, learned=learned)
            if start > now:
                return start - now
            self._rate.start(now, requests)
            for kind, amount in (("requests", requests), ("tokens", tokens)):
                if kind in self._remaining:
                    remaining, until = self._remaining[kind]
                    self._remaining[kind] = remaining - amount, until
            if request_bucket is not None:
                request_bucket.take(requests, now)
            if token_bucket is not None:
                token_bucket.take(tokens, now)
            return 0.0

    def give_back(self, request_bucket: Bucket | None, now: float) -> None:
        """Give back a start that was not used."""
        with self._lock:
            self._rate.give_back(now)
            if request_bucket is not None:
                request_bucket.give_back(1)

    def assume(self, rate: float, now: float, first: float | None = None) -> None:
        """Take over a rate in requests a second. See :meth:`LearnedRate.assume`."""
        with self._lock:
            self._rate.assume(rate, now, first)

    def known_rate(self, now: float) -> float | None:
        """Return the learned rate in requests a second, or None while none is known."""
        with self._lock:
            rate = self._rate.per_second(now)
            return None if math.isinf(rate) else rate

    def delay(
        self,
        tokens: int,
        request_bucket: Bucket | None,
        token_bucket: Bucket | None,
        now: float,
        *,
        learned: bool = True,
    ) -> float:
        """Return the seconds after which a request of ``tokens`` may start, and start none."""
        with self._lock:
            return self._earliest_start(tokens, request_bucket, token_bucket, now, learned=learned) - now

    def settle(self, reserved: int, actual: int | None, token_bucket: Bucket | None) -> None:
        """Replace the tokens that were reserved by those that the API counted."""
        if token_bucket is not None and actual is not None:
            with self._lock:
                token_bucket.give_back(reserved - actual)

    def blocked(self, now: float, tokens: int = 0) -> float:
        """Return the seconds for which the API allows no request of ``tokens``."""
        with self._lock:
            return self._allowed_from(tokens, now) - now

    def accepted(self, started: float, now: float) -> None:
        """Record a response that is no refusal."""
        with self._lock:
            self._record_response(started, now, accepted=True)
            self._rate.accepted(now)

    def refused(
        self, started: float, now: float, retry_after: float | None = None, *, repeated: bool = False
    ) -> Refusal:
        """Record a 429 and return what it says about the rate.

        Parameters
        ----------
        started, now : float
            When the request started, and when it was refused.
        retry_after : float or None
            Seconds of its ``Retry-After``.
        repeated : bool
            Whether refusals came again and again, so that it is taken for a rate limiter's without a ``Retry-After``.
        """
        with self._lock:
            self._record_response(started, now, accepted=False)
            has_retry_after = (repeated or bool(retry_after)) and not self._scope.unrelated_to_rate
            doubted = self._scope.one_request
            refusal = self._rate.refused(started, now, has_retry_after=has_retry_after, doubted=doubted)
            if retry_after is not None:
                if refusal is Refusal.OTHER:
                    self._scope.disprove_rate()
                self._block(retry_after, started, now)
            # Where a Retry-After means one request only, refusals may have another cause than the rate.
            return Refusal.UNKNOWN if refusal is Refusal.RATE and self._scope.one_request else refusal

    def unavailable(self, retry_after: float, started: float, now: float) -> None:
        """Record a 503 with a ``Retry-After``: no request starts for that time, unless it means only one request."""
        with self._lock:
            self._record_response(started, now, accepted=False)
            self._block(retry_after, started, now)

    def update(self, headers: Mapping[str, str], now: float, wall: float) -> None:
        """Take over the ``x-ratelimit-*`` headers of a response."""
        found = parse_rate_headers(headers, wall)
        if found:
            with self._lock:
                for kind, (remaining, reset) in found.items():
                    self._remaining[kind] = remaining, now + reset

    def _earliest_start(
        self,
        tokens: int,
        request_bucket: Bucket | None,
        token_bucket: Bucket | None,
        now: float,
        *,
        learned: bool = True,
    ) -> float:
        start = self._allowed_from(tokens, now)
        if learned:
            start = max(start, self._rate.earliest_start(now))
        for bucket in (request_bucket, token_bucket):
            if bucket is not None:
                start = max(start, bucket.earliest_start(now))
        return start

    def _allowed_from(self, tokens: int, now: float) -> float:
        start = max(now, self._blocked_until)
        for kind, needed in (("requests", 1), ("tokens", tokens)):
            if kind in self._remaining:
                remaining, until = self._remaining[kind]
                if until <= now:
                    del self._remaining[kind]
                elif remaining < needed:
                    start = max(start, until)
        return start

    def _block(self, seconds: float, started: float, now: float) -> None:
        self._scope.record_refusal(started, now + seconds)
        if not self._scope.one_request:
            self._blocked_until = max(self._blocked_until, now + seconds)
            self._rate.pause(now, self._blocked_until)

    def _record_response(self, started: float, now: float, *, accepted: bool) -> None:
        self._scope.record_response(started, now, accepted=accepted)
        if self._scope.one_request and self._blocked_until > now:
            self._blocked_until = now
            self._rate.resume(now)


_LOCK: Final = threading.Lock()
_SHARED: Final[WeakValueDictionary[Hashable, RateLimiter]] = WeakValueDictionary()


def shared_rate_limiter(identity: Hashable) -> RateLimiter:
    """Return the rate limiter that all clients with this identity share, as long as one of them lives."""
    with _LOCK:
        limiter = _SHARED.get(identity)
        if limiter is None:
            limiter = _SHARED[identity] = RateLimiter()
        return limiter
