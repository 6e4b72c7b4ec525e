"""Limiters of requests, which clients in several threads, processes or machines may share."""

from __future__ import annotations

import os
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ctxembed._client._policy.clock import SYSTEM_CLOCK
from ctxembed._client._policy.own_pace import OwnPace
from ctxembed._client._policy.reservations import Ending, Reservations
from ctxembed._client._policy.shared_limiter import Limiter
from ctxembed._client._runtime import current_event_loop
from ctxembed._client.limiter_address import parse_limiter_address
from ctxembed._client.limiter_connection import LimiterConnection
from ctxembed._client.options import check_clock, check_rate

if TYPE_CHECKING:
    from ctxembed._client._policy.clock import Clock
    from ctxembed._client._policy.shared_limiter import _Outcome

__all__ = ["Limiter", "LocalLimiter", "SocketLimiter", "check_limiter_name", "limiter"]

_LONGEST_NAME: Final = 200


class LocalLimiter:
    """A limiter in this process: it learns the rate as a client does by itself.

    Clients of one key and host share what they learn without it. It is for clients whose keys are callables, for limits
    that several clients share, and for tests.

    Parameters
    ----------
    requests_per_minute, tokens_per_minute : float, optional
        Limits that are known. Default: they are learned from refusals.
    clock : Clock, optional
        Time and sleep.

    Notes
    -----
    Thread-safe. It cannot be pickled.

    Examples
    --------
    >>> import asyncio
    >>> limiter = LocalLimiter(requests_per_minute=600)
    >>> asyncio.run(limiter.reserve(1, 120))
    0.0
    >>> limiter.settle("accepted", 0.2, None, 117)
    """

    reserve_timeout: Final[float | None] = None

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._reservations = Reservations(
            check_rate("requests_per_minute", requests_per_minute),
            check_rate("tokens_per_minute", tokens_per_minute),
            slow_start=False,
        )
        self._clock: Clock = SYSTEM_CLOCK if clock is None else check_clock(clock)

    async def reserve(self, requests: int, tokens: int, /) -> float:
        """Wait for the next start, and return the seconds that are left until it.

        Raises
        ------
        ValueError
            ``requests`` is no int from 1, or ``tokens`` no int from 0.
        """
        while True:
            now = self._clock.monotonic()
            start, seconds = self._reservations.try_start(None, requests, tokens, now)
            if start:
                return seconds
            await self._clock.sleep(seconds)

    def settle(self, outcome: _Outcome, age: float, retry_after: float | None, actual_tokens: int | None, /) -> None:
        """Record how one request ended. See :class:`Limiter`.

        Raises
        ------
        ValueError
            An argument is not what it should be.
        """
        ending = Ending(outcome, age, retry_after, actual_tokens)
        self._reservations.settle(None, ending, self._clock.monotonic())


class SocketLimiter:
    """A limiter in another process, that of ``ctxembed limiter``. :func:`limiter` connects to it.

    Notes
    -----
    It connects when it is first used, once for each event loop, and again when the connection broke. Any number of
    clients, threads and event loops of asyncio and trio may use it. It can be pickled, and used after a fork.
    """

    reserve_timeout: Final[float | None] = None  # it watches its connection

    def __init__(self, address: str, *, name: str = "default") -> None:
        self._address = parse_limiter_address(address)
        self._name = check_limiter_name(name)
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._connections: weakref.WeakKeyDictionary[Any, LimiterConnection] = weakref.WeakKeyDictionary()
        self._pace = OwnPace()

    @property
    def address(self) -> str:
        """Where the limiter listens: ``unix:PATH`` or ``tcp:HOST:PORT``."""
        return str(self._address)

    @property
    def name(self) -> str:
        """The name that clients of one key share."""
        return self._name

    async def reserve(self, requests: int, tokens: int, /) -> float:
        """Wait for the next start, and return the seconds that are left until it.

        Raises
        ------
        OSError
            The limiter is away, or hangs: ``TimeoutError``.
        LimiterError
            Something else than a limiter listens there, or it refused the request.
        """
        began = SYSTEM_CLOCK.monotonic()
        connection = self._connection()
        with self._lock:
            had = self._pace.last()
        seconds = await connection.reserve(requests, tokens, None if had is None else had[0])
        now = SYSTEM_CLOCK.monotonic()
        with self._lock:
            self._pace.start(now, now - began + seconds)
        return seconds

    def settle(self, outcome: _Outcome, age: float, retry_after: float | None, actual_tokens: int | None, /) -> None:
        """Tell the limiter how one request ended, without waiting. See :class:`Limiter`.

        Raises
        ------
        OSError
            The connection is broken.
        """
        self._connection().settle(outcome, age, retry_after, actual_tokens)

    def _connection(self) -> LimiterConnection:
        """Return the connection of the running event loop. A forked child leaves those of its parent alone."""
        if self._pid != os.getpid():
            self._forget()
        loop = current_event_loop()
        with self._lock:
            connection = self._connections.get(loop)
            if connection is None:
                connection = self._connections[loop] = LimiterConnection(self._address, self._name)
            return connection

    def __repr__(self) -> str:
        """Show the address and the name."""
        return f"limiter({self.address!r}, name={self._name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the address and the name."""
        return partial(limiter, name=self._name), (self.address,)


def limiter(address: str, *, name: str = "default") -> SocketLimiter:
    """Return a limiter that processes share: one that ``ctxembed limiter --listen ADDRESS`` runs.

    Parameters
    ----------
    address : str
        ``unix:PATH`` or ``tcp:HOST:PORT``, with an IPv6 address in brackets.
    name : str
        Clients with the same name share their limits. Use one name for each API key, and never the key.

    Returns
    -------
    SocketLimiter
        For ``Client(limiter=...)`` and ``AsyncClient(limiter=...)``. Nothing is connected before it is used.

    Raises
    ------
    TypeError, ValueError
        The address or the name is not what it should be.

    Examples
    --------
    >>> limiter("unix:/run/ctxembed/limiter.sock", name="team-a")
    limiter('unix:/run/ctxembed/limiter.sock', name='team-a')
    """
    return SocketLimiter(address, name=name)


def check_limiter_name(name: object) -> str:
    """Return a name of printable characters, 200 at most."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {type(name).__name__}")
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        # It may be a key by mistake, so it is not shown.
        raise ValueError(f"name must have 1 to {_LONGEST_NAME} printable characters, got {len(name)} characters")
    return name
