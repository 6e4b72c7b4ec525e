"""The event loop of the synchronous client. It works while the interpreter shuts down, and under a frozen clock."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ctxembed._client._policy.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["create_event_loop"]


def create_event_loop() -> asyncio.AbstractEventLoop:
    """Create an event loop of the current policy."""
    loop = asyncio.new_event_loop()
    loop.set_default_executor(_ThreadPerCall())
    if isinstance(loop, asyncio.BaseEventLoop):
        # Else a tool that freezes time for a test freezes all waiting too. uvloop reads no clock of Python's.
        loop.time = SYSTEM_CLOCK.monotonic  # type: ignore[method-assign]
    return loop


class _ThreadPerCall(ThreadPoolExecutor):
    """Run each call, such as a name look-up, in a daemon thread.

    The standard pool refuses calls as soon as the main thread has ended, and a look-up that hangs keeps the interpreter
    from exiting. Where no thread can be started, the call runs in the thread of the event loop.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001  # the future raises it
                    future.set_exception(error)

        if sys.is_finalizing():  # a thread could be started and would never run
            run()
            return future
        try:
            threading.Thread(target=run, name="ctxembed-lookup", daemon=True).start()
        except RuntimeError:
            run()
        return future
