"""Measurements as tests: one test for each (case, pass, threads, peer)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from benches.harness import rounds_for, runs, warmed

if TYPE_CHECKING:
    from benches.harness import Run


SETTLE = 0.05
"""Seconds to wait before a measurement: threads of OpenMP and OpenBLAS spin for some 30 ms after their last call."""


def pytest_addoption(parser):
    group = parser.getgroup("ctxembed benches")
    group.addoption("--scale", choices=["quick", "full"], default="full", help="sizes of the inputs")
    group.addoption("--passes", type=int, default=1, help="passes over all peers of a case")
    group.addoption("--budget", type=float, default=0.2, help="seconds of rounds for a peer in a pass")


def pytest_generate_tests(metafunc):
    if "run" in metafunc.fixturenames:
        module, config = metafunc.module, metafunc.config
        smoke = config.getoption("benchmark_disable")
        cases = module.cases("smoke" if smoke else config.getoption("scale"))
        measurements = runs(cases, module.PEERS, 1 if smoke else config.getoption("passes"))
        metafunc.parametrize("run", measurements, ids=str)


@pytest.fixture(scope="session")
def _seconds():
    """The durations of calls in earlier passes, by case, peer and threads."""
    return {}


@pytest.fixture
def measure(benchmark, request, _seconds):
    """Measure a run, judge its result, and record what a report needs beside the times."""
    budget = request.config.getoption("budget")

    def measured(run: Run) -> None:
        case, peer = run.case, run.peer
        call = peer.prepare(case, run.threads)
        if benchmark.disabled:
            result = benchmark(call)
        elif case.once or case.timed:
            result = benchmark.pedantic(call, rounds=1, iterations=1)
        else:
            time.sleep(SETTLE)
            # A call longer than the budget needs no second warm-up: the pass before has warmed it.
            key = case, peer, run.threads
            if _seconds.get(key, 0) <= budget:
                _seconds[key] = warmed(call, budget / 3)
            rounds, iterations = rounds_for(_seconds[key], budget)
            result = benchmark.pedantic(call, rounds=rounds, iterations=iterations)
        if case.timed and not benchmark.disabled:
            benchmark.stats.stats.data[:] = [result.seconds]
        verdict = case.judge(peer, result)
        benchmark.group = f"{case.group}: {case.label}"
        benchmark.extra_info.update(
            group=case.group,
            table=case.table,
            case=case.label,
            peer=peer.name,
            kind=peer.kind,
            threads=run.threads,
            size=case.size,
            correct=verdict.correct,
            exact=peer.exact,
            note=verdict.note,
            values=verdict.values,
        )
        # The report names a peer whose result is wrong at full size. The other measurements go on.
        reported = not benchmark.disabled and peer.kind == "peer"
        assert verdict.correct or not peer.exact or reported, f"{peer.name} on {case.label}: wrong, {verdict.note}"

    return measured
