"""Processes that share a limiter against a server of unknown rate, whichever of them dies: the server's counts."""

from __future__ import annotations

import signal
import time

import httpx
import pytest

from tests.limiter.processes import processes, run_limiter, run_worker

PER_SECOND = 100
BURST = 50
PROCESSES = 6


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
    return found


def check(found):
    """Require 90% of the rate while requests came, and 2% refused beside those that showed the rate at first."""
    accepted, refused = found["by_status"]["200"], found["by_status"].get("429", 0)
    seconds = max(map(int, found["by_second"])) - min(map(int, found["by_second"])) - 1
    assert accepted >= 0.9 * PER_SECOND * seconds
    assert refused <= 0.02 * accepted + BURST


@pytest.mark.parametrize("victim", ["nobody", "a client", "the limiter", "the limiter for good", "a hung limiter"])
def test_the_rate_is_used_and_little_is_refused_whichever_process_dies(start, tmp_path_factory, base_url, victim):
    address = f"unix:{tmp_path_factory.mktemp('l') / 's'}"
    limiter = run_limiter(start, address)
    count = 200
    workers = [run_worker(start, address, base_url, number, count) for number in range(PROCESSES)]
    for worker in workers:
        worker.go()
    wait_for_requests(base_url, 300)
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
            wait_for_requests(base_url, 500)
            run_limiter(start, address)
    assert [worker.read() for worker in workers] == [str(count)] * len(workers)
    check(stats(base_url))
