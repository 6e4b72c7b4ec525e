"""Retries: their delays, Retry-After, max_wait and the retry budget."""

from __future__ import annotations

from email.utils import formatdate

import ctxembed
import pytest
from ctxembed._client import Client
from ctxembed._client._policy.clock import Clock
from ctxembed._client._policy.retry import RetryBudget, RetryPolicy, retry_after
from hypothesis import given
from hypothesis import strategies as st

from .conftest import KEY, make_documents

ONE = ctxembed.Limits(documents=1)


@pytest.fixture
def server_options(server):
    return {"base_url": server.base_url, "limits": ONE}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("1.5", 1.5),
        (" 7 ", 7.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 0.0),
        ("Thursday, 01-Jan-70 00:02:00 GMT", 20.0),
        ("Thu Jan  1 00:02:00 1970", 20.0),
        ("-1", None),
        ("1e3", None),
        ("inf", None),
        ("\u0661", None),
        ("", None),
        ("tomorrow", None),
    ],
)
def test_retry_after_is_parsed(value, expected):
    assert retry_after({"retry-after": value}, now=100.0) == expected


WEEK = 604_800.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "9" * 309}, WEEK),
        ({"retry-after": "9" * 10_000}, WEEK),
        ({"retry-after": "604801"}, WEEK),
        ({"retry-after": "604799"}, 604_799.0),
        ({"retry-after": "0." + "0" * 400 + "1"}, 0.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, WEEK),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359"}, WEEK),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 +2359"}, 0.0),
        ({"retry-after": "Fri, 31 Dec 99999 23:59:59 GMT"}, None),
        ({"retry-after": "Fri, 31 Dec 2100 23:59:59 +" + "9" * 400}, None),
        ({"retry-after": "1e400"}, None),
        ({"retry-after": "NaN"}, None),
        ({"retry-after": "\u0661\u0662"}, None),
        ({"retry-after": "\u00b2"}, None),
        ({"retry-after": "."}, None),
        ({"retry-after": "3, 5"}, None),
        ({"retry-after": "x" * 100_000}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "-3", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "9" * 400}, WEEK),
    ],
)
def test_an_absurd_retry_after_is_ignored_or_counts_as_a_week(headers, expected):
    assert retry_after(headers, now=100.0) == expected


