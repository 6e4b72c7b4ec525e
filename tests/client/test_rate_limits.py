"""Rate limits: set by the caller, read from headers, or learned from 429s."""

from __future__ import annotations

import gc
import threading

import anyio
import ctxembed
import numpy as np
import pytest
from ctxembed._client import AsyncClient, Client
from ctxembed._client._http.credentials import key_source
from ctxembed._client._policy import rate_limiter
from ctxembed._client._policy.clock import SYSTEM_CLOCK, Clock
from ctxembed._client._policy.concurrency import ConcurrencyLimiter
from ctxembed._client._policy.learned_rate import LearnedRate
from ctxembed._client._policy.pacing import Pacing
from ctxembed._client._policy.rate_headers import parse_rate_headers
from ctxembed._client._policy.rate_limiter import Bucket, RateLimiter, shared_rate_limiter
from ctxembed._client._runtime import current_event_loop
from ctxembed._client.base import rate_limiter_identity
from ctxembed._server.rate_limiter import Bucket as ServerBucket
from hypothesis import given
from hypothesis import strategies as st

from .conftest import KEY, FakeClock, make_documents, response_body

ONE = ctxembed.Limits(documents=1)


@pytest.fixture
def server_options(server):
    return {"base_url": server.base_url, "limits": ONE}


def test_a_bucket_allows_a_burst_of_one_second():
    bucket = Bucket(300)
    starts = []
    for _ in range(8):
        at = bucket.earliest_start(10.0)
        bucket.take(1, at)
        starts.append(round(at, 6))
    assert starts == [10.0] * 5 + [10.2, 10.4, 10.6]


@given(st.floats(1, 1e6), st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5)), min_size=1, max_size=60))
def test_any_minute_stays_within_the_rate_plus_one_second_and_one_start(rate, arrivals):
    bucket, now, starts = Bucket(rate), 0.0, []
    for gap, units in arrivals:
        now = bucket.earliest_start(now + gap)
        bucket.take(units, now)
        starts.append((now, units))
    for first, _ in starts:
        inside = [units for at, units in starts if first <= at < first + 60]
        assert sum(inside[:-1]) <= (rate + rate / 60) * (1 + 1e-9)


def test_unused_units_return_to_the_bucket():
    bucket = Bucket(60)
    bucket.take(10, 0.0)
    assert bucket.earliest_start(0.0) == 10.0
    bucket.give_back(7)
    assert bucket.earliest_start(0.0) == 3.0


@pytest.mark.parametrize("option", ["requests_per_minute", "tokens_per_minute"])
def test_requests_are_spaced_after_a_burst_of_one_second(driver, server, control, option):
    clock = FakeClock()
    rate = {"requests_per_minute": 120, "tokens_per_minute": 6_000}[option]
    client = {"base_url": server.base_url, "limits": ctxembed.Limits(documents=1), "max_concurrency": 1, option: rate}
    client["token_counter"] = lambda texts: [150 for _ in texts]
    driver.embed([["a"]] * 5, _client=client, _clock=clock)
    if option == "requests_per_minute":
        assert clock.slept == [0.5] * 3
    else:
        # At 150 tokens each would delay the next by half a second. The API counts far fewer, so hardly any waits.
        assert sum(clock.slept) < 0.5


def test_a_cancelled_wait_reserves_nothing():
    async def main():
        concurrency = ConcurrencyLimiter(1, current_event_loop)
        limiter, clock = RateLimiter(), Clock(monotonic=lambda: 0.0)
        pacing = Pacing(limiter, concurrency, requests_per_minute=60, tokens_per_minute=None, clock=clock)
        assert await pacing.wait(1)
        with anyio.move_on_after(0.01) as scope:
            await pacing.wait(1)
        assert scope.cancelled_caught
        return limiter.reserve(1, limiter.bucket("requests", 60), None, 0.0)

    assert anyio.run(main) == 1.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2"}, {"requests": (0, 2)}),
        ({"x-ratelimit-remaining-requests": "7", "x-ratelimit-reset-requests": "120ms"}, {"requests": (7, 0.12)}),
        ({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "1h2m3s"}, {"tokens": (5, 3723)}),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "2000000060"}, {"requests": (0, 60)}),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1999999999"}, {"requests": (0, 0)}),
        ({"x-ratelimit-remaining-requests": "0"}, {}),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "2"}, {}),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"}, {}),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": ""}, {}),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9" * 400}, {"requests": (0, 604_800)}),
        (
            {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9" * 400 + "h"},
            {"requests": (0, 604_800)},
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "2000000060500"}, {"requests": (0, 60.5)}),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "\u0661s"}, {}),
        ({"x-ratelimit-remaining": "\u0660", "x-ratelimit-reset": "1s"}, {}),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1e400"}, {}),
        ({"x-ratelimit-remaining": "NaN", "x-ratelimit-reset": "1"}, {}),
        ({"x-ratelimit-remaining": "9" * 400, "x-ratelimit-reset": "1"}, {"requests": (float("inf"), 1)}),
        ({}, {}),
    ],
)
def test_rate_headers_are_parsed(headers, expected):
    assert parse_rate_headers(headers, now=2_000_000_000.0) == expected


