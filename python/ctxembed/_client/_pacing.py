"""How fast requests may start: the caller's rates, what the API asks for, and how many at once."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from ctxembed._client._retry import Clock

__all__ = ["Bucket", "Gate", "Pacer"]


class Bucket:
    """A leaky bucket with continuous refill, as arithmetic.

    A unit leaks every ``60 / per_minute`` seconds and the bucket holds nothing: who comes while it is not dry waits
    until it is. So any ``60`` seconds start at most ``per_minute`` units, a single start beyond that being allowed
    and paid for by the wait after it (the generic cell rate algorithm with no burst, ITU-T I.371).

    Parameters
    ----------
    per_minute : float
        Units a minute.

    Examples
    --------
    >>> bucket = Bucket(60)
    >>> [bucket.reserve(1, now=100.0) for _ in range(3)]
    [0.0, 1.0, 2.0]
    """

    __slots__ = ("_dry_at", "_seconds_a_unit")

    def __init__(self, per_minute: float) -> None:
        self._seconds_a_unit = 60.0 / per_minute
        self._dry_at = float("-inf")

    def reserve(self, units: float, now: float) -> float:
        """Take ``units`` in turn and return the seconds until they may start."""
        start = max(now, self._dry_at)
        self._dry_at = start + units * self._seconds_a_unit
        return start - now

    def give_back(self, units: float) -> None:
        """Undo a reservation, or correct one by what it turned out to be (negative: it was more)."""
        self._dry_at -= units * self._seconds_a_unit


class Pacer:
    """The rates of one account.

    Parameters
    ----------
    requests_per_minute, tokens_per_minute : float or None
        Caps that the caller knows of.

    Notes
    -----
    Shared by the calls of a client and by its copies; belongs to one thread.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._requests = None if requests_per_minute is None else Bucket(requests_per_minute)
        self._tokens = None if tokens_per_minute is None else Bucket(tokens_per_minute)
        self._not_before = float("-inf")

    async def wait(self, tokens: int, clock: Clock) -> None:
        """Wait for the turn of a request of ``tokens``."""
        now = clock.monotonic()
        turn = now
        if self._requests is not None:
            turn += self._requests.reserve(1, now)
        if self._tokens is not None:
            turn = max(turn, now + self._tokens.reserve(tokens, now))
        try:
            # What the API asks for while this one sleeps holds for it as well.
            while (until := max(turn, self._not_before)) > now:
                await clock.sleep(until - now)
                now = max(until, clock.monotonic())
        except BaseException:  # cancelled: the turn was not used
            if self._requests is not None:
                self._requests.give_back(1)
            self.correct(tokens, 0)
            raise

    def correct(self, reserved: int, actual: int | None) -> None:
        """Replace the tokens that were reserved by those that the API counted."""
        if self._tokens is not None and actual is not None:
            self._tokens.give_back(reserved - actual)

    def hold(self, seconds: float, clock: Clock) -> None:
        """Start nothing for ``seconds``: the API said so to one request, and means all."""
        self._not_before = max(self._not_before, clock.monotonic() + seconds)


class Gate:
    """At most so many requests at once, fewer while the API says that it is too many.

    Additive increase, multiplicative decrease (D. Chiu and R. Jain, 1989): congestion halves the number, once for
    all requests that were in flight together, and each success adds the share of one that lets a full round of
    successes add one.

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
        self._allowed = float(self._most)
        self._inside = 0
        self._waiting: deque[anyio.Event] = deque()
        self._last_cut = float("-inf")

    @property
    def allowed(self) -> int:
        """Requests that may be in flight now."""
        return int(self._allowed)

    async def acquire(self, *, first: bool = False) -> None:
        """Wait for a place: first come, first served, but before all others where ``first``."""
        token = anyio.lowlevel.current_token()
        if token != self._token:  # another event loop: who waited in the last one is gone
            self._reset(token)
        if self._inside < self.allowed and not self._waiting:
            self._inside += 1
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
        if started > self._last_cut:
            self._last_cut = now
            self._allowed = max(1.0, self._allowed / 2)

    def succeeded(self) -> None:
        """Grow by a share."""
        if self._allowed < self._most:
            self._allowed = min(float(self._most), self._allowed + 1.0 / self._allowed)
            self._admit()
