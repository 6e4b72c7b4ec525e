"""How many requests may be in flight."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ConcurrencyLimiter"]

_INITIAL: Final = 4
"""Requests in flight before the first has succeeded, or half of the maximum, if that is more."""


class ConcurrencyLimiter:
    """Limit the requests in flight: few at first, and fewer while the API is overloaded.

    Until the first overload each success adds two. From then on additive increase, multiplicative decrease (D. Chiu
    and R. Jain, 1989): an overload halves the limit, once for all requests that were in flight together, and each
    success adds ``1 / limit``, so that a full round of successes adds one.

    Parameters
    ----------
    maximum : int
        Requests in flight at most.
    event_loop : callable
        Identifies the running event loop. A limiter starts anew in another one.
    """

    def __init__(self, maximum: int, event_loop: Callable[[], object]) -> None:
        self._maximum = maximum
        self._event_loop = event_loop
        self._reset(None)

    def _reset(self, token: object) -> None:
        self._token = token
        self._limit = float(min(self._maximum, max(_INITIAL, self._maximum // 2)))
        self._was_overloaded = False
        self._in_flight = 0
        self._waiting: deque[anyio.Event] = deque()
        self._last_decrease = float("-inf")

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return int(self._limit)

    async def acquire(self, *, first: bool = False) -> None:
        """Wait for a slot, first come first served; with ``first`` before all that wait."""
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
            if turn.is_set():  # the slot came together with the cancellation
                self.release()
            else:
                self._waiting.remove(turn)
            raise

    def try_acquire(self) -> bool:
        """Take a slot if one is free and no task waits for one."""
        token = self._event_loop()
        if token != self._token:  # another event loop: tasks that waited in the last one are gone
            self._reset(token)
        if self._in_flight >= self.limit or self._waiting:
            return False
        self._in_flight += 1
        return True

    def release(self) -> None:
        """Give the slot back."""
        self._in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._in_flight < self.limit:
            self._in_flight += 1  # on behalf of the task that wakes
            self._waiting.popleft().set()

    def decrease(self, started: float, now: float) -> None:
        """Halve the limit, unless the request started before the last decrease and so adds no information."""
        self._was_overloaded = True
        if started > self._last_decrease:
            self._last_decrease = now
            self._limit = max(1.0, self._limit / 2)

    def increase(self) -> None:
        """Raise the limit after a success."""
        if self._limit < self._maximum:
            step = 1.0 / self._limit if self._was_overloaded else 2.0
            self._limit = min(float(self._maximum), self._limit + step)
            self._wake()
