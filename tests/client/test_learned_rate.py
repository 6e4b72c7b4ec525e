"""A rate limiter's rate is learned under real conditions: concurrency, retries, jitter, and unrelated refusals.

The clock is simulated: the client's arithmetic against the arithmetic of the local server.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass, field

import pytest
from ctxembed._client._policy.clock import Clock
from ctxembed._client._policy.concurrency import ConcurrencyLimiter
from ctxembed._client._policy.pacing import Pacing
from ctxembed._client._policy.rate_limiter import RateLimiter
from ctxembed._server.rate_limiter import Bucket

LATENCY = 0.05
JITTER = 0.3  # maximum share that is added to the way back of a response
CONCURRENCY = 16


@dataclass
class Simulation:
    """A client that always has another request, and a server.

    ``retry_after``: whether the rate limiter's refusals carry a Retry-After of whole seconds. ``noise``: share of
    random 429s, and ``noise_retry_after`` their Retry-After. ``limiter``: refuses in place of a leaky bucket.
    """

    rate: float
    burst: float
    retry_after: bool = False
    noise: float = 0.0
    noise_retry_after: float | None = None
    limiter: object = None
    seed: int = 0
    events: list = field(default_factory=list)
    order: itertools.count = field(default_factory=itertools.count)
    now: float = 0.0

    def push(self, at, kind, *data):
        heapq.heappush(self.events, (at, next(self.order), kind, data))

    def run(self, seconds):
        """Return the responses in time order, as (time, accepted)."""
        dice = random.Random(self.seed)
        limiter = self.limiter or Bucket(60 * self.rate, self.burst)
        clock = Clock(monotonic=lambda: self.now)
        concurrency = ConcurrencyLimiter(CONCURRENCY, lambda: None)
        pacing = Pacing(RateLimiter(), concurrency, None, None, clock)
        in_flight, log = 0, []
        while self.now < seconds:
            while in_flight < concurrency.limit:
                in_flight += 1
                self.push(self.now, "start", 0)
            self.now, _, kind, data = heapq.heappop(self.events)
            if kind == "start":
                wait = pacing.rate_limiter.reserve(1, None, None, self.now)
                if wait > 0:
                    self.push(self.now + wait + dice.random() * 0.001, "start", *data)
                else:
                    self.push(self.now + LATENCY / 2, "arrive", self.now, *data)
            elif kind == "arrive":
                wait, retry_after = limiter.take(1, self.now), None
                if wait and self.retry_after:
                    retry_after = float(max(1, math.ceil(wait)))
                elif not wait and dice.random() < self.noise:
                    wait, retry_after = math.inf, self.noise_retry_after
                self.push(self.now + LATENCY / 2 * (1 + JITTER * dice.random()), "respond", wait, retry_after, *data)
            else:
                wait, retry_after, started, retries = data
                log.append((self.now, not wait))
                pacing.record(429 if wait else 200, {}, retry_after, started, self.now)
                if wait:
                    delay = dice.random() * min(20.0, 0.5 * 2**retries) if retry_after is None else retry_after
                    # A wait that all requests share is part of "start".
                    self.push(self.now + (delay if pacing.blocked() < delay else 0.0), "start", retries + 1)
                else:
                    concurrency.increase()
                    in_flight -= 1
        return log


def steady(simulation, seconds):
    """Return the accepted requests a second, and the share of refusals, after the first minute."""
    found = [accepted for at, accepted in simulation.run(seconds) if at > 60]
    return found.count(True) / (seconds - 60), found.count(False) / len(found)


@pytest.mark.parametrize("retry_after", [True, False])
@pytest.mark.parametrize("burst", [10, 60, 200])
@pytest.mark.parametrize("rate", [0.5, 5, 20, 50])
def test_most_of_the_rate_is_used_and_few_requests_are_refused(rate, burst, retry_after):
    accepted, refused = steady(Simulation(rate, burst, retry_after), 360)
    assert accepted >= 0.9 * rate
    assert refused <= 0.02


@pytest.mark.parametrize("rate", [5, 20, 50, 100])
def test_each_refusal_of_a_bucket_of_one_with_whole_seconds_costs_one_second(rate):
    """Such a bucket does not save what it would have accepted in that second."""
    accepted, refused = steady(Simulation(rate, 1, retry_after=True), 360)
    assert accepted >= 0.85 * rate
    assert refused <= 0.02


class FixedWindow:
    """A number of requests in each period: the other common rate limiter, whose refusals block all for a while."""

    def __init__(self, requests, period):
        self.requests, self.period = requests, period
        self.counts = {}

    def take(self, _amount, now):
        number = now // self.period
        self.counts[number] = self.counts.get(number, 0) + 1
        return 0.0 if self.counts[number] <= self.requests else (number + 1) * self.period - now


@pytest.mark.parametrize(("requests", "period"), [(50, 1), (100, 10), (2000, 10), (1000, 60)])
def test_a_fixed_window_is_used_and_its_retry_after_is_kept(requests, period):
    limiter = FixedWindow(requests, period)
    accepted, refused = steady(Simulation(requests / period, 0, retry_after=True, limiter=limiter), 360)
    assert accepted >= 0.9 * requests / period
    assert refused <= 0.02


@pytest.mark.parametrize("seed", range(3))
def test_random_refusals_with_a_retry_after_do_not_block_other_requests(seed):
    """Two in a hundred of 400 requests a second: each delays its own request, and concurrency shrinks."""
    accepted, refused = steady(Simulation(400, 400, noise=0.02, noise_retry_after=1.0, seed=seed), 180)
    assert accepted >= 80
    assert refused <= 0.03


@pytest.mark.parametrize("seed", range(3))
def test_random_refusals_are_distinguished_from_those_of_a_rate_limiter(seed):
    accepted, refused = steady(Simulation(50, 10, retry_after=True, noise=0.02, noise_retry_after=1.0, seed=seed), 360)
    assert accepted >= 0.1 * 50
    assert refused <= 0.1


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_random_refusals_do_not_cost_most_of_a_rate(noise):
    accepted, refused = steady(Simulation(20, 10, noise=noise), 360)
    assert accepted >= 0.5 * 20
    assert refused <= 0.08 + noise


@pytest.mark.parametrize("seed", range(3))
def test_random_refusals_do_not_stop_an_api_without_a_limit(seed):
    """One in ten at random: concurrency shrinks, and no rate is believed for long."""
    accepted, _ = steady(Simulation(1e6, 1e6, noise=0.1, seed=seed), 180)
    assert accepted >= 15
