"""How fast requests may start: the caller's rates, what the API asks for, and how many at once."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from ctxembed._client._policy.rate_limiter import Account
    from ctxembed._client._policy.retry import Clock

__all__ = ["Gate", "Pacer", "running"]


def running() -> object:
    """Return the event loop that runs, or what stands for it."""
    try:
        return asyncio.get_running_loop()  # a tenth of what anyio takes to find out who runs
    except RuntimeError:
        return anyio.lowlevel.current_token()


class Pacer:
    """When a client's requests may start.

    Parameters
    ----------
    account : Account
        Shared by the clients of one key and host.
    requests_per_minute, tokens_per_minute : float or None
        Caps that the caller knows of.
    """

    def __init__(self, account: Account, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self.account = account
        self._requests = account.bucket("requests", requests_per_minute)
        self._tokens = account.bucket("tokens", tokens_per_minute)

    async def wait(self, tokens: int, clock: Clock, until: float = math.inf, longest: float = math.inf) -> bool:
        """Wait for the turn of a request of ``tokens``.

        Returns False, and at once, where the turn would not come before ``until``, or where the API asks for more
        than ``longest`` seconds.
        """
        while (seconds := self.account.ask(tokens, self._requests, self._tokens, clock.monotonic())) > 0:
            now = clock.monotonic()
            if now + seconds > until or self.account.held(now, tokens) > longest:
                return False
            await clock.sleep(seconds)
        return True

    def may_start(self, tokens: int, now: float) -> bool:
        """Start a request now, if it need not wait."""
        return self.account.ask(tokens, self._requests, self._tokens, now) == 0

    def correct(self, reserved: int, actual: int | None) -> None:
        """Replace the tokens that were reserved by those that the API counted."""
        self.account.correct(reserved, actual, self._tokens)


_START: Final = 4
"""Requests in flight before the first has landed, or half of the most, if that is more."""


class Gate:
    """At most so many requests at once: few at first, and fewer while the API says that it is too many.

    Until the first congestion each success adds two. From then on additive increase, multiplicative decrease (D. Chiu
    and R. Jain, 1989): congestion halves the number, once for all requests that were in flight together, and each
    success adds the share of one that lets a full round of successes add one.

    Parameters
    ----------
    most : int
        Requests in flight at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._reset(None)

    def _reset(self, token: object) -> None:
        self._token = token
        self._allowed = float(min(self._most, max(_START, self._most // 2)))
        self._new = True
        self._inside = 0
        self._waiting: deque[anyio.Event] = deque()
        self._last_cut = float("-inf")

    @property
    def allowed(self) -> int:
        """Requests that may be in flight now."""
        return int(self._allowed)

    async def acquire(self, *, first: bool = False) -> None:
        """Wait for a place: first come, first served, but before all others where ``first``."""
        if self.try_acquire():
            return
        turn = anyio.Event()
        if first:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # the place came with the cancellation: pass it on
                self.release()
            else:
                self._waiting.remove(turn)
            raise

    def try_acquire(self) -> bool:
        """Take a place if one is free and nobody waits for it."""
        token = running()
        if token != self._token:  # another event loop: who waited in the last one is gone
            self._reset(token)
        if self._inside >= self.allowed or self._waiting:
            return False
        self._inside += 1
        return True

    def release(self) -> None:
        """Give the place back."""
        self._inside -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._inside < self.allowed:
            self._inside += 1  # on behalf of the one that wakes
            self._waiting.popleft().set()

    def congested(self, started: float, now: float) -> None:
        """Halve, unless the request started before the last cut and so tells nothing new."""
        self._new = False
        if started > self._last_cut:
            self._last_cut = now
            self._allowed = max(1.0, self._allowed / 2)

    def succeeded(self) -> None:
        """Grow by a share."""
        if self._allowed < self._most:
            self._allowed = min(float(self._most), self._allowed + (2.0 if self._new else 1.0 / self._allowed))
            self._admit()
