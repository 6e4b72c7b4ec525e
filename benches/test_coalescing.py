"""Many small calls at once under a limit of requests: the calls share requests.

Two hundred coroutines make ten calls of one text a second each. The server takes 50 ms for a request and allows 20
requests a second.
"""

from __future__ import annotations

import asyncio
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
    from collections.abc import Callable

    from benches.harness import Scale

GROUP = "coalescing"
DIMENSIONS = 128
LATENCY = 0.05
RATE = 20  # requests that the server allows a second
START = 0.1  # seconds from the last preparation to the first call


@dataclass(frozen=True)
class Measured:
    """The calls of a run.

    Parameters
    ----------
    seconds : float
        Processor time a call, of the process that makes them.
    rows : list of ndarray or None
        The vectors of each call, by number; None where it failed.
    latencies : list of float
        Seconds of each call that succeeded.
    counts : list of (int, int)
        Requests that the server accepted and refused in each second.
    """

    seconds: float
    rows: list[np.ndarray | None] = field(repr=False)  # asyncio asks for the repr of what a task returns
    latencies: list[float] = field(repr=False)
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
    window: float

    @property
    def label(self) -> str:
        return f"{self.per_second:,} calls a second, coalesce={self.window:g}"

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
        failed = sum(row is None for row in result.rows)
        correct = not failed and np.array_equal(np.concatenate(result.rows), self.expected)  # type: ignore[arg-type]
        steady = result.counts[1:-1] or result.counts  # the first and the last second are no whole ones
        accepted, refused = (sum(column) for column in zip(*steady, strict=True))
        used = accepted / len(steady) / RATE
        added = statistics.median(result.latencies) - LATENCY if result.latencies else float("nan")
        data = {
            "failed": failed,
            "rate_used": round(used, 4),
            "refused": refused,
            "added_milliseconds": round(1000 * added, 2),
            "processor_microseconds": round(1e6 * result.seconds, 1),
        }
        note = f"{failed} failed, {used:.0%} of the rate, {1000 * added:.1f} ms added"
        return Verdict(correct, note, data)


async def _calls(case: CallsCase, base_url: str) -> Measured:
    rows: list[np.ndarray | None] = [None] * case.calls
    latencies: list[float] = []
    interval = 1 / case.per_second
    async with ctxembed.AsyncClient(
        serving.KEY, base_url=base_url, coalesce=case.window, requests_per_minute=60 * RATE
    ) as client:
        await client.embed_queries(["the connection is open"])
        begin = time.monotonic() + START

        async def work(first: int) -> None:
            for number in range(first, case.calls, case.coroutines):
                await asyncio.sleep(begin + number * interval - time.monotonic())
                began = time.monotonic()
                try:
                    rows[number] = (await client.embed_queries([case.texts[number]], dimensions=DIMENSIONS)).vectors
                except ctxembed.CtxembedError:  # counted as failed
                    continue
                latencies.append(time.monotonic() - began)

        used = time.process_time()
        await asyncio.gather(*(work(first) for first in range(case.coroutines)))
        used = time.process_time() - used
        ended = time.monotonic()
    by_second = serving.call_server(base_url, "GET", "/stats")["by_second"]
    seconds = [by_second.get(str(second), {}) for second in range(int(begin), int(ended) + 1)]  # of the same clock
    counts = [(found.get("200", 0), found.get("429", 0)) for found in seconds]
    return Measured(used / case.calls, rows, latencies, counts)


def _ours(case: CallsCase, _threads: int) -> Callable[[], Any]:
    base_url, _ = case.prepared(), case.texts  # both exist before the clock starts
    return lambda: asyncio.run(_calls(case, base_url))


PEERS = {CallsCase: (Peer("ctxembed async", _ours, "ours"),)}


def cases(scale: Scale) -> list[Case]:
    if scale == "smoke":
        return [CallsCase(20, 200, 1, 0.05)]
    seconds = 5 if scale == "quick" else 30
    # 50 ms are one interval of the rate. With 5 ms requests have to wait for the rate, and fill up meanwhile.
    return [CallsCase(200, 2000, seconds, window) for window in (0.05, 0.005)]


def test_coalescing(run, measure):
    measure(run)
