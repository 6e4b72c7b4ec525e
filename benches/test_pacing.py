"""How close clients come to what an API allows: a limiter of a rate that they are not told, and one of latency only."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ctxembed._server import ServerConfig

from benches import serving, soaking
from benches.harness import Case, Peer, Verdict
from benches.peers import clients

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.harness import Scale

GROUP = "pacing"
DIMENSIONS = 128
CONCURRENCY = 16
WARM_UP = 60  # seconds after which a client is held to what it has learned


@dataclass(frozen=True)
class Ran:
    """What a call brought, and what the server saw of it."""

    rows: np.ndarray | None
    seconds: float
    counts: list[tuple[int, int]]  # accepted and refused, second by second
    error: str = ""


def _timed(case: Any, call: Callable[[], np.ndarray]) -> Ran:
    base_url = case.prepared()
    began, error, rows = time.monotonic(), "", None
    try:
        rows = call()
    except Exception as failure:  # noqa: BLE001  # a peer that gives up is a result
        error = soaking.named(failure)
    seconds = time.monotonic() - began
    by_second = serving.ask(base_url, "GET", "/stats")["by_second"]
    first = int(began)  # the server reads the same clock
    counts = [by_second.get(str(first + i), {}) for i in range(int(seconds) + 1)]
    return Ran(rows, seconds, [(found.get("200", 0), found.get("429", 0)) for found in counts], error)


def _async(session: Callable[[clients.Job], clients.Session]) -> Callable[[Any, int], Callable[[], Ran]]:
    def prepare(case: Any, _threads: int) -> Callable[[], Ran]:
        job = case.job  # made before the clock starts, as is the server
        return lambda: _timed(case, lambda: clients.run(session(job)))

    return prepare


def _sync(case: Any, _threads: int) -> Callable[[], Ran]:
    job = case.job

    def call() -> np.ndarray:
        with clients.ours_sync(job) as embed:
            return embed()

    return lambda: _timed(case, call)


def _judge(expected: np.ndarray, answer: Ran, note: str, data: dict[str, Any]) -> Verdict:
    correct = answer.rows is not None and np.array_equal(answer.rows, expected)
    return Verdict(correct, answer.error or note, data)


@dataclass(frozen=True, eq=False)
class RateCase(Case):
    """A leaky bucket of a rate that nobody is told: throughput once it is found, and refusals."""

    group: ClassVar = GROUP
    table: ClassVar = "a limiter of unknown rate"
    once: ClassVar = True
    per_second: float
    seconds: float
    burst: int
    retry_after: str

    @property
    def label(self) -> str:
        named = {"none": "without", "seconds": "with"}[self.retry_after]
        return f"{self.per_second:g} requests a second, {named} Retry-After"

    @property
    def size(self) -> dict[str, int]:
        return {"requests": len(self.documents), "per_minute": round(self.per_second * 60), "burst": self.burst}

    @cached_property
    def documents(self) -> list[list[str]]:
        return serving.documents(round(self.per_second * self.seconds) + self.burst)

    @cached_property
    def expected(self) -> np.ndarray:
        return serving.truth(self.documents, DIMENSIONS)

    @property
    def job(self) -> clients.Job:
        return clients.Job(self.prepared(clear=False), self.documents, 1, CONCURRENCY, DIMENSIONS, retries=20)

    def prepared(self, *, clear: bool = True) -> str:
        base_url = serving.server(ServerConfig(latency=0.05))
        if clear:
            limits = {"requests_per_minute": self.per_second * 60, "burst": self.burst, "retry_after": self.retry_after}
            serving.ask(base_url, "POST", "/faults", {"limits": limits})
            serving.ask(base_url, "DELETE", "/stats")
        return base_url

    def judge(self, _peer: Peer, answer: Ran) -> Verdict:
        """Judge the time after the first minute, or the second half of a shorter run; the last second is not full."""
        steady = answer.counts[min(WARM_UP, len(answer.counts) // 2) : -1] or answer.counts
        accepted, refused = (sum(column) for column in zip(*steady, strict=True))
        rate = accepted / len(steady) / self.per_second
        share = refused / max(1, accepted + refused)
        data = {
            "per_second": self.per_second,
            "accepted": [count[0] for count in answer.counts],
            "refused": [count[1] for count in answer.counts],
            "steady_rate": round(rate, 4),
            "steady_refused": round(share, 4),
        }
        return _judge(self.expected, answer, f"{rate:.1%} of the rate, {share:.1%} refused", data)


@dataclass(frozen=True, eq=False)
class LatencyCase(Case):
    """A server that takes its time and has no limit: how long beyond what the latency alone would take."""

    group: ClassVar = GROUP
    table: ClassVar = "latency only"
    once: ClassVar = True
    requests: int
    latency: float

    @property
    def label(self) -> str:
        return f"{self.requests:,} requests of {1000 * self.latency:.0f} ms, {CONCURRENCY} at once"

    @property
    def size(self) -> dict[str, int]:
        return {"requests": self.requests, "milliseconds": round(1000 * self.latency), "concurrency": CONCURRENCY}

    @property
    def ideal(self) -> float:
        return -(-self.requests // CONCURRENCY) * self.latency

    @cached_property
    def documents(self) -> list[list[str]]:
        return serving.documents(self.requests)

    @cached_property
    def expected(self) -> np.ndarray:
        return serving.truth(self.documents, DIMENSIONS)

    @property
    def job(self) -> clients.Job:
        return clients.Job(self.prepared(), self.documents, 1, CONCURRENCY, DIMENSIONS)

    def prepared(self) -> str:
        return serving.server(ServerConfig(latency=self.latency))

    def judge(self, _peer: Peer, answer: Ran) -> Verdict:
        ratio = answer.seconds / self.ideal
        return _judge(self.expected, answer, f"{ratio:.2f}x of the ideal", {"of_ideal": round(ratio, 4)})


PEERS = {
    RateCase: (
        Peer("ctxembed async", _async(clients.ours_async), "ours"),
        Peer("perplexityai async", _async(clients.official_joined)),
    ),
    LatencyCase: (
        Peer("ctxembed async", _async(clients.ours_async), "ours"),
        Peer("ctxembed sync", _sync, "ours"),
        Peer("perplexityai async", _async(clients.official_joined)),
    ),
}


def cases(scale: Scale) -> list[Case]:
    if scale == "smoke":
        return [RateCase(40, 1, 5, "none"), LatencyCase(32, 0.01)]
    if scale == "quick":
        return [RateCase(40, 20, 10, "none"), LatencyCase(320, 0.2)]
    return [RateCase(20, 120, 10, "none"), RateCase(20, 120, 10, "seconds"), LatencyCase(640, 0.2)]


def test_pacing(run, measure):
    measure(run)
