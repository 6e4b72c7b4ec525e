"""100,000 chunks through a server that fails a fifth of all requests, in ten ways at random."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from ctxembed._server import ServerConfig

from benches import serving, soaking
from benches.harness import Case, Peer, Verdict
from benches.soaking import Soak, Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.harness import Scale

GROUP = "soak"


def _way(name: str) -> Callable[[Any, int], Callable[[], Trace]]:
    def prepare(case: SoakCase, _threads: int) -> Callable[[], Trace]:
        asked = case.asked(name)
        case.check()
        serving.ask(asked.base_url, "POST", "/faults", asked.plan())
        serving.ask(asked.base_url, "DELETE", "/stats")
        return lambda: soaking.run(asked)

    return prepare


@dataclass(frozen=True, eq=False)
class SoakCase(Case):
    """So many chunks, a tenth of a request each."""

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

    def asked(self, way: str) -> Soak:
        return Soak(serving.server(ServerConfig(cache=2_000)), way, self.documents)

    @cached_property
    def expected(self) -> str:
        return self.asked("").expected()

    def check(self) -> None:
        """Run the job once without faults: it must bring the truth, and what it was answered is kept by the server."""
        if not self.checked:
            asked = self.asked("ctxembed async")
            serving.ask(asked.base_url, "DELETE", "/faults")
            if soaking.run(asked).digest != self.expected:
                raise RuntimeError("the job does not bring the truth without faults")
            self.checked.append(True)

    def judge(self, _peer: Peer, answer: Trace) -> Verdict:
        """Correct where every vector is, no file is left open, and memory stayed within the bound."""
        stats = serving.ask(self.asked("").base_url, "GET", "/stats")
        spoilt = sum(stats["by_fault"].values())
        sound = answer.files_after <= answer.files_before and answer.growth <= soaking.GROWTH
        correct = answer.digest == self.expected
        note = f"{spoilt} of {stats['requests']} requests failed, {answer.growth / 2**20:+.0f} MB beyond the result"
        if answer.error or not correct:
            note = answer.error.partition(":")[0] or f"{answer.rows:,} rows, not all of them right"
        data = {"growth": answer.growth, "files": answer.files_after - answer.files_before, "faults": stats["by_fault"]}
        return Verdict(correct and sound, note, data)


PEERS = {
    SoakCase: (
        Peer("ctxembed async", _way("ctxembed async"), "ours"),
        Peer("ctxembed sync", _way("ctxembed sync"), "ours"),
        Peer("ctxembed stream", _way("ctxembed stream"), "ours"),
        Peer("perplexityai async", _way("perplexityai async")),
    ),
}


def cases(scale: Scale) -> list[Case]:
    return [SoakCase({"smoke": 200, "quick": 2_000, "full": 10_000}[scale])]


def test_soak(run, measure):
    measure(run)
