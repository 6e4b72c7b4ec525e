"""How measurements become tests: one for each (case, pass, threads, peer)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from benches.harness import rounds_for, runs, warmed

if TYPE_CHECKING:
    from benches.harness import Run


SETTLE = 0.05
"""Seconds before a measurement: the threads that OpenMP and OpenBLAS leave behind spin for some 30 ms."""


def pytest_addoption(parser):
    group = parser.getgroup("ctxembed benches")
    group.addoption("--scale", choices=["quick", "full"], default="full", help="sizes of the inputs")
    group.addoption("--passes", type=int, default=1, help="passes over all peers of a case")
    group.addoption("--budget", type=float, default=0.2, help="seconds of rounds for a peer in a pass")


def pytest_generate_tests(metafunc):
    if "run" in metafunc.fixturenames:
        smoke = metafunc.config.getoption("benchmark_disable")
        cases = metafunc.module.cases("smoke" if smoke else metafunc.config.getoption("scale"))
        measurements = runs(cases, 1 if smoke else metafunc.config.getoption("passes"))
        metafunc.parametrize("run", measurements, ids=str)


@pytest.fixture(scope="session")
def _seconds():
    """How long the calls of earlier passes took, by case, peer and threads."""
    return {}


@pytest.fixture
def measure(benchmark, request, _seconds):
    """Measure a run, judge its answer, and leave all that a report needs beside the times."""
    budget = request.config.getoption("budget")

    def measured(run: Run) -> None:
        case, peer = run.case, run.peer
        call = peer.prepare(case, run.threads)
        if benchmark.disabled:
            answer = benchmark(call)
        elif case.once:
            answer = benchmark.pedantic(call, rounds=1, iterations=1)
        else:
            time.sleep(SETTLE)
            # What takes longer than the budget is warm from the pass before.
            key = case, peer, run.threads
            if _seconds.get(key, 0) <= budget:
                _seconds[key] = warmed(call, budget / 3)
            rounds, iterations = rounds_for(_seconds[key], budget)
            answer = benchmark.pedantic(call, rounds=rounds, iterations=iterations)
        verdict = case.judge(peer, answer)
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
        # A peer that turns out wrong at full size is reported as such; it does not cost the other measurements.
        reported = not benchmark.disabled and peer.kind == "peer"
        assert verdict.correct or not peer.exact or reported, f"{peer.name} on {case.label}: wrong, {verdict.note}"

    return measured
