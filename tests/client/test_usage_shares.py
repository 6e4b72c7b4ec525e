"""Shares of a number, a cost and a usage: they are fair, and add up to the whole exactly."""

from __future__ import annotations

import math
from decimal import Decimal

import ctxembed
from ctxembed._client.coalescing import divide_usage
from ctxembed._costs import divide_cost, divide_int
from ctxembed._results import NO_USAGE
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**5), min_size=1, max_size=50))
def test_shares_of_a_number_are_fair_and_add_up(total, weights):
    shares = divide_int(total, weights)
    assert sum(shares) == total
    whole = sum(weights) or 1
    fair = [total * weight / whole for weight in weights] if any(weights) else [total / len(weights)] * len(weights)
    assert all(
        math.floor(exact * (1 - 1e-12)) <= share <= exact * (1 + 1e-12) + 1
        for share, exact in zip(shares, fair, strict=True)
    )


COSTS = st.one_of(
    st.decimals(0, 10**9, places=12),
    st.builds(
        lambda digits, exponent: Decimal((0, digits, exponent)),
        st.tuples(*[st.integers(0, 9)] * 40),
        st.integers(-40, 0),
    ),
)


@given(COSTS, st.lists(st.integers(0, 10**5), min_size=1, max_size=50))
def test_shares_of_a_cost_add_up_exactly(cost, weights):
    shares = divide_cost(cost, weights)
    assert all(share >= 0 for share in shares)
    total = NO_USAGE
    for share in shares:
        total += ctxembed.Usage(cost_usd=share)
    assert total.cost_usd == cost


COUNTS = st.none() | st.integers(0, 10**9)
PLAIN = st.builds(ctxembed.Usage, COUNTS, COUNTS, st.none() | COSTS, st.integers(0, 9))
USAGES = st.builds(
    ctxembed.Usage, COUNTS, COUNTS, st.none() | COSTS, st.integers(0, 9), st.none() | PLAIN, st.integers(0, 9)
)


@given(USAGES, st.lists(st.integers(0, 1000), min_size=1, max_size=20))
def test_shares_of_a_usage_add_up_exactly(usage, weights):
    shares = divide_usage(usage, weights)
    assert len(shares) == len(weights)
    total = NO_USAGE
    for share in shares:
        total += share
    assert total == usage
    assert all(share.requests == share.unreported == 0 for share in shares[1:])
