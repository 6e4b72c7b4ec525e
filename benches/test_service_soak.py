"""Ten minutes of searches while documents are added, replaced and deleted, and the collection is compacted."""

from __future__ import annotations

import itertools
import re
import shutil
import statistics
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ctxembed
from ctxembed._server import ServerConfig, ServerProcess

from benches import serving
from benches.cases.collections import folder
from benches.harness import Case, Peer, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benches.harness import Scale

GROWTH = 64 * 2**20
"""The most bytes by which the memory of the server may grow after its first fifth of the time."""

DIMENSIONS = 256
BATCH = 200  # documents of an ingestion
KEPT = 20 * BATCH  # documents that stay: older ones are deleted

SEARCHES: tuple[dict[str, Any], ...] = (
    {"k": 10},
    {"k": 10, "neighbours": 1},
    {"k": 5, "where": "turn % 2 = 0"},
    {"k": 10, "hybrid": True},
    {"k": 10, "group_by_document": True},
    {"k": 10, "stage": "two-stage"},
    {"k": 1000},
)


@dataclass(frozen=True)
class Soaked:
    """What happened in the time."""

    seconds: float
    searches: int
    failed: list[str]
    ingested: int
    compactions: int
    growth: int
    problems: list[str]


@dataclass(frozen=True, eq=False)
class ServiceSoakCase(Case):
    """Eight callers, one writer."""

    group: ClassVar = "service_soak"
    table: ClassVar = "searches beside a writer"
    once: ClassVar = True
    threads: ClassVar = (1,)
    seconds: float
    callers: int = 8

    @property
    def label(self) -> str:
        return f"{self.seconds / 60:g} minutes, {self.callers} callers"

    @property
    def size(self) -> dict[str, int]:
        return {"seconds": round(self.seconds), "callers": self.callers}

    def judge(self, _peer: Peer, result: Soaked) -> Verdict:
        """Nothing may fail, be damaged, or grow."""
        correct = not result.failed and not result.problems and result.growth <= GROWTH and result.searches > 0
        growth = result.growth / 2**20
        note = (
            f"{result.searches:,} searches, {len(result.failed)} failed; {result.ingested:,} documents stored, "
            f"{result.compactions} compactions; memory {growth:+.1f} MB"
        )
        values = {"searches": result.searches, "failed": len(result.failed), "growth": result.growth}
        return Verdict(correct, note, {**values, "ingested": result.ingested, "first_failures": result.failed[:3]})


class _Callers:
    """Threads that search until they are told to stop."""

    def __init__(self, base_url: str, count: int) -> None:
        self.stop = threading.Event()
        self.searches = 0
        self.failed: list[str] = []
        self._base_url = base_url
        self._threads = [threading.Thread(target=self._search, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _search(self, number: int) -> None:
        for turn in itertools.count(number):
            if self.stop.is_set():
                return
            query = f"river stone {turn % 500}"
            try:
                body = SEARCHES[turn % len(SEARCHES)]
                found = serving.call_server(self._base_url, "POST", "/v1/search", {"query": query, **body})
                if not found["hits"]:
                    raise ValueError("no hits")
            except Exception as error:  # noqa: BLE001  # counted
                detail = error.read().decode() if isinstance(error, urllib.request.HTTPError) else ""
                self.failed.append(f"{error!r} {detail}"[:500])
            self.searches += 1

    def join(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()


def _memory(pid: int) -> int:
    """Return the bytes of a process that are no file's."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"^RssAnon:\s+(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]


def _documents(batch: int) -> Iterator[ctxembed.Document]:
    for number, chunks in enumerate(serving.documents(BATCH, 3, words=8)):
        texts = [f"{chunk} batch {batch}" for chunk in chunks]
        yield ctxembed.Document(f"{batch * BATCH + number}", texts, {"turn": batch + number})


def _soaked(case: ServiceSoakCase, _threads: int) -> Callable[[], Soaked]:
    standin = serving.server(ServerConfig())

    def run() -> Soaked:
        path = folder() / "soak.ctx"
        shutil.rmtree(path, ignore_errors=True)
        memory: list[int] = []
        batches, compactions = itertools.count(), 0
        with (
            ctxembed.Client(serving.KEY, base_url=standin) as client,
            ctxembed.Collection.create(path, model=serving.MODEL, dimensions=DIMENSIONS) as made,
        ):
            for _ in range(3):
                made.ingest(_documents(next(batches)), client)
            with ServerProcess("--collection", str(path)) as server:
                callers = _Callers(server.base_url, case.callers)
                began = time.monotonic()
                try:
                    while time.monotonic() - began < case.seconds:
                        batch = next(batches)
                        made.ingest(_documents(batch), client)
                        oldest = (batch - KEPT // BATCH) * BATCH
                        made.delete(str(number) for number in range(oldest, oldest + BATCH) if number >= 0)
                        if batch % 25 == 0:
                            made.compact()
                            compactions += 1
                        memory.append(_memory(server.pid))
                finally:
                    callers.join()
            problems = made.verify()
            ingested = BATCH * next(batches)
        fifth = max(1, len(memory) // 5)
        growth = int(statistics.median(memory[-fifth:]) - statistics.median(memory[fifth : 2 * fifth] or memory))
        seconds = time.monotonic() - began
        return Soaked(seconds, callers.searches, callers.failed, ingested, compactions, growth, problems)

    return run


PEERS = {ServiceSoakCase: (Peer("ctxembed serve", _soaked, "ours"),)}


def cases(scale: Scale) -> list[Case]:
    return [ServiceSoakCase({"smoke": 2.0, "quick": 30.0}.get(scale, 600.0))]


def test_service_soak(run, measure):
    measure(run)
