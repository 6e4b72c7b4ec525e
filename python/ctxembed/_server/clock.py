"""The server's clock: tests replace it to control time without waiting."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Receive

__all__ = ["Clock", "DisconnectedError", "wait_for_disconnect"]


class DisconnectedError(Exception):
    """The client disconnected while the server paused."""


class Clock:
    """Reads the time and pauses responses."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        return time.monotonic()

    def wall(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    async def pause(self, seconds: float, stopping: asyncio.Event, receive: Receive | None = None) -> None:
        """Wait, at most until the server shuts down.

        Parameters
        ----------
        seconds : float
            Time to wait; zero or less returns at once.
        stopping : asyncio.Event
            Ends the wait when the server shuts down.
        receive : callable or None
            The ASGI callable of a request whose body has been read; reports a disconnect.

        Raises
        ------
        DisconnectedError
            The client disconnected.
        """
        if seconds <= 0:
            return
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(stopping.wait())]
        if receive is not None:
            waits.append(asyncio.ensure_future(wait_for_disconnect(receive)))
        try:
            done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*waits, return_exceptions=True)
        if waits[0] not in done and done:
            raise DisconnectedError


async def wait_for_disconnect(receive: Receive) -> None:
    """Read ASGI messages until the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
