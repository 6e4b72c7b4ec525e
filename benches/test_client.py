"""The processor time of a client per request, against a server that responds at once."""

from __future__ import annotations

import atexit
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benches import canned
from benches.harness import Case, Peer, Verdict
from benches.peers import clients

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.harness import Scale

GROUP = "client"
CONCURRENCY = 4
DOCUMENTS, CHUNKS = 48, 10
"""Documents of a request and chunks of a document: 480 chunks of 250 tokens reach the limit of 120,000."""


Timed = tuple[Any, float]


def _timed(call: Callable[[], Any]) -> Callable[[], Timed]:
    def timed() -> Timed:
        began = time.perf_counter()
        return call(), time.perf_counter() - began

    return timed


def _async(session: Callable[[clients.Job], clients.Session]) -> Callable[[Any, int], Callable[[], Timed]]:
    return lambda case, _threads: _timed(clients.kept(session(case.job)))


def _sync(session: Callable[[clients.Job], Any]) -> Callable[[Any, int], Callable[[], Timed]]:
    def prepared(case: CpuCase, _threads: int) -> Callable[[], Timed]:
        stack = ExitStack()
        atexit.register(stack.close)
        return _timed(stack.enter_context(session(case.job)))

    return prepared


@dataclass(frozen=True, eq=False)
class CpuCase(Case):
    """Full requests over four open connections."""

    group: ClassVar = GROUP
    table: ClassVar = "processor time"
    requests: int

    @property
    def label(self) -> str:
        return f"{self.requests} requests of {DOCUMENTS * CHUNKS} chunks"

    @property
    def size(self) -> dict[str, int]:
        return {"requests": self.requests, "chunks": DOCUMENTS * CHUNKS, "concurrency": CONCURRENCY}

    @cached_property
    def job(self) -> clients.Job:
        count = self.requests * DOCUMENTS
        base_url, documents = canned.server(count, CHUNKS), canned.documents(count, CHUNKS)
        return clients.Job(base_url, documents, DOCUMENTS, CONCURRENCY, canned.DIMENSIONS)

    @property
    def expected(self) -> np.ndarray:
        return canned.expected(self.requests * DOCUMENTS, CHUNKS)

    def judge(self, peer: Peer, result: Timed) -> Verdict:
        """Check all vectors, or for the references, which do not decode, the number of bytes."""
        found, seconds = result
        if peer.kind == "reference":
            correct = len(found) == self.requests and min(found) > self.expected.nbytes / self.requests
        else:
            correct = np.array_equal(np.concatenate(found) if isinstance(found, list) else found, self.expected)
        speed = len(self.expected) / seconds
        return Verdict(bool(correct), f"{speed:,.0f} chunks/s", {"chunks_per_second": round(speed)})


PEERS = {
    CpuCase: (
        Peer("ctxembed async, httpx", _async(clients.ours_httpx), "ours"),
        Peer("ctxembed async, aiohttp", _async(clients.ours_async), "ours"),
        Peer("ctxembed sync", _sync(clients.ours_sync), "ours"),
        # Those above plan requests and estimate tokens. These send given requests, like the vendor's package.
        Peer("ctxembed async create, httpx", _async(clients.ours_create_httpx), "ours"),
        Peer("ctxembed async create, aiohttp", _async(clients.ours_create), "ours"),
        Peer("ctxembed sync create", _sync(clients.ours_create_sync), "ours"),
        Peer("perplexityai async + base64", _async(clients.official_async)),
        Peer("perplexityai async + base64, aiohttp", _async(clients.official_aiohttp)),
        Peer("httpx, bytes only", _async(clients.raw_httpx), "reference"),
        Peer("aiohttp, bytes only", _async(clients.raw_aiohttp), "reference"),
    ),
}


def cases(scale: Scale) -> list[Case]:
    return [CpuCase({"smoke": 2, "quick": 8, "full": 16}[scale])]


def test_client(run, measure):
    measure(run)
