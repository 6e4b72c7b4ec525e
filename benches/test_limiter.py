"""Processes against one rate limit that they do not know: with a limiter that they share, and each by itself.

Six processes embed at once through a local server. 200 workers are simulated, since no machine here holds them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ctxembed._server import ServerConfig

from benches import serving, simulation
from benches.harness import Case, Peer, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.harness import Scale

GROUP = "limiter"
DIMENSIONS = 128
PROCESSES = 6
WORKER = """
import sys
import ctxembed
from benches import serving

base_url, limiter, number, count, dimensions = sys.argv[1:]
documents = serving.documents(int(number) + int(count))[int(number):]
options = {"limiter": ctxembed.limiter(limiter) if limiter else None, "limits": ctxembed.Limits(documents=1)}
with ctxembed.Client(serving.KEY, base_url=base_url, max_retries=100, retry_budget=None, **options) as client:
    client.embed([["the connection is open"]])
    print(flush=True)
    sys.stdin.readline()
    sys.stdout.buffer.write(client.embed(documents, dimensions=int(dimensions)).vectors.tobytes())
"""


@dataclass(frozen=True)
class Measured:
    """The vectors of all processes, the seconds until the last response, and the requests that the server counted."""

    rows: np.ndarray
    seconds: float
    by_status: dict[str, int]


@dataclass(frozen=True, eq=False)
class ProcessesCase(Case):
    """Six processes that share the requests of a job."""

    group: ClassVar = GROUP
    table: ClassVar = "six processes, a server of unknown rate"
    once: ClassVar = True
    timed: ClassVar = True
    threads: ClassVar = (1,)
    per_second: float
    requests: int
    burst: int
    retry_after: str

    @property
    def label(self) -> str:
        header = {"none": "without", "seconds": "with"}[self.retry_after]
        return f"{self.requests} requests, {self.per_second:g} a second, {header} Retry-After"

    @property
    def size(self) -> dict[str, int]:
        return {"requests": self.requests, "per_minute": round(60 * self.per_second), "burst": self.burst}

    @property
    def ideal(self) -> float:
        return (self.requests - self.burst) / self.per_second

    @cached_property
    def expected(self) -> np.ndarray:
        return serving.expected_vectors(serving.documents(self.requests), DIMENSIONS)

    def judge(self, _peer: Peer, result: Measured) -> Verdict:
        refused = result.by_status.get("429", 0)
        data = {
            "ideal": round(self.ideal, 3),
            "of_ideal": round(result.seconds / self.ideal, 4),
            "refusals": refused,
            "processes": PROCESSES,
        }
        note = f"{result.seconds / self.ideal:.2f}x of {self.ideal:.0f} s, {refused} refused"
        return Verdict(np.array_equal(result.rows, self.expected), note, data)


def _run(case: ProcessesCase, *, shared: bool) -> Measured:
    base_url = serving.server(ServerConfig(latency=0.05))
    serving.call_server(base_url, "DELETE", "/faults")
    with ExitStack() as stack:

        def start(*command: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=Path(__file__).parent.parent,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            process.stdout.readline()
            return process

        address = ""
        if shared:
            address = f"unix:{stack.enter_context(tempfile.TemporaryDirectory())}/limiter"
            start("-m", "ctxembed", "limiter", "--listen", address)
        each = case.requests // PROCESSES
        workers = [
            start("-c", WORKER, base_url, address, str(n * each), str(each), str(DIMENSIONS)) for n in range(PROCESSES)
        ]
        limits = {
            "requests_per_minute": case.per_second * 60,
            "burst": case.burst,
            "retry_after": case.retry_after,
        }
        serving.call_server(base_url, "POST", "/faults", {"limits": limits})
        serving.call_server(base_url, "DELETE", "/stats")
        began = time.monotonic()
        for worker in workers:
            worker.stdin.write(b"\n")
            worker.stdin.flush()
        outputs = [worker.communicate()[0] for worker in workers]
    stats = serving.call_server(base_url, "GET", "/stats")
    seconds = max(record["at"] + record["seconds"] for record in stats["recent"]) - began  # on the same clock
    rows = np.concatenate([np.frombuffer(output, np.int8).reshape(-1, DIMENSIONS) for output in outputs])
    serving.call_server(base_url, "DELETE", "/faults")
    return Measured(rows, seconds, stats["by_status"])


@dataclass(frozen=True, eq=False)
class SimulationCase(Case):
    """Simulated workers, with stragglers, errors, workers that are killed and a limiter that is."""

    group: ClassVar = GROUP
    table: ClassVar = "simulated workers"
    once: ClassVar = True
    timed: ClassVar = True
    threads: ClassVar = (1,)
    setting: simulation.Setting

    @property
    def label(self) -> str:
        setting = self.setting
        return f"{setting.workers} workers, {setting.requests:,} requests, {setting.per_second:g} a second"

    @property
    def size(self) -> dict[str, int]:
        setting = self.setting
        return {"workers": setting.workers, "requests": setting.requests, "per_minute": round(60 * setting.per_second)}

    def judge(self, _peer: Peer, result: simulation.Result) -> Verdict:
        share = result.refused / (result.accepted + result.refused)
        found = asdict(result)
        del found["by_second"]
        data = {f"simulated_{name}": value for name, value in found.items()}
        note = f"{result.rate_used:.1%} of the rate, {share:.1%} refused, {result.deaths} workers killed"
        return Verdict(result.accepted >= self.setting.requests, note, data)


def _processes(*, shared: bool) -> Callable[[Any, int], Callable[[], Measured]]:
    return lambda case, _threads: lambda: _run(case, shared=shared)


def _simulated(*, shared: bool) -> Callable[[Any, int], Callable[[], simulation.Result]]:
    return lambda case, _threads: lambda: simulation.simulate(replace(case.setting, shared=shared))


PEERS = {
    ProcessesCase: (
        Peer("shared limiter", _processes(shared=True), "ours"),
        Peer("each by itself", _processes(shared=False), "ours"),
    ),
    SimulationCase: (
        Peer("shared limiter", _simulated(shared=True), "ours"),
        Peer("each by itself", _simulated(shared=False), "ours"),
    ),
}


def cases(scale: Scale) -> list[Case]:
    if scale == "smoke":
        return [ProcessesCase(100, 60, 20, "none"), SimulationCase(replace(simulation.PAGE, workers=5, requests=200))]
    if scale == "quick":
        return [ProcessesCase(50, 300, 20, "none"), SimulationCase(replace(simulation.PAGE, requests=6_000))]
    return [
        ProcessesCase(20, 630, 10, "none"),
        ProcessesCase(20, 630, 10, "seconds"),
        SimulationCase(simulation.PAGE),
    ]


def test_limiter(run, measure):
    measure(run)
