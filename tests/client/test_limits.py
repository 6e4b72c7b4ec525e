"""What bounds a call: the API's limits, known and learned, the caller's patience, and the retry budget."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time

import anyio
import ctxembed
import numpy as np
import pytest
from ctxembed._client import AsyncClient, Client
from ctxembed._client._http.credentials import key_source
from ctxembed._client._policy import rate_limiter
from ctxembed._client._policy.clock import SYSTEM_CLOCK
from ctxembed._client._policy.hedging import HedgingPolicy
from ctxembed._client._policy.learned_rate import LearnedRate
from ctxembed._client._policy.rate_headers import parse_rate_headers
from ctxembed._client._policy.rate_limiter import Bucket, RateLimiter, shared_rate_limiter
from ctxembed._client._policy.retry import RetryBudget
from ctxembed._client.base import rate_limiter_identity
from ctxembed._server.rate_limiter import Bucket as ServerBucket
from hypothesis import given
from hypothesis import strategies as st

from .conftest import KEY, FakeClock, answer, documents_of

ONE = ctxembed.Limits(documents=1)


@pytest.fixture
def to(server):
    return {"base_url": server.base_url, "limits": ONE}


# Retry-After, and how long the caller waits


@pytest.mark.parametrize(("asked", "max_wait"), [("3600", 3600), ("90000", None)])
def test_any_time_is_waited_for_that_the_caller_allows(driver, to, control, clock, asked, max_wait):
    control.faults({"status": 429, "headers": {"retry-after": asked}})
    assert len(driver.create([["a"]], _client={**to, "max_wait": max_wait}, _clock=clock)) == 1
    assert clock.slept == [float(asked)]


def test_longer_than_the_caller_waits_is_an_error_that_nothing_else_is_sent_after(driver, to, control, clock):
    control.faults("none", {"status": 429, "headers": {"retry-after": "61"}})
    client = {**to, "max_wait": 60, "max_concurrency": 1}
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed(documents_of(9), _client=client, _clock=clock)
    assert control.stats()["requests"] == 2
    assert clock.slept == []
    assert isinstance(caught.value.__cause__, ctxembed.RateLimitError)
    assert len(caught.value.failures) == 8
    assert len(caught.value.partial[0]) == 1
    assert {failure.error.headers["retry-after"] for failure in caught.value.failures} == {"61"}


# x-ratelimit-*


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
        ({}, {}),
    ],
)
def test_what_the_api_says_is_left_is_read(headers, expected):
    assert parse_rate_headers(headers, now=2_000_000_000.0) == expected


def test_nothing_is_sent_while_no_request_is_left(driver, to, control, clock):
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "4.5s"}
    control.faults("none", {"headers": headers}, "none")
    driver.embed(documents_of(4), _client={**to, "max_concurrency": 1}, _clock=clock)
    assert clock.slept == [4.5]


def test_a_request_of_more_tokens_than_are_left_waits(driver, to, control, clock):
    headers = {"x-ratelimit-remaining-tokens": "50", "x-ratelimit-reset-tokens": "3s"}
    control.faults({"headers": headers})
    client = {**to, "max_concurrency": 1, "token_counter": lambda texts: [len(text) for text in texts]}
    driver.embed([["x" * 10], ["x" * 30], ["x" * 30]], _client=client, _clock=clock)
    assert clock.slept == [3.0]


# What clients share


def test_clients_of_one_key_and_host_share_what_the_api_says(scripted):
    def script(request):
        first = len(scripted.requests) == 1
        return (429, {"retry-after": "1"}, b"") if first else (200, {}, answer(request["input"]))

    scripted.script = script
    began = time.monotonic()
    with Client(KEY, base_url=scripted.base_url, max_retries=0) as one:
        with pytest.raises(ctxembed.RateLimitError):
            one.create([["a"]])
        held = time.monotonic()

        async def main():
            async with AsyncClient(KEY, base_url=scripted.base_url + "/v1") as other:
                await other.create([["a"]])

        anyio.run(main, backend="trio")
        assert time.monotonic() - held > 0.9
        with Client("another-key", base_url=scripted.base_url) as stranger:
            moment = time.monotonic()
            stranger.create([["a"]])
            assert time.monotonic() - moment < 0.5
    assert time.monotonic() - began < 10


def limiter_of(key, url, clock=SYSTEM_CLOCK):
    return shared_rate_limiter(rate_limiter_identity(key_source(key), url, clock))


def test_a_rate_limiter_is_shared_by_key_and_host_and_holds_no_key():
    shared = limiter_of(KEY, "https://a.example/x")
    assert limiter_of(KEY, "https://A.example/y") is shared
    assert limiter_of(KEY, "https://b.example") is not shared
    assert limiter_of("other", "https://a.example") is not shared
    assert limiter_of(lambda: KEY, "https://a.example") is not shared
    gc.collect()
    identities = [repr(identity) for identity in rate_limiter._SHARED]
    assert not any(KEY in identity for identity in identities)
    del shared
    gc.collect()
    assert len(rate_limiter._SHARED) == len(identities) - 1


def test_clients_that_give_the_same_limit_share_it():
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


# A rate limiter whose rate is unknown


def simulate(rate, burst, *, minutes, latency=0.02, concurrency=8, has_retry_after=True):
    """Send requests to a leaky bucket on a simulated clock. Return responses by time, as (time, accepted)."""
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
def test_an_unknown_rate_is_found_and_kept_to(rate, burst, has_retry_after):
    log = simulate(rate, burst, minutes=12, has_retry_after=has_retry_after)
    steady = [ok for at, ok in log if at > 60]
    refused = steady.count(False) / len(steady)
    throughput = steady.count(True) / (11 * 60)
    assert refused <= 0.02
    assert throughput >= 0.9 * rate


def test_a_rate_that_falls_is_followed():
    limiter, server = RateLimiter(), ServerBucket(60 * 40, 5)
    now, accepted = 0.0, []
    while now < 240:
        if now > 120:
            server._rate = 10
        wait = limiter.reserve(1, None, None, now)
        if wait:
            now += wait
            continue
        if server.take(1, now):
            limiter.refused(now, now, 1.0)
        else:
            limiter.accepted(now, now)
            accepted.append(now)
        now += 0.001
    assert sum(at < 120 for at in accepted) > 0.85 * 40 * 120
    assert sum(at > 150 for at in accepted) > 0.85 * 10 * 90


def test_a_429_now_and_then_that_tells_nothing_slows_nothing_down():
    rate = LearnedRate()
    for number in range(1000):
        rate.start(number / 100)
        if number % 10 == 9:
            rate.refused(number / 100, number / 100, has_retry_after=False)
        else:
            rate.accepted(number / 100)
    assert rate.per_second(10.0) == float("inf")


def refuse(limiter, *, started, asked=1.0):
    limiter.refused(started, started + 0.05, asked)


def test_what_is_let_through_in_spite_of_a_retry_after_ends_the_wait_of_the_others():
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


@pytest.mark.parametrize("when", ["before it", "later than it asked for"])
def test_what_says_nothing_of_a_retry_after_does_not_end_the_wait(when):
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


def test_a_retry_after_that_means_all_is_believed_again():
    limiter = RateLimiter()
    refuse(limiter, started=0.0)
    for number in range(1, 17):
        limiter.accepted(number / 1000, 0.1)
    for number in range(4):
        refuse(limiter, started=0.2 + number / 100)
    assert limiter.blocked(0.3) == 0
    refuse(limiter, started=0.25, asked=60.0)
    refuse(limiter, started=0.26, asked=60.0)
    assert limiter.blocked(0.31) == 60.0


def test_a_limiter_that_means_what_it_says_is_believed_all_along():
    limiter = RateLimiter()
    for second in range(40):
        for number in range(16):
            limiter.accepted(second + number / 100, second + number / 100 + 0.05)
        for number in range(16, 20):
            refuse(limiter, started=second + number / 100, asked=0.5)
        assert limiter.blocked(second + 0.25) > 0.4


def test_a_limited_server_is_kept_busy_and_hardly_refuses(driver, fresh_server, control_of):
    server = fresh_server(requests_per_minute=60 * 40)
    client = {"base_url": server.base_url, "limits": ONE}
    emb = driver.embed(documents_of(160), _client=client)
    assert not emb.failures
    stats = control_of(server).stats()
    assert stats["by_status"].get("429", 0) <= 30


# The retry budget


@pytest.mark.parametrize("method", ["embed", "stream"])
def test_a_job_against_an_api_that_is_down_ends_soon_and_says_why(driver, to, control, clock, method):
    control.faults("none", {"status": 500, "times": 10_000})
    with pytest.raises(ctxembed.EmbedError) as caught:
        getattr(driver, method)(documents_of(400), _client={**to, "max_concurrency": 4}, _clock=clock)
    assert isinstance(caught.value.__cause__, ctxembed.InternalServerError)
    assert control.stats()["requests"] < 120
    if method == "embed":
        assert len(caught.value.failures) == 399
        assert sum(map(len, caught.value.partial)) > 0


def test_without_a_budget_every_request_has_all_its_retries(driver, to, control, clock):
    control.faults({"status": 500, "times": 10_000})
    client = {**to, "max_concurrency": 4, "retry_budget": None, "max_retries": 2}
    with pytest.raises(ctxembed.EmbedError):
        driver.embed(documents_of(40), _client=client, _clock=clock)
    assert control.stats()["requests"] == 120


def test_an_api_that_fails_every_third_time_is_still_used_to_the_end(driver, to, control, clock):
    control.faults(*[{"status": 500}, "none", "none"] * 100)
    emb = driver.embed(documents_of(150), _client={**to, "max_retries": 12}, _clock=clock)
    assert not emb.failures


@given(st.lists(st.booleans(), max_size=400), st.floats(0, 2), st.integers(1, 40))
def test_retries_are_never_more_than_the_share_and_the_reserve(wishes, share, reserve):
    budget, requests, retries = RetryBudget(share, reserve), 0, 0
    for wish in wishes:
        if wish:
            retries += budget.spend()
        else:
            budget.request()
            requests += 1
        assert retries <= reserve + share * requests + 1e-6


# Deadlines


@pytest.mark.parametrize("where", ["client", "call"])
def test_a_job_ends_at_its_deadline_with_what_had_landed(driver, to, control, where):
    control.faults("none", "none", *[{"delay": 20}] * 9)
    client, call = {**to, "max_concurrency": 1}, {}
    (client if where == "client" else call)["deadline"] = 0.8
    began = time.monotonic()
    with pytest.raises(ctxembed.EmbedError, match="deadline") as caught:
        driver.embed(documents_of(30), _client=client, **call)
    assert 0.7 < time.monotonic() - began < 4
    assert isinstance(caught.value.__cause__, ctxembed.APITimeoutError)
    assert len(caught.value.failures) == 28
    assert np.diff(caught.value.partial.offsets).tolist()[:2] == [1, 2]
    assert [failure.attempts for failure in caught.value.failures] == [1] + [0] * 27


def test_one_request_ends_at_its_deadline(driver, to, control):
    control.faults({"delay": 20})
    began = time.monotonic()
    with pytest.raises(ctxembed.APITimeoutError, match="deadline"):
        driver.create([["a"]], _client=to, deadline=0.3)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_a_stream_ends_at_its_deadline_and_says_so(driver, to, on_error):
    def slowly():
        for number in itertools.count():
            time.sleep(0.02)
            yield [f"text {number}"]

    landed = []

    def progress(event):
        landed.append(event.documents_done)

    kind = ctxembed.EmbedError if on_error == "raise" else ctxembed.CtxembedError
    began = time.monotonic()
    with pytest.raises(kind, match="deadline"):
        driver.stream(slowly(), _client=to, deadline=0.7, on_error=on_error, progress=progress)
    assert time.monotonic() - began < 4
    assert landed


def test_a_wait_beyond_the_deadline_is_not_begun(driver, to, control, clock):
    control.faults({"status": 429, "headers": {"retry-after": "50"}})
    with pytest.raises(ctxembed.APITimeoutError, match="deadline of 40 seconds") as caught:
        driver.create([["a"]], _client=to, _clock=clock, deadline=40)
    assert isinstance(caught.value.__cause__, ctxembed.RateLimitError)
    assert clock.slept == []


def test_a_call_that_waits_for_the_places_of_others_has_its_deadline_too(server, control):
    control.faults(*[{"delay": 1.5}] * 2)

    async def main():
        async with AsyncClient(KEY, base_url=server.base_url, max_concurrency=1, limits=ONE) as client:
            slow = asyncio.create_task(client.create([["slow"]]))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            with pytest.raises(ctxembed.APITimeoutError, match="deadline"):
                await client.create([["a"]], deadline=0.2)
            with pytest.raises(ctxembed.EmbedError, match="deadline"):
                await client.embed([["a"]], deadline=0.2)
            assert time.monotonic() - began < 1
            await slow

    asyncio.run(main())


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_deadline_is_a_number_of_seconds(driver, to, value):
    with pytest.raises(ValueError, match="deadline"):
        driver.create([["a"]], _client=to, deadline=value)


def test_all_of_an_attempt_has_an_end_beside_the_phases(driver, to, control, clock):
    import httpx

    control.faults({"delay": 20})
    began = time.monotonic()
    client = {**to, "timeout": httpx.Timeout(30), "total_timeout": 0.3, "max_retries": 0}
    with pytest.raises(ctxembed.APITimeoutError, match=r"within 0\.3 seconds"):
        driver.create([["a"]], _client=client, _clock=clock)
    assert time.monotonic() - began < 4


# Hedging


def test_the_slowest_request_is_sent_twice_when_asked_for(driver, to, control):
    control.faults(*["none"] * 19, {"delay": 15}, "none")
    emb = driver.embed(documents_of(20), _client={**to, "max_concurrency": 2, "hedge": 0.1})
    assert not emb.failures
    assert emb.usage.requests == 20
    assert emb.usage.unreported == 1
    assert emb.usage.discarded is None


def test_a_slow_request_is_sent_again_as_soon_as_there_is_a_place(driver, to, control):
    # Both places are taken when the last request turns out to be slow: the other one is slow too.
    control.faults(*["none"] * 18, {"delay": 1}, {"delay": 15}, "none", "none")
    emb = driver.embed(documents_of(20), _client={**to, "max_concurrency": 2, "hedge": 0.1})
    assert not emb.failures
    assert emb.usage.requests == 20
    assert emb.usage.unreported >= 1


def test_nothing_is_sent_twice_unless_asked_for(driver, to, control):
    control.faults(*["none"] * 19, {"delay": 0.5}, "none")
    driver.embed(documents_of(20), _client={**to, "max_concurrency": 2})
    assert control.stats()["requests"] == 20


def test_hedges_stay_within_their_share():
    hedger = HedgingPolicy(0.1)
    hedges = 0
    for _ in range(1000):
        hedger.record(1.0)
        if hedger.delay() is not None:
            hedger.spend()
            hedges += 1
    assert hedges <= 101
    assert HedgingPolicy(None).delay() is None


def test_a_hedge_that_comes_second_is_counted_apart():
    usage = ctxembed.Usage(10, 10, None, 1) + ctxembed.Usage(7, 7, None, 1).thrown_away()
    assert (usage.total_tokens, usage.discarded.total_tokens, usage.discarded.requests) == (17, 7, 1)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (1, ValueError), (2.0, ValueError), ("a", TypeError)])
def test_a_hedge_is_a_share(value, error):
    with pytest.raises(error, match="hedge"):
        Client(KEY, hedge=value)


def test_a_bucket_lets_a_second_go_at_once():
    bucket = Bucket(300)
    starts = []
    for _ in range(8):
        at = bucket.earliest_start(10.0)
        bucket.take(1, at)
        starts.append(round(at, 6))
    assert starts == [10.0] * 5 + [10.2, 10.4, 10.6]


def test_clients_of_different_clocks_share_no_rate_limiter():
    assert limiter_of(KEY, "https://a.example", FakeClock()) is not limiter_of(KEY, "https://a.example")
