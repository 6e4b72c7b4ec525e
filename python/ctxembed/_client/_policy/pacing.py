"""Decides when attempts may start. Only this module reacts to refusals and rate limits of the API."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio

from ctxembed._client._policy.learned_rate import Refusal
from ctxembed._client._runtime import current_event_loop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctxembed._client._policy.clock import Clock
    from ctxembed._client._policy.concurrency import ConcurrencyLimiter
    from ctxembed._client._policy.rate_limiter import RateLimiter
    from ctxembed._client._policy.shared_limiter import SharedLimiter

__all__ = ["Blocked", "Pacing", "Start"]

_NO_WAIT: Final = 0.05
"""Seconds that a limiter has to say that a request may start at once."""


class Start(NamedTuple):
    """An attempt may start."""

    reserved: bool
    """Whether a shared limiter counts it, and is to be told how it ends."""


class Blocked(NamedTuple):
    """An attempt may not start in time."""

    seconds: float
    """For which no attempt may start."""


ALONE: Final = Start(reserved=False)
RESERVED: Final = Start(reserved=True)


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
    shared : SharedLimiter or None
        Grants the starts of several processes, in place of the learned rate. Of a client one attempt asks at a time, so
        that starts are not handed out long before their time.
    """

    __slots__ = (
        "_clock",
        "_request_bucket",
        "_shared",
        "_token_bucket",
        "_turn",
        "_turn_loop",
        "concurrency",
        "rate_limiter",
    )

    def __init__(
        self,
        rate_limiter: RateLimiter,
        concurrency: ConcurrencyLimiter,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        clock: Clock,
        *,
        shared: SharedLimiter | None = None,
    ) -> None:
        self.rate_limiter = rate_limiter
        self.concurrency = concurrency
        self._request_bucket = rate_limiter.bucket("requests", requests_per_minute)
        self._token_bucket = rate_limiter.bucket("tokens", tokens_per_minute)
        self._clock = clock
        self._shared = shared
        self._turn_loop: object = None
        self._turn: anyio.Lock | None = None

    async def wait(self, tokens: int, until: float = math.inf, max_wait: float = math.inf) -> Start | Blocked:
        """Wait until an attempt of ``tokens`` may start.

        Returns :class:`Blocked` at once where that would be after ``until``, or where no attempt may start for more
        than ``max_wait`` seconds.
        """
        shared = self._shared
        if shared is None:
            return await self._wait_alone(tokens, until, max_wait)
        with anyio.move_on_after(None if math.isinf(until) else max(0.0, until - self._clock.monotonic())):
            if not shared.is_away:
                async with self._turn_of_loop():
                    if not shared.is_away:
                        return await self._wait_shared(shared, tokens, until, max_wait)
            # Without a turn: the attempt that asks whether a limiter is back, which may hang, holds up no other.
            return await self._wait_shared(shared, tokens, until, max_wait)
        return Blocked(0.0)

    async def _wait_shared(self, shared: SharedLimiter, tokens: int, until: float, max_wait: float) -> Start | Blocked:
        began = self._clock.monotonic()
        while True:
            # What the API told this process, and the caller's limits, come first: a granted start is used at once.
            while (seconds := self.delay(tokens)) > 0:
                if self._is_too_late(seconds, tokens, until, max_wait):
                    return Blocked(self.blocked(tokens))
                await self._clock.sleep(seconds)
            granted = await shared.reserve(tokens, self._clock)
            if granted is None:
                caution = shared.take_caution()
                if caution is not None:
                    pace, first = caution
                    self.rate_limiter.assume(pace, self._clock.monotonic(), first)
                start = await self._wait_alone(tokens, until, max_wait)
                shared.record_start(self._clock.monotonic(), 0.0)
                return start
            too_long = granted > max_wait or self._clock.monotonic() + granted > until
            try:
                if granted > 0 and not too_long:
                    await self._clock.sleep(granted)
            except BaseException as error:
                await self.end(RESERVED, "unused", 0.0, error=error)
                raise
            if not too_long and self._reserve(tokens, learned=False) == 0:
                now = self._clock.monotonic()
                shared.record_start(now, now - began)
                return RESERVED
            await self.end(RESERVED, "unused", 0.0)
            if too_long:
                return Blocked(granted)

    async def _wait_alone(self, tokens: int, until: float, max_wait: float) -> Start | Blocked:
        while (seconds := self._reserve(tokens)) > 0:
            if self._is_too_late(seconds, tokens, until, max_wait):
                return Blocked(self.blocked(tokens))
            await self._clock.sleep(seconds)
        return ALONE

    def _is_too_late(self, seconds: float, tokens: int, until: float, max_wait: float) -> bool:
        return self._clock.monotonic() + seconds > until or self.blocked(tokens) > max_wait

    async def try_start(self, tokens: int) -> Start | None:
        """Start an attempt if it need not wait."""
        shared = self._shared
        if shared is None or shared.is_away:
            return ALONE if self._reserve(tokens) == 0 else None
        turn = self._turn_of_loop()
        if turn.locked():
            return None
        async with turn:
            seconds = await shared.reserve(tokens, self._clock, patience=_NO_WAIT)
        if seconds is None:
            return ALONE if self._reserve(tokens) == 0 else None
        if seconds == 0 and self._reserve(tokens, learned=False) == 0:
            return RESERVED
        if seconds < math.inf:
            await self.end(RESERVED, "unused", 0.0)
        return None

    async def end(
        self,
        start: Start,
        outcome: str,
        age: float,
        retry_after: float | None = None,
        actual_tokens: int | None = None,
        *,
        error: BaseException | None = None,
    ) -> None:
        """Tell the shared limiter how an attempt ended that began ``age`` seconds ago."""
        # In a coroutine that is closed nothing can be waited for.
        if self._shared is not None and start.reserved and not isinstance(error, GeneratorExit):
            await self._shared.settle(outcome, age, retry_after, actual_tokens)

    async def turn(self) -> None:
        """Wait until no attempt of this client waits for the shared limiter, if there is one."""
        if self._shared is not None:
            async with self._turn_of_loop():
                pass

    def _turn_of_loop(self) -> anyio.Lock:
        loop = current_event_loop()
        if self._turn is None or loop != self._turn_loop:  # another event loop: tasks that waited in the last are gone
            self._turn_loop, self._turn = loop, anyio.Lock()
        return self._turn

    def delay(self, tokens: int) -> float:
        """Return the seconds after which an attempt of ``tokens`` may start, and start none.

        A shared limiter, which may delay it further, is not asked.
        """
        now = self._clock.monotonic()
        learned = self._shared is None
        return self.rate_limiter.delay(tokens, self._request_bucket, self._token_bucket, now, learned=learned)

    def blocked(self, tokens: int = 0) -> float:
        """Return the seconds for which the API allows no attempt of ``tokens``."""
        return self.rate_limiter.blocked(self._clock.monotonic(), tokens)

    def settle(self, reserved: int, actual: int | None) -> None:
        """Replace the tokens that were reserved by those that the API counted."""
        self.rate_limiter.settle(reserved, actual, self._token_bucket)

    def record(
        self, status: int, headers: Mapping[str, str], retry_after: float | None, started: float, ended: float
    ) -> str:
        """Record a response, and return what it means for a shared limiter.

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

        Returns
        -------
        str
            The outcome, of those that :class:`ctxembed.Limiter` lists.
        """
        self.rate_limiter.update(headers, ended, self._clock.wall())
        if status == 429:
            if self.rate_limiter.refused(started, ended, retry_after) is not Refusal.RATE:
                self.concurrency.decrease(started, ended)
            return "refused"
        if status == 503:
            self.concurrency.decrease(started, ended)
            if retry_after is not None:
                self.rate_limiter.unavailable(retry_after, started, ended)
            return "unavailable"
        if status in (502, 504):  # those two come from a gateway in front of the rate limiter
            return "failed"
        self.rate_limiter.accepted(started, ended)
        return "accepted"

    def _reserve(self, tokens: int, *, learned: bool = True) -> float:
        now = self._clock.monotonic()
        return self.rate_limiter.reserve(tokens, self._request_bucket, self._token_bucket, now, learned=learned)