@pytest.mark.parametrize("name", ["retry-after", "retry-after-ms"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_of_many_digits_does_not_break_later_calls_of_the_key(server, control, clock, name, status):
    control.faults({"status": status, "headers": {name: "9" * 309}})
    with Client(KEY, base_url=server.base_url, clock=clock) as client:
        with pytest.raises(ctxembed.APIStatusError) as caught:
            client.create([["a"]])
        assert caught.value.status_code == status
        for _ in range(2):
            with pytest.raises(ctxembed.EmbedError, match=r"no request for another \d{6} seconds") as caught:
                client.embed([["a"]])
            assert isinstance(caught.value.__cause__, ctxembed.RateLimitError)
        clock.advance(WEEK)
        assert len(client.embed([["a"]])) == 1


def test_retry_after_is_none_without_the_header():
    assert retry_after({}, now=0.0) is None


@given(st.integers(0, 2000), st.floats(0, 1))
def test_backoff_never_exceeds_its_maximum(retries, chance):
    clock = Clock(random=lambda: chance)
    delay = RetryPolicy(max_retries=10_000).delay(ctxembed.APITimeoutError("late"), retries, None, clock)
    assert 0 <= delay <= min(20.0, 0.5 * 2.0 ** min(retries, 64))


@pytest.mark.parametrize(
    "error",
    [
        ctxembed.BadRequestError("no", 400),
        ctxembed.AuthenticationError("no", 401),
        ctxembed.DecodeError("no", "json", 0),
    ],
)
def test_permanent_errors_are_not_retried(error):
    assert RetryPolicy(max_retries=4).delay(error, 0, None, Clock()) is None


def test_backoff_is_exponential_with_full_jitter(driver, server_options, control, clock):
    control.faults({"status": 500, "times": 9})
    with pytest.raises(ctxembed.InternalServerError):
        driver.create([["a"]], _client={**server_options, "max_retries": 8}, _clock=clock)
    assert clock.slept == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_retry_after_in_seconds_replaces_the_backoff(driver, server_options, control, clock):
    control.faults({"status": 429, "headers": {"retry-after": "7"}}, {"status": 503, "headers": {"retry-after": "0"}})
    assert len(driver.create([["a"]], _client=server_options, _clock=clock)) == 1
    assert clock.slept == [7.0]


def test_retry_after_as_a_date_replaces_the_backoff(driver, server_options, control, clock):
    control.faults({"status": 429, "headers": {"retry-after": formatdate(1_000_012, usegmt=True)}})
    driver.create([["a"]], _client=server_options, _clock=clock)
    assert clock.slept == [12.0]


def test_an_invalid_retry_after_is_ignored(driver, server_options, control, clock):
    control.faults(*({"status": 429, "headers": {"retry-after": value}} for value in ("soon", "-5", "nan", "1e9")))
    driver.create([["a"]], _client=server_options, _clock=clock)
    assert clock.slept == [0.25, 0.5, 1.0, 2.0]


def test_a_retry_after_blocks_all_requests(driver, server_options, control, clock):
    control.faults({"status": 429, "headers": {"retry-after": "9"}})
    emb = driver.embed(make_documents(3), _client={**server_options, "max_concurrency": 1}, _clock=clock)
    assert len(emb) == 3
    assert clock.slept == [9.0]


def test_without_retries_one_attempt_is_sent(driver, server_options, control, clock):
    control.faults("429")
    with pytest.raises(ctxembed.RateLimitError):
        driver.create([["a"]], _client={**server_options, "max_retries": 0}, _clock=clock)
    assert control.stats()["requests"] == 1


def test_a_retry_after_beyond_max_wait_is_raised(driver, server_options, control, clock):
    control.faults({"status": 429, "headers": {"retry-after": "3600"}})
    with pytest.raises(ctxembed.RateLimitError) as caught:
        driver.create([["a"]], _client=server_options, _clock=clock)
    assert clock.slept == []
    assert caught.value.headers["retry-after"] == "3600"


@pytest.mark.parametrize(("seconds", "max_wait"), [("3600", 3600), ("90000", None)])
def test_a_retry_after_within_max_wait_is_waited_for(driver, server_options, control, clock, seconds, max_wait):
    control.faults({"status": 429, "headers": {"retry-after": seconds}})
    assert len(driver.create([["a"]], _client={**server_options, "max_wait": max_wait}, _clock=clock)) == 1
    assert clock.slept == [float(seconds)]


def test_a_retry_after_beyond_max_wait_ends_the_job(driver, server_options, control, clock):
    control.faults("none", {"status": 429, "headers": {"retry-after": "61"}})
    client = {**server_options, "max_wait": 60, "max_concurrency": 1}
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed(make_documents(9), _client=client, _clock=clock)
    assert control.stats()["requests"] == 2
    assert clock.slept == []
    assert isinstance(caught.value.__cause__, ctxembed.RateLimitError)
    assert len(caught.value.failures) == 8
    assert len(caught.value.partial[0]) == 1
    assert {failure.error.headers["retry-after"] for failure in caught.value.failures} == {"61"}


@pytest.mark.parametrize("method", ["embed", "stream"])
def test_a_job_ends_early_when_the_api_is_down(driver, server_options, control, clock, method):
    control.faults("none", {"status": 500, "times": 10_000})
    with pytest.raises(ctxembed.EmbedError) as caught:
        getattr(driver, method)(make_documents(400), _client={**server_options, "max_concurrency": 4}, _clock=clock)
    assert isinstance(caught.value.__cause__, ctxembed.InternalServerError)
    assert control.stats()["requests"] < 120
    if method == "embed":
        assert len(caught.value.failures) == 399
        assert sum(map(len, caught.value.partial)) > 0


def test_without_a_budget_each_request_has_all_its_retries(driver, server_options, control, clock):
    control.faults({"status": 500, "times": 10_000})
    client = {**server_options, "max_concurrency": 4, "retry_budget": None, "max_retries": 2}
    with pytest.raises(ctxembed.EmbedError):
        driver.embed(make_documents(40), _client=client, _clock=clock)
    assert control.stats()["requests"] == 120


def test_a_job_completes_when_every_third_attempt_fails(driver, server_options, control, clock):
    control.faults(*[{"status": 500}, "none", "none"] * 100)
    emb = driver.embed(make_documents(150), _client={**server_options, "max_retries": 12}, _clock=clock)
    assert not emb.failures


@given(st.lists(st.booleans(), max_size=400), st.floats(0, 2), st.integers(1, 40))
def test_retries_stay_within_the_budget(is_retry, share, reserve):
    budget, requests, retries = RetryBudget(share, reserve), 0, 0
    for retry in is_retry:
        if retry:
            retries += budget.spend()
        else:
            budget.request()
            requests += 1
        assert retries <= reserve + share * requests + 1e-6
