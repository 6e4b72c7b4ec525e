"""A limiter that processes share, as a client uses it: asked once a request, and survived when it is away."""

from __future__ import annotations

import inspect
import logging
import math
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import anyio

from ctxembed._client._policy.own_pace import OwnPace

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ctxembed._client._policy.clock import Clock

__all__ = ["Limiter", "SharedLimiter", "shared_limiter"]

RESERVE_TIMEOUT: Final = 30.0
"""Seconds after which a limiter that has not returned counts as away, unless its ``reserve_timeout`` says otherwise."""

_SETTLE_TIMEOUT: Final = 3.0
_FIRST_BACKOFF: Final = 0.5
_LONGEST_BACKOFF: Final = 5.0
"""Seconds between attempts to reach a limiter that is away."""

_Outcome = Literal["accepted", "refused", "unavailable", "failed", "unused"]

_LOGGER: Final = logging.getLogger("ctxembed")


class Limiter(Protocol):
    """Decides when requests start, for all clients that share it: the ``limiter`` of a client.

    A client calls :meth:`reserve` before each attempt of a request, and :meth:`settle` once after each. Both may be
    plain or ``async``. They are called in the event loop that sends the requests, so a plain one must not block.

    Notes
    -----
    Times are durations, since the clocks of processes differ, and no key is passed: a limiter is for one.

    An ``OSError``, ``TimeoutError`` included, means that the limiter is away: requests go on at the pace that they had
    lately, and the limiter is asked again after half a second to five. The same holds where :meth:`reserve` does not
    return within 30 seconds, or within ``reserve_timeout``, if the limiter has that attribute (None: any time). Any
    other exception fails the request.
    """

    def reserve(self, requests: int, tokens: int, /) -> float | Awaitable[float]:
        """Reserve the next start, and return the seconds until it.

        Parameters
        ----------
        requests : int
            Requests that start together; a client asks for one.
        tokens : int
            The tokens of all of them, as estimated.

        Returns
        -------
        float
            Seconds from now; 0 to start at once. The client waits so long, and then sends without asking again. An
            ``async`` method may take its time and return when the start has come.
        """

    def settle(self, outcome: _Outcome, age: float, retry_after: float | None, actual_tokens: int | None, /) -> object:
        """Record how one request ended.

        Parameters
        ----------
        outcome : {"accepted", "refused", "unavailable", "failed", "unused"}
            ``"refused"`` is a 429, ``"unavailable"`` a 503, ``"accepted"`` any other response of the API. ``"failed"``
            is no response, a gateway's 502 or 504, or a request that was cancelled: nobody knows whether it counted.
            ``"unused"`` gives the start back: the request was not sent.
        age : float
            Seconds since the request started.
        retry_after : float or None
            Seconds of the response's ``Retry-After``.
        actual_tokens : int or None
            Tokens that the API counted, where it said so.
        """


