"""A limiter as a Ray actor, for the workers of a cluster (extra ``ray``)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final

from ctxembed._client._policy.clock import SYSTEM_CLOCK
from ctxembed._client._policy.own_pace import OwnPace
from ctxembed._client._policy.reservations import Ending, Reservations
from ctxembed._client.limiters import check_limiter_name
from ctxembed._client.options import check_rate
from ctxembed._extras import require
from ctxembed.distributed.limiter import SharedLimit

if TYPE_CHECKING:
    from ctxembed._client._policy.shared_limiter import _Outcome

__all__ = ["RayLimiter"]

_NAMESPACE: Final = "ctxembed"
_SILENCE: Final = 3.0
"""Seconds after which the actor is asked whether it lives, and again until it counts as away."""

_START: Final = 60.0
"""Seconds in which an actor must have started, where no reply of one has come yet."""


class LimiterActor:
    """The actor: the limit of one name, for workers that come and go."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        reservations = Reservations(requests_per_minute, tokens_per_minute)
        self._limit = SharedLimit(reservations, _set_result)
        self._holders: set[str] = set()

    async def reserve(self, holder: str, requests: int, tokens: int, pace: float | None) -> float:
        """Wait for a start, and return the seconds that are left until it."""
        if holder not in self._holders:
            self._holders.add(holder)
            if pace is not None:
                self._limit.add_pace(pace)
        ticket: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._limit.ask(holder, requests, tokens, ticket)
        try:
            return await ticket
        except asyncio.CancelledError:
            if not self._limit.cancel(ticket):
                self._limit.settle(holder, Ending("unused", 0.0))
            raise

    async def settle(self, holder: str, *ending: Any) -> None:
        """Record how one request ended."""
        self._limit.settle(holder, Ending(*ending))

    async def release(self, holder: str) -> None:
        """Forget a worker that has ended."""
        self._holders.discard(holder)
        self._limit.release(holder)

    async def pid(self) -> int:
        """Return the id of the process, at once."""
        return os.getpid()


def _set_result(ticket: asyncio.Future[float], seconds: float) -> None:
    if not ticket.done():
        ticket.set_result(seconds)


class RayLimiter:
    """A limiter that the workers of a Ray cluster share. It is an actor without a CPU, which Ray starts again.

    Parameters
    ----------
    name : str
        Clients with the same name share their limits, in all jobs of the cluster. Use one name for each API key, and
        never the key.
    requests_per_minute, tokens_per_minute : float, optional
        Limits that are known, of the one that creates the actor. Default: they are learned from refusals.

    Raises
    ------
    TypeError, ValueError
        An argument is not what it should be.
    ModuleNotFoundError
        The extra ``ray`` is not installed.

    Notes
    -----
    For ``AsyncClient(limiter=...)`` on asyncio, and for ``Client``. It can be pickled, and so be passed to workers. The
    actor lives until the last handle is gone, and is started again where its node dies. What a killed worker had
    reserved and not used is lost: a start or two.

    Examples
    --------
    >>> from ctxembed.distributed.ray import RayLimiter  # doctest: +SKIP
    >>> limiter = RayLimiter("team-a")  # doctest: +SKIP
    """

    reserve_timeout: Final[float | None] = None  # it asks whether the actor lives

    def __init__(
        self,
        name: str = "default",
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        self._name = check_limiter_name(name)
        self._limits = (
            check_rate("requests_per_minute", requests_per_minute),
            check_rate("tokens_per_minute", tokens_per_minute),
        )
        ray = require("ray", "ray", "RayLimiter")
        options = {"max_restarts": -1, "max_concurrency": 10_000, "num_cpus": 0, "get_if_exists": True}
        actor = ray.remote(LimiterActor).options(name=f"limiter-{name}", namespace=_NAMESPACE, **options)
        self._actor: Any = actor.remote(*self._limits)
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._holder = os.urandom(8).hex()
        self._pace = OwnPace()
        self._silence = _START

    @property
    def name(self) -> str:
        """The name that clients of one key share."""
        return self._name

    async def reserve(self, requests: int, tokens: int, /) -> float:
        """Wait for the next start, and return the seconds that are left until it.

        Raises
        ------
        OSError
            The actor is away, or hangs: ``TimeoutError``.
        """
        errors = require("ray.exceptions", "ray", "RayLimiter")
        if self._pid != os.getpid():
            self._begin()
        began = SYSTEM_CLOCK.monotonic()
        had = self._pace.last()
        try:
            granted = self._actor.reserve.remote(self._holder, requests, tokens, None if had is None else had[0])
            seconds = await self._watched(granted)
        except errors.RayError as error:
            self._holder = os.urandom(8).hex()  # the next actor takes its pace over
            raise ConnectionError(f"the actor of the limiter {self._name!r} is away: {type(error).__name__}") from None
        self._silence = _SILENCE
        now = SYSTEM_CLOCK.monotonic()
        self._pace.start(now, now - began + seconds)
        return seconds

    async def _watched(self, granted: Any) -> float:
        """Wait for a start, and ask the actor now and then whether it lives."""
        future = asyncio.ensure_future(_result(granted))
        try:
            while True:
                done, _ = await asyncio.wait([future], timeout=_SILENCE)
                if done:
                    return float(future.result())
                alive = asyncio.ensure_future(_result(self._actor.pid.remote()))
                done, _ = await asyncio.wait(
                    [future, alive], timeout=self._silence, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    alive.cancel()
                    raise TimeoutError(
                        f"the actor of the limiter {self._name!r} has not replied for {self._silence:g} seconds"
                    )
                if alive.done():
                    alive.result()
        finally:
            if not future.done():
                future.cancel()
                require("ray", "ray", "RayLimiter").cancel(granted)

    def settle(self, outcome: _Outcome, age: float, retry_after: float | None, actual_tokens: int | None, /) -> None:
        """Tell the actor how one request ended, without waiting. See :class:`ctxembed.Limiter`."""
        self._actor.settle.remote(self._holder, outcome, age, retry_after, actual_tokens)

    def close(self) -> None:
        """Tell the actor that this process has ended."""
        self._actor.release.remote(self._holder)

    def __repr__(self) -> str:
        """Show the name."""
        return f"RayLimiter({self._name!r})"

    def __getstate__(self) -> tuple[Any, ...]:
        return self._name, self._limits, self._actor

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._name, self._limits, self._actor = state
        self._begin()


async def _result(reference: Any) -> Any:
    return await reference
