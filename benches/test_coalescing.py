"""Many small calls at once under a limit of requests: the calls share requests.

Two hundred coroutines make ten calls of one text a second each. The server takes 50 ms for a request and allows 20
requests a second. The median time of a call is compared with the least that a client of that rate could reach: the
median time of its requests, and half of the time between two of them.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import ctxembed
import numpy as np
from ctxembed._server import ServerConfig

from benches import serving
from benches.harness import Case, Peer, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benches.harness import Scale

GROUP = "coalescing"
DIMENSIONS = 128
LATENCY = 0.05
RATE = 20  # requests that the server allows a second
WAIT = 0.5 / RATE  # median seconds until the next request is allowed, of calls that come evenly
START = 0.1  # seconds from the last preparation to the first call
IDLE = 3.0  # seconds for which the coroutines are measured without calls


@dataclass(frozen=True)
class Measured:
    """The calls of a run.

    Parameters
    ----------
    seconds : float
        Processor time a call of the process that makes them, less that of the coroutines alone.
    own : float
        Processor time a call of the coroutines alone, which sleep in place of the calls.
    rows : list of ndarray or None
        The vectors of each call, by number; None where it failed or was not made.
    made : int
        Calls that were made.
    duration : float
        Seconds from the first call to the end of the last.
    calls : list of float
        Seconds of each call that succeeded.
    requests : list of float
        Seconds of each request, from its start to the end of its response.
    counts : list of (int, int)
        Requests that the server accepted and refused in each second.
    """

    seconds: float
    own: float
    rows: list[np.ndarray | None] = field(repr=False)  # asyncio asks for the repr of what a task returns
    made: int
    duration: float
    calls: list[float] = field(repr=False)
    requests: list[float] = field(repr=False)
    counts: list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class CallsCase(Case):
    """Calls of one text at a steady rate, from coroutines that take turns."""

    group: ClassVar = GROUP
    table: ClassVar = "calls of one text"
    once: ClassVar = True
    timed: ClassVar = True
    threads: ClassVar = (1,)
    coroutines: int
    per_second: int
    seconds: int
    window: float | None

    @property
    def label(self) -> str:
        return f"{self.per_second:,} calls a second, coalesce={self.window}"

    @property
    def size(self) -> dict[str, int]:
        return {"calls": self.calls, "coroutines": self.coroutines, "allowed": RATE}

    @property
    def calls(self) -> int:
        return self.per_second * self.seconds

    @cached_property
    def texts(self) -> list[str]:
        return [text for [text] in serving.documents(self.calls, words=6)]

    @cached_property
    def expected(self) -> np.ndarray:
        return serving.expected_vectors([[text] for text in self.texts], DIMENSIONS)

    def prepared(self) -> str:
        """Return the address of the server, with its limit and without counts."""
        base_url = serving.server(ServerConfig(latency=LATENCY))
        limits = {"requests_per_minute": 60 * RATE, "burst": 2 * RATE, "retry_after": "seconds"}
        serving.call_server(base_url, "POST", "/faults", {"limits": limits})
        serving.call_server(base_url, "DELETE", "/stats")
        return base_url

    def judge(self, _peer: Peer, result: Measured) -> Verdict:
        """Compare all rows. Without a window most calls cannot be made, and those of the others are compared."""
        found = [number for number, row in enumerate(result.rows) if row is not None]
        failed = result.made - len(found)
        rows = np.concatenate([result.rows[number] for number in found])  # type: ignore[misc]
        correct = not failed and np.array_equal(rows, self.expected[found])
        steady = result.counts[1:-1] or result.counts  # the first and the last second are no whole ones
        accepted, refused = (sum(column) for column in zip(*steady, strict=True))
        used = accepted / len(steady) / RATE
        call, request = statistics.median(result.calls), statistics.median(result.requests)
        data = {
            "made": result.made,
            "made_per_second": round(result.made / result.duration),
            "failed": failed,
            "rate_used": round(used, 4),
            "refused": refused,
            "call_milliseconds": round(1000 * call, 2),
            "request_milliseconds": round(1000 * request, 2),
            "added_milliseconds": round(1000 * (call - request - WAIT), 2),
            "own_microseconds": round(1e6 * result.own, 1),
        }
        made = "" if result.made == self.calls else f"{result.made:,} of {self.calls:,} made, "
        note = f"{made}{failed} failed, {used:.0%} of the rate, median {1000 * call:,.1f} ms, "
        return Verdict(correct, note + f"{data['added_milliseconds']:,.1f} ms added", data)


async def _calls(case: CallsCase, base_url: str) -> Measured:
    rows: list[np.ndarray | None] = [None] * case.calls
    times: list[float] = []
    requests: list[float] = []
    options: dict[str, Any] = {"requests_per_minute": 60 * RATE, "coalesce": case.window}
    async with ctxembed.AsyncClient(
        serving.KEY, base_url=base_url, on_response=lambda event: requests.append(event.seconds), **options
    ) as client:
        await client.embed_queries(["the connection is open"])
        requests.clear()

        async def call(number: int) -> None:
            began = time.monotonic()
            try:
                emb = await client.embed_queries([case.texts[number]], dimensions=DIMENSIONS)
            except ctxembed.CtxembedError:  # counted as failed
                return
            rows[number] = emb.vectors
            times.append(time.monotonic() - began)

        used, made, began, ended = await _paced(case, call, case.seconds)
    own, *_ = await _paced(case, lambda _: asyncio.sleep(LATENCY + WAIT), min(IDLE, case.seconds))
    by_second = serving.call_server(base_url, "GET", "/stats")["by_second"]
    seconds = [by_second.get(str(second), {}) for second in range(int(began), int(ended) + 1)]  # of the same clock
    counts = [(found.get("200", 0), found.get("429", 0)) for found in seconds]
    return Measured(used - own, own, rows, made, ended - began, times, requests, counts)


async def _paced(
    case: CallsCase, call: Callable[[int], Awaitable[None]], seconds: float
) -> tuple[float, int, float, float]:
    """Make calls at the rate of the case, and without a window those for which there is time.

    Returns the processor time of one, their number, and when the first began and the last ended.
    """
    made = 0
    begin = time.monotonic() + START
    stop = math.inf if case.window else begin + seconds

    async def work(first: int) -> None:
        nonlocal made
        for number in range(first, round(case.per_second * seconds), case.coroutines):
            await asyncio.sleep(begin + number / case.per_second - time.monotonic())
            if time.monotonic() < stop:
                made += 1
                await call(number)

    used = time.process_time()
    await asyncio.gather(*(work(first) for first in range(case.coroutines)))
    return (time.process_time() - used) / made, made, begin, time.monotonic()


def _ours(case: CallsCase, _threads: int) -> Callable[[], Any]:
    base_url, _ = case.prepared(), case.texts  # both exist before the clock starts
    return lambda: asyncio.run(_calls(case, base_url))


PEERS = {CallsCase: (Peer("ctxembed async", _ours, "ours"),)}


def cases(scale: Scale) -> list[Case]:
    if scale == "smoke":
        return [CallsCase(20, 200, 1, window) for window in (0.05, None)]
    seconds = 5 if scale == "quick" else 30
    # 50 ms are one interval of the rate. With 5 ms requests have to wait for the rate, and fill up meanwhile.
    return [CallsCase(200, 2000, seconds, window) for window in (0.05, 0.005, None)]


def test_coalescing(run, measure):
    measure(run)