def test_requests_wait_for_the_reset_when_none_remain(driver, server_options, control, clock):
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "4.5s"}
    control.faults("none", {"headers": headers}, "none")
    driver.embed(make_documents(4), _client={**server_options, "max_concurrency": 1}, _clock=clock)
    assert clock.slept == [4.5]


def test_a_request_of_more_tokens_than_remain_waits_for_the_reset(driver, server_options, control, clock):
    headers = {"x-ratelimit-remaining-tokens": "50", "x-ratelimit-reset-tokens": "3s"}
    control.faults({"headers": headers})
    client = {**server_options, "max_concurrency": 1, "token_counter": lambda texts: [len(text) for text in texts]}
    driver.embed([["x" * 10], ["x" * 30], ["x" * 30]], _client=client, _clock=clock)
    assert clock.slept == [3.0]


def test_clients_of_one_key_and_host_share_a_retry_after(scripted_server, clock):
    def script(request):
        first = len(scripted_server.requests) == 1
        return (429, {"retry-after": "1"}, b"") if first else (200, {}, response_body(request["input"]))

    scripted_server.script = script
    options = {"base_url": scripted_server.base_url, "clock": clock}
    with Client(KEY, **options, max_retries=0) as one:
        with pytest.raises(ctxembed.RateLimitError):
            one.create([["a"]])
        with Client("another-key", **options) as stranger:
            stranger.create([["a"]])
        assert clock.slept == []

        async def main():
            async with AsyncClient(KEY, **options | {"base_url": scripted_server.base_url + "/v1"}) as other:
                await other.create([["a"]])

        anyio.run(main, backend="trio")
        assert clock.slept == [1.0]


def limiter_for(key, url, clock=SYSTEM_CLOCK):
    return shared_rate_limiter(rate_limiter_identity(key_source(key), url, clock))


def test_a_rate_limiter_is_shared_by_key_and_host_and_holds_no_key():
    shared = limiter_for(KEY, "https://a.example/x")
    assert limiter_for(KEY, "https://A.example/y") is shared
    assert limiter_for(KEY, "https://b.example") is not shared
    assert limiter_for("other", "https://a.example") is not shared
    assert limiter_for(lambda: KEY, "https://a.example") is not shared
    gc.collect()
    identities = [repr(identity) for identity in rate_limiter._SHARED]
    assert not any(KEY in identity for identity in identities)
    del shared
    gc.collect()
    assert len(rate_limiter._SHARED) == len(identities) - 1


def test_clients_with_different_clocks_share_no_rate_limiter():
    assert limiter_for(KEY, "https://a.example", FakeClock()) is not limiter_for(KEY, "https://a.example")


