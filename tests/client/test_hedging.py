"""Hedging: a slow request is sent a second time."""

from __future__ import annotations

import ctxembed
import pytest
from ctxembed._client import Client
from ctxembed._client._policy.hedging import HedgingPolicy

from .conftest import KEY, make_documents

ONE = ctxembed.Limits(documents=1)


@pytest.fixture
def server_options(server):
    return {"base_url": server.base_url, "limits": ONE}


def test_the_slowest_request_is_hedged(driver, server_options, control):
    control.faults(*["none"] * 19, {"delay": 15}, "none")
    emb = driver.embed(make_documents(20), _client={**server_options, "max_concurrency": 2, "hedge": 0.1})
    assert not emb.failures
    assert emb.usage.requests == 20
    assert emb.usage.unreported == 1
    assert emb.usage.discarded is None


def test_a_hedge_starts_when_a_slot_is_free(driver, server_options, control):
    # Both slots are taken when the last request turns out to be slow, because the one before it is slow too.
    control.faults(*["none"] * 18, {"delay": 1}, {"delay": 15}, "none", "none")
    emb = driver.embed(make_documents(20), _client={**server_options, "max_concurrency": 2, "hedge": 0.1})
    assert not emb.failures
    assert emb.usage.requests == 20
    assert emb.usage.unreported >= 1


def test_hedging_is_off_by_default(driver, server_options, control):
    control.faults(*["none"] * 19, {"delay": 0.5}, "none")
    driver.embed(make_documents(20), _client={**server_options, "max_concurrency": 2})
    assert control.stats()["requests"] == 20


def test_hedges_stay_within_their_share():
    policy = HedgingPolicy(0.1)
    hedges = 0
    for _ in range(1000):
        policy.record(1.0)
        if policy.delay() is not None:
            policy.spend()
            hedges += 1
    assert hedges <= 101
    assert HedgingPolicy(None).delay() is None


def test_usage_of_a_discarded_hedge_is_counted_apart():
    usage = ctxembed.Usage(10, 10, None, 1) + ctxembed.Usage(7, 7, None, 1).thrown_away()
    assert (usage.total_tokens, usage.discarded.total_tokens, usage.discarded.requests) == (17, 7, 1)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (1, ValueError), (2.0, ValueError), ("a", TypeError)])
def test_hedge_must_be_a_share(value, error):
    with pytest.raises(error, match="hedge"):
        Client(KEY, hedge=value)
