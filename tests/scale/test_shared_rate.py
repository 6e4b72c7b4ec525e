"""Processes that share a limiter against a server of unknown rate, whichever of them dies: the server's counts."""

from __future__ import annotations

import signal
import statistics
import time

import httpx
import pytest

from tests.limiter.processes import processes, run_limiter, run_worker

PER_SECOND = 20
BURST = 10
PROCESSES = 6
COUNT = 100  # documents of each process
LEAST = {"nobody": 0.9, "a client": 0.9, "the limiter": 0.8, "the limiter for good": 0.8, "a hung limiter": 0.8}
"""Share of the rate that is used. Without the limiter processes go on a little slower than with it."""


@pytest.fixture
def start():
    with processes() as starting:
        yield starting


@pytest.fixture
def base_url(fresh_server):
    base_url = fresh_server(latency=0.05).base_url
    limits = {"requests_per_minute": 60 * PER_SECOND, "burst": BURST, "retry_after": "none"}
    httpx.post(base_url + "/faults", json={"limits": limits}, trust_env=False).raise_for_status()
    return base_url


def stats(base_url):
    return httpx.get(base_url + "/stats", trust_env=False).json()


def wait_for_requests(base_url, count):
    while (found := stats(base_url))["requests"] < count:
        time.sleep(0.05)
    return max(map(int, found["by_second"]))


@pytest.mark.parametrize("victim", LEAST)
def test_the_rate_is_used_and_little_is_refused_whichever_process_dies(start, tmp_path_factory, base_url, victim):
    address = f"unix:{tmp_path_factory.mktemp('l') / 's'}"
    limiter = run_limiter(start, address)
    workers = [run_worker(start, address, base_url, number, COUNT) for number in range(PROCESSES)]
    for worker in workers:
        worker.go()
    event = wait_for_requests(base_url, COUNT * PROCESSES // 5)
    if victim == "a client":
        workers[0].signal(signal.SIGKILL)
        workers[0].end()
        del workers[0]
    elif victim == "a hung limiter":
        limiter.signal(signal.SIGSTOP)
    elif victim != "nobody":
        limiter.signal(signal.SIGKILL)
        limiter.end()
        if victim == "the limiter":
            wait_for_requests(base_url, COUNT * PROCESSES // 4)
            run_limiter(start, address)
    assert [worker.read() for worker in workers] == [str(COUNT)] * len(workers)
    found = stats(base_url)
    # While all processes have documents left. Of these seconds the better half counts: in the others a busy machine did
    # something else. The simulations of tests/bench/test_internet_scale.py depend on no machine, and take all of them.
    seconds = [found["by_second"].get(str(event + number), {}) for number in range(1, 13)]
    accepted = sorted(counts.get("200", 0) for counts in seconds)
    assert statistics.mean(accepted[len(accepted) // 2 :]) >= LEAST[victim] * PER_SECOND
    assert sum(counts.get("429", 0) for counts in seconds) <= 0.02 * COUNT * PROCESSES
    # At first the rate is found by refusals: of a burst of all that may be in flight, twice.
    assert found["by_status"].get("429", 0) <= 2 * 8 * PROCESSES
