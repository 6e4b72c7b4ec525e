"""The concurrency limiter: how many requests are in flight."""

from __future__ import annotations

import anyio
import ctxembed
import pytest
from ctxembed._client._policy.clock import Clock
from ctxembed._client._policy.concurrency import ConcurrencyLimiter
from ctxembed._client._policy.pacing import Pacing
from ctxembed._client._policy.rate_limiter import RateLimiter
from ctxembed._client._runtime import current_event_loop

from .conftest import FakeClock, make_documents


def run_with_limiter(maximum, actions):
    """Run ``actions(limiter, group)`` in an event loop and return the limiter."""

    async def main():
        limiter = ConcurrencyLimiter(maximum, current_event_loop)
        async with anyio.create_task_group() as group:
            await actions(limiter, group)
        return limiter

    return anyio.run(main)


def test_slots_are_given_in_order_and_urgent_requests_go_first():
    entered = []

    async def actions(limiter, group):
        async def use(name, first):
            await limiter.acquire(first=first)
            entered.append(name)
            limiter.release()

        await limiter.acquire()
        for name, first in [("a", False), ("b", False), ("urgent", True)]:
            group.start_soon(use, name, first)
        await anyio.wait_all_tasks_blocked()
        assert entered == []
        limiter.release()

    run_with_limiter(1, actions)
    assert entered == ["urgent", "a", "b"]


def test_a_cancelled_wait_loses_no_slot():
    async def actions(limiter, group):
        await limiter.acquire()
        with anyio.move_on_after(0.01):
            await limiter.acquire()
        limiter.release()
        for _ in range(2):
            await limiter.acquire()
            limiter.release()

    run_with_limiter(1, actions)


def test_concurrency_starts_low_and_grows_by_two_with_each_success():
    limiter = ConcurrencyLimiter(8, lambda: None)
    assert limiter.limit == 4
    limiter.increase()
    assert limiter.limit == 6
    limiter.increase()
    limiter.increase()
    assert limiter.limit == 8
    assert [ConcurrencyLimiter(maximum, lambda: None).limit for maximum in (2, 40)] == [2, 20]


def test_an_overload_halves_concurrency_once_and_successes_restore_it():
    limiter = ConcurrencyLimiter(16, lambda: None)
    for _ in range(9):
        limiter.increase()
    limiter.decrease(started=10.0, now=11.0)
    limiter.decrease(started=10.5, now=11.1)
    assert limiter.limit == 8
    limiter.decrease(started=11.5, now=12.0)
    assert limiter.limit == 4
    for _ in range(5):
        limiter.increase()
    assert limiter.limit == 5
    for _ in range(400):
        limiter.increase()
    assert limiter.limit == 16
    for started in range(20, 60):
        limiter.decrease(started=float(started), now=float(started))
    assert limiter.limit == 1


@pytest.mark.parametrize(
    ("status", "retry_after", "is_halved"), [(429, None, True), (429, 1.0, False), (503, None, True), (503, 1.0, True)]
)
def test_a_refusal_lowers_the_rate_or_the_concurrency(status, retry_after, is_halved):
    concurrency = ConcurrencyLimiter(16, lambda: None)
    pacing = Pacing(RateLimiter(), concurrency, None, None, Clock(monotonic=lambda: 2.0))
    pacing.record(status, {}, retry_after, 1.0, 2.0)
    assert concurrency.limit == (4 if is_halved else 8)
    assert pacing.blocked() == (retry_after or 0.0)


def test_fewer_requests_are_in_flight_after_a_429(driver, server, control):
    limits = ctxembed.Limits(documents=1)
    control.faults(*[{"status": 429, "delay": 0.05}] * 8, {"delay": 0.03, "times": 100})
    clock = FakeClock()
    emb = driver.embed(
        make_documents(40), _client={"base_url": server.base_url, "limits": limits, "max_concurrency": 8}, _clock=clock
    )
    assert emb.failures == ()
    assert control.stats()["by_status"]["429"] == 8