def test_clients_with_the_same_limit_share_its_bucket():
    limiter = RateLimiter()
    bucket = limiter.bucket("requests", 60.0)
    assert limiter.bucket("requests", 60.0) is bucket
    assert limiter.bucket("requests", 61.0) is not bucket
    assert limiter.bucket("requests", None) is None
    granted = []

    def reserve():
        granted.extend(1 for _ in range(1000) if limiter.reserve(1, bucket, None, 5.0) == 0)

    threads = [threading.Thread(target=reserve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert granted == [1]


def simulate(rate, burst, *, minutes, latency=0.02, concurrency=8, has_retry_after=True):
    """Send requests to a leaky bucket on a simulated clock. Return the responses in time order, as (time, accepted)."""
    limiter, server = RateLimiter(), ServerBucket(60 * rate, burst)
    now, log, in_flight = 0.0, [], []
    while now < 60 * minutes:
        if in_flight and (len(in_flight) >= concurrency or in_flight[0][0] <= now):
            at, started, wait = in_flight.pop(0)
            now = max(now, at)
            if wait:
                limiter.refused(started, now, float(max(1, np.ceil(wait))) if has_retry_after else None)
            else:
                limiter.accepted(started, now)
            log.append((now, not wait))
            continue
        wait = limiter.reserve(1, None, None, now)
        if wait == 0:
            in_flight.append((now + latency, now, server.take(1, now + latency / 2)))
        elif in_flight and in_flight[0][0] <= now + wait:
            now = in_flight[0][0]
        else:
            now += wait + 0.0005  # the delay of a timer
    return log


@pytest.mark.parametrize("has_retry_after", [True, False])
@pytest.mark.parametrize("burst", [2, 20, 200])
@pytest.mark.parametrize("rate", [0.5, 5, 50])
def test_an_unknown_rate_is_learned_and_kept(rate, burst, has_retry_after):
    log = simulate(rate, burst, minutes=12, has_retry_after=has_retry_after)
    steady = [ok for at, ok in log if at > 60]
    refused = steady.count(False) / len(steady)
    throughput = steady.count(True) / (11 * 60)
    assert refused <= 0.02
    assert throughput >= 0.9 * rate


def test_a_rate_that_falls_is_followed():
    limiter, fast, slow = RateLimiter(), ServerBucket(60 * 40, 5), ServerBucket(60 * 10, 5)
    now, accepted = 0.0, []
    while now < 240:
        wait = limiter.reserve(1, None, None, now)
        if wait:
            now += wait
            continue
        if (slow if now > 120 else fast).take(1, now):
            limiter.refused(now, now, 1.0)
        else:
            limiter.accepted(now, now)
            accepted.append(now)
        now += 0.001
    assert sum(at < 120 for at in accepted) > 0.85 * 40 * 120
    assert sum(at > 150 for at in accepted) > 0.85 * 10 * 90


def test_occasional_429s_without_retry_after_set_no_rate():
    rate = LearnedRate()
    for number in range(1000):
        rate.start(number / 100)
        if number % 10 == 9:
            rate.refused(number / 100, number / 100, has_retry_after=False)
        else:
            rate.accepted(number / 100)
    assert rate.per_second(10.0) == float("inf")


def refuse(limiter, *, started, retry_after=1.0):
    limiter.refused(started, started + 0.05, retry_after)


def test_requests_accepted_during_a_retry_after_lift_it():
    limiter = RateLimiter()
    refuse(limiter, started=0.0)
    assert limiter.blocked(0.05) == 1.0
    for number in range(1, 8):
        limiter.accepted(number / 1000, 0.05 + number / 1000)
    assert limiter.reserve(1, None, None, 0.06) > 0.9
    limiter.accepted(0.008, 0.06)
    assert limiter.blocked(0.06) == 0
    assert limiter.reserve(1, None, None, 0.06) == 0
    refuse(limiter, started=0.1)
    assert limiter.blocked(0.15) == 0


@pytest.mark.parametrize("when", ["before it", "after it"])
def test_responses_outside_a_retry_after_do_not_lift_it(when):
    limiter = RateLimiter()
    refuse(limiter, started=1.0)
    for number in range(1, 20):
        if when == "before it":
            limiter.accepted(1.0 - number / 1000, 1.06)
        else:
            limiter.accepted(1.0 + number / 1000, 2.1)
    assert limiter.blocked(1.1) == pytest.approx(0.95)
    refuse(limiter, started=3.0)
    assert limiter.blocked(3.05) == 1.0


def test_refusals_during_a_retry_after_restore_it():
    limiter = RateLimiter()
    refuse(limiter, started=0.0)
    for number in range(1, 17):
        limiter.accepted(number / 1000, 0.1)
    for number in range(4):
        refuse(limiter, started=0.2 + number / 100)
    assert limiter.blocked(0.3) == 0
    refuse(limiter, started=0.25, retry_after=60.0)
    refuse(limiter, started=0.26, retry_after=60.0)
    assert limiter.blocked(0.31) == 60.0


def test_a_retry_after_that_refuses_all_requests_is_kept():
    limiter = RateLimiter()
    for second in range(40):
        for number in range(16):
            limiter.accepted(second + number / 100, second + number / 100 + 0.05)
        for number in range(16, 20):
            refuse(limiter, started=second + number / 100, retry_after=0.5)
        assert limiter.blocked(second + 0.25) > 0.4


def test_a_limited_server_refuses_few_requests(driver, fresh_server, control_of):
    server = fresh_server(requests_per_minute=60 * 40)
    client = {"base_url": server.base_url, "limits": ONE}
    emb = driver.embed(make_documents(160), _client=client)
    assert not emb.failures
    stats = control_of(server).stats()
    assert stats["by_status"].get("429", 0) <= 30
