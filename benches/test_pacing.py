"""The throughput of clients against a rate limit that they do not know, and against latency alone."""

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
WARM_UP = 60  # seconds in which a client may learn the rate


@dataclass(frozen=True)
class TimedJob:
    """The vectors of a job, its duration, and the requests that the server counted."""

    rows: np.ndarray | None
    seconds: float
    counts: list[tuple[int, int]]  # requests accepted and refused in each second
    error: str = ""


def _timed(case: Any, call: Callable[[], np.ndarray]) -> TimedJob:
    base_url = case.prepared()
    began, error, rows = time.monotonic(), "", None
    try:
        rows = call()
    except Exception as failure:  # noqa: BLE001  # a peer that gives up is a result
        error = soaking.name_of(failure)
    seconds = time.monotonic() - began
    by_second = serving.call_server(base_url, "GET", "/stats")["by_second"]
    first = int(began)  # the server uses the same clock
    counts = [by_second.get(str(first + i), {}) for i in range(int(seconds) + 1)]
    return TimedJob(rows, seconds, [(found.get("200", 0), found.get("429", 0)) for found in counts], error)


def _async(session: Callable[[clients.Job], clients.Session]) -> Callable[[Any, int], Callable[[], TimedJob]]:
    def prepare(case: Any, _threads: int) -> Callable[[], TimedJob]:
        job = case.job  # the job and the server exist before the clock starts
        return lambda: _timed(case, lambda: clients.run(session(job)))

    return prepare


def _sync(case: Any, _threads: int) -> Callable[[], TimedJob]:
    job = case.job

    def call() -> np.ndarray:
        with clients.ours_sync(job) as embed:
            return embed()

    return lambda: _timed(case, call)


def _judge(expected: np.ndarray, result: TimedJob, note: str, data: dict[str, Any]) -> Verdict:
    correct = result.rows is not None and np.array_equal(result.rows, expected)
    return Verdict(correct, result.error or note, data)


@dataclass(frozen=True, eq=False)
class RateCase(Case):
    """A leaky bucket of unknown rate: the throughput after the warm-up, and the refused requests."""

    group: ClassVar = GROUP
    table: ClassVar = "a limiter of unknown rate"
    once: ClassVar = True
    per_second: float
    seconds: float
    burst: int
    retry_after: str

    @property
    def label(self) -> str:
        header = {"none": "without", "seconds": "with"}[self.retry_after]
        return f"{self.per_second:g} requests a second, {header} Retry-After"

    @property
    def size(self) -> dict[str, int]:
        return {"requests": len(self.documents), "per_minute": round(self.per_second * 60), "burst": self.burst}

    @cached_property
    def documents(self) -> list[list[str]]:
        return serving.documents(round(self.per_second * self.seconds) + self.burst)

    @cached_property
    def expected(self) -> np.ndarray:
        return serving.expected_vectors(self.documents, DIMENSIONS)

    @property
    def job(self) -> clients.Job:
        return clients.Job(self.prepared(clear=False), self.documents, 1, CONCURRENCY, DIMENSIONS, retries=20)

    def prepared(self, *, clear: bool = True) -> str:
        base_url = serving.server(ServerConfig(latency=0.05))
        if clear:
            limits = {"requests_per_minute": self.per_second * 60, "burst": self.burst, "retry_after": self.retry_after}
            serving.call_server(base_url, "POST", "/faults", {"limits": limits})
            serving.call_server(base_url, "DELETE", "/stats")
        return base_url

    def judge(self, _peer: Peer, result: TimedJob) -> Verdict:
        """Report the requests after the warm-up, or in the second half of a short run, without the last second."""
        steady = result.counts[min(WARM_UP, len(result.counts) // 2) : -1] or result.counts
        accepted, refused = (sum(column) for column in zip(*steady, strict=True))
        rate = accepted / len(steady) / self.per_second
        share = refused / max(1, accepted + refused)
        data = {
            "per_second": self.per_second,
            "accepted": [count[0] for count in result.counts],
            "refused": [count[1] for count in result.counts],
            "steady_rate": round(rate, 4),
            "steady_refused": round(share, 4),
        }
        return _judge(self.expected, result, f"{rate:.1%} of the rate, {share:.1%} refused", data)


@dataclass(frozen=True, eq=False)
class LatencyCase(Case):
    """A server with latency and no limits: the time as a multiple of the latency alone."""

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
        return serving.expected_vectors(self.documents, DIMENSIONS)

    @property
    def job(self) -> clients.Job:
        return clients.Job(self.prepared(), self.documents, 1, CONCURRENCY, DIMENSIONS)

    def prepared(self) -> str:
        return serving.server(ServerConfig(latency=self.latency))

    def judge(self, _peer: Peer, result: TimedJob) -> Verdict:
        ratio = result.seconds / self.ideal
        return _judge(self.expected, result, f"{ratio:.2f}x of the ideal", {"of_ideal": round(ratio, 4)})


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
