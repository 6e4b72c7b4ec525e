"""Threads for tests: run work on several, and act while a call has released the interpreter."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

NEVER = 3600.0  # seconds


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run ``work(number)`` on ``count`` threads; return the results, or raise the first error."""
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(work, number) for number in range(count)]]


@contextmanager
def once_released(action: Callable[[], object]) -> Iterator[None]:
    """Run ``action`` on another thread as soon as a call in the block releases the interpreter.

    The interpreter does not switch threads by itself in the block, so nothing but such a call lets the action run.
    Random numbers and large arrays are made before the block, because numpy releases the interpreter too.
    """
    entered = threading.Event()

    def wait_then_act() -> None:
        entered.wait()
        action()

    thread = threading.Thread(target=wait_then_act)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(NEVER)
    try:
        entered.set()
        yield
    finally:
        sys.setswitchinterval(interval)
        entered.set()
        thread.join()


def releases_the_interpreter(call: Callable[[], object], attempts: int = 200) -> bool:
    """Return whether another thread runs while ``call`` does.

    The system may start the other thread late, so the call is repeated until that thread has run.
    """
    ran: list[bool] = []
    with once_released(lambda: ran.append(True)):
        for _ in range(attempts):
            call()
            if ran:
                return True
    return False