class SharedLimiter:
    """Calls the ``limiter`` of clients.

    Where it raises an ``OSError`` or does not return in time, it is away. Then the client goes on by itself, at the
    pace that it had lately, and asks again after half a second, and after up to five.

    Parameters
    ----------
    limiter : Limiter
        The caller's object.
    """

    def __init__(self, limiter: Any) -> None:
        self._limiter = limiter
        self._timeout: float | None = getattr(limiter, "reserve_timeout", RESERVE_TIMEOUT)
        self._lock = threading.Lock()
        self._away_until = -math.inf
        self._backoff = 0.0  # 0 while it is there
        self._pace = OwnPace()
        self._caution: tuple[float, float] | None = None

    @property
    def is_away(self) -> bool:
        """Whether it was away when it was asked last."""
        return self._backoff > 0

    async def reserve(self, tokens: int, clock: Clock, patience: float | None = None) -> float | None:
        """Reserve the next start, and return the seconds until it; None where the limiter is away.

        Parameters
        ----------
        tokens : int
            Of the request.
        clock : Clock
            The client's.
        patience : float or None
            Seconds after which it is taken as saying that there is no start now: infinite.

        Raises
        ------
        TypeError, ValueError
            It returned no number, or none from 0.
        Exception
            What else it raised.
        """
        if not self._is_due(clock.monotonic()):
            return None
        try:
            with anyio.move_on_after(self._timeout) as scope, anyio.move_on_after(patience) as patient:
                seconds = self._limiter.reserve(1, tokens)
                if inspect.isawaitable(seconds):
                    seconds = await seconds
            if scope.cancelled_caught:
                raise TimeoutError(f"reserve() did not return within {self._timeout:g} seconds")
        except OSError as error:
            self._lose(error, clock.monotonic())
            return None
        self._find()
        return math.inf if patient.cancelled_caught else _checked(seconds)

    async def settle(self, outcome: str, age: float, retry_after: float | None, actual_tokens: int | None) -> None:
        """Tell how a reserved request ended, also where the call is cancelled."""
        if self.is_away:
            return
        try:
            settled = self._limiter.settle(outcome, age, retry_after, actual_tokens)
            if inspect.isawaitable(settled):
                with anyio.move_on_after(_SETTLE_TIMEOUT, shield=True):
                    await settled
        except OSError:  # the next request finds it away
            pass

    def record_start(self, now: float, waited: float) -> None:
        """Record a start of this process, which the limiter made wait for ``waited`` seconds."""
        with self._lock:
            self._pace.start(now, waited)

    def take_caution(self) -> tuple[float, float] | None:
        """Return the pace to go on with and its next start, once after the limiter was lost.

        None where it held nothing back.
        """
        with self._lock:
            caution, self._caution = self._caution, None
            return caution

    def _is_due(self, now: float) -> bool:
        """Return whether to ask the limiter now. One request tries whether it is back, and the others go on."""
        with self._lock:
            if now < self._away_until:
                return False
            if self._backoff:
                self._away_until = now + _LONGEST_BACKOFF
            return True

    def _lose(self, error: OSError, now: float) -> None:
        with self._lock:
            lost = not self._backoff
            self._backoff = min(2 * self._backoff, _LONGEST_BACKOFF) or _FIRST_BACKOFF
            self._away_until = now + self._backoff
            if lost:
                self._caution = self._pace.last(now)
        if lost:
            message = "the limiter is away (%s: %s): requests go on at the pace that they had"
            _LOGGER.warning(message, type(error).__name__, error)

    def _find(self) -> None:
        with self._lock:
            found, self._backoff, self._away_until = bool(self._backoff), 0.0, -math.inf
        if found:
            _LOGGER.warning("the limiter is back")


def _checked(seconds: object) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"limiter.reserve() must return seconds as an int or float, got {seconds!r:.80}")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"limiter.reserve() must return finite seconds from 0, got {seconds!r:.80}")
    return float(seconds)


_SHARED: Final[weakref.WeakValueDictionary[int, SharedLimiter]] = weakref.WeakValueDictionary()
"""By the id of the limiter, which an entry keeps alive. A limiter need not be hashable."""

_SHARED_LOCK: Final = threading.RLock()  # reentrant: a collection while it is held may create a client


def _renew_locks() -> None:
    for shared in list(_SHARED.values()):
        shared._lock = threading.Lock()  # noqa: SLF001


if hasattr(os, "register_at_fork"):  # a thread of the parent, which the child does not have, may hold a lock
    os.register_at_fork(after_in_child=_renew_locks)


def shared_limiter(limiter: Any) -> SharedLimiter | None:
    """Return what all clients of this limiter share, or None for no limiter."""
    if limiter is None:
        return None
    with _SHARED_LOCK:
        shared = _SHARED.get(id(limiter))
        if shared is None:
            shared = _SHARED[id(limiter)] = SharedLimiter(limiter)
        return shared
