"""100,000 chunks against a server that fails a fifth of all requests, in ten ways at random."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from ctxembed._server import ServerConfig

from benches import serving, soaking
from benches.harness import Case, Peer, Verdict
from benches.soaking import Soak, SoakResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.harness import Scale

GROUP = "soak"


def _soak(client: str) -> Callable[[Any, int], Callable[[], SoakResult]]:
    def prepare(case: SoakCase, _threads: int) -> Callable[[], SoakResult]:
        job = case.job(client)
        case.check()
        serving.call_server(job.base_url, "POST", "/faults", job.plan())
        serving.call_server(job.base_url, "DELETE", "/stats")
        return lambda: soaking.run(job)

    return prepare


@dataclass(frozen=True, eq=False)
class SoakCase(Case):
    """A number of documents, ten to a request, with ten chunks each."""

    group: ClassVar = GROUP
    table: ClassVar = "a job"
    once: ClassVar = True
    documents: int
    checked: list[bool] = field(default_factory=list)

    @property
    def label(self) -> str:
        return f"{10 * self.documents:,} chunks, {soaking.SHARE:.0%} of the requests fail"

    @property
    def size(self) -> dict[str, int]:
        return {"documents": self.documents, "chunks": 10 * self.documents, "requests": self.documents // 10}

    def job(self, client: str) -> Soak:
        return Soak(serving.server(ServerConfig(cache=2_000)), client, self.documents)

    @cached_property
    def expected(self) -> str:
        return self.job("").expected()

    def check(self) -> None:
        """Run the job once without faults, to check the vectors and to fill the server's cache of responses."""
        if not self.checked:
            job = self.job("ctxembed async")
            serving.call_server(job.base_url, "DELETE", "/faults")
            if soaking.run(job).digest != self.expected:
                raise RuntimeError("the job without faults returned wrong vectors")
            self.checked.append(True)

    def judge(self, _peer: Peer, result: SoakResult) -> Verdict:
        """Check all vectors, that no file is left open, and that memory stayed within the bound."""
        stats = serving.call_server(self.job("").base_url, "GET", "/stats")
        failed = sum(stats["by_fault"].values())
        sound = result.files_after <= result.files_before and result.growth <= soaking.GROWTH
        correct = result.digest == self.expected
        note = f"{failed} of {stats['requests']} requests failed, {result.growth / 2**20:+.0f} MB beyond the result"
        if result.error or not correct:
            note = result.error.partition(":")[0] or f"{result.rows:,} rows, not all correct"
        data = {"growth": result.growth, "files": result.files_after - result.files_before, "faults": stats["by_fault"]}
        return Verdict(correct and sound, note, data)


PEERS = {
    SoakCase: (
        Peer("ctxembed async", _soak("ctxembed async"), "ours"),
        Peer("ctxembed sync", _soak("ctxembed sync"), "ours"),
        Peer("ctxembed stream", _soak("ctxembed stream"), "ours"),
        Peer("perplexityai async", _soak("perplexityai async")),
    ),
}


def cases(scale: Scale) -> list[Case]:
    return [SoakCase({"smoke": 200, "quick": 2_000, "full": 10_000}[scale])]


def test_soak(run, measure):
    measure(run)
