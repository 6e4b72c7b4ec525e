"""Which event loop runs, and tasks in it that outlive a call."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["current_event_loop", "is_asyncio", "is_trio", "spawn_task"]

_RUNNING: Final[set[object]] = set()  # an event loop holds weak references to its tasks


def is_asyncio() -> bool:
    """Return whether the caller runs in an asyncio event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def current_event_loop() -> object:
    """Return an object that identifies the running event loop, of asyncio or trio."""
    try:
        return asyncio.get_running_loop()  # ten times as fast as asking anyio
    except RuntimeError:
        return anyio.lowlevel.current_token()


def is_trio() -> bool:
    """Return whether the caller runs in trio."""
    if is_asyncio():
        return False
    try:
        anyio.lowlevel.current_token()
    except Exception:  # noqa: BLE001  # no event loop runs; anyio and sniffio have names of their own for it
        return False
    return True


def spawn_task(run: Callable[[], Coroutine[Any, Any, None]], scope: anyio.CancelScope) -> Callable[[], object]:
    """Start a task that outlives the call, and return a callable that cancels it from any thread.

    A task group must be left by the task that entered it, and whoever waits for this one may leave at any time.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio  # no dependency: it is running

        token = trio.lowlevel.current_trio_token()
        trio.lowlevel.spawn_system_task(run)

        def cancel() -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(scope.cancel)
    else:
        task = loop.create_task(run())
        _RUNNING.add(task)
        task.add_done_callback(_RUNNING.discard)

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(scope.cancel)

    return cancel
