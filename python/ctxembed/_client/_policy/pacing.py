"""Decides when attempts may start. Only this module reacts to refusals and rate limits of the API."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ctxembed._client._policy.learned_rate import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctxembed._client._policy.clock import Clock
    from ctxembed._client._policy.concurrency import ConcurrencyLimiter
    from ctxembed._client._policy.rate_limiter import RateLimiter

__all__ = ["Pacing"]


class Pacing:
    """Limit the rate and the concurrency of a client's attempts.

    Each response is recorded once, and each refusal has one effect. A 429 is the rate limiter's where it can come from
    a rate; else, and for a 503, fewer requests are in flight. A ``Retry-After`` blocks all requests of the key, or
    delays only its own request where it was found to mean no other.

    Parameters
    ----------
    rate_limiter : RateLimiter
        Shared by the clients of one key and host.
    concurrency : ConcurrencyLimiter
        Shared by the client and its copies.
    requests_per_minute, tokens_per_minute : float or None
        Limits that the caller set.
    clock : Clock
        Time and sleep.
    """

    __slots__ = ("_clock", "_request_bucket", "_token_bucket", "concurrency", "rate_limiter")

    def __init__(
        self,
        rate_limiter: RateLimiter,
        concurrency: ConcurrencyLimiter,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        clock: Clock,
    ) -> None:
        self.rate_limiter = rate_limiter
        self.concurrency = concurrency
        self._request_bucket = rate_limiter.bucket("requests", requests_per_minute)
        self._token_bucket = rate_limiter.bucket("tokens", tokens_per_minute)
        self._clock = clock

    async def wait(self, tokens: int, until: float = math.inf, max_wait: float = math.inf) -> bool:
        """Wait until an attempt of ``tokens`` may start.

        Returns False at once where that would be after ``until``, or where the API blocks requests for more than
        ``max_wait`` seconds.
        """
        while (seconds := self._reserve(tokens)) > 0:
            if self._clock.monotonic() + seconds > until or self.blocked(tokens) > max_wait:
                return False
            await self._clock.sleep(seconds)
        return True

    def try_start(self, tokens: int) -> bool:
        """Start an attempt if it need not wait."""
        return self._reserve(tokens) == 0

    def delay(self, tokens: int) -> float:
        """Return the seconds after which an attempt of ``tokens`` may start, and start none."""
        now = self._clock.monotonic()
        return self.rate_limiter.delay(tokens, self._request_bucket, self._token_bucket, now)

    def blocked(self, tokens: int = 0) -> float:
        """Return the seconds for which the API allows no attempt of ``tokens``."""
        return self.rate_limiter.blocked(self._clock.monotonic(), tokens)

    def settle(self, reserved: int, actual: int | None) -> None:
        """Replace the tokens that were reserved by those that the API counted."""
        self.rate_limiter.settle(reserved, actual, self._token_bucket)

    def record(
        self, status: int, headers: Mapping[str, str], retry_after: float | None, started: float, ended: float
    ) -> None:
        """Record a response.

        Parameters
        ----------
        status : int
            HTTP status.
        headers : mapping of str to str
            Names in lower case.
        retry_after : float or None
            Seconds of its ``Retry-After``, if it is a refusal.
        started, ended : float
            Of the attempt, on the monotonic clock.
        """
        self.rate_limiter.update(headers, ended, self._clock.wall())
        if status == 429:
            if self.rate_limiter.refused(started, ended, retry_after) is not Refusal.RATE:
                self.concurrency.decrease(started, ended)
        elif status == 503:
            self.concurrency.decrease(started, ended)
            if retry_after is not None:
                self.rate_limiter.unavailable(retry_after, started, ended)
        elif status not in (502, 504):  # those two come from a gateway in front of the rate limiter
            self.rate_limiter.accepted(started, ended)

    def _reserve(self, tokens: int) -> float:
        now = self._clock.monotonic()
        return self.rate_limiter.reserve(tokens, self._request_bucket, self._token_bucket, now)
