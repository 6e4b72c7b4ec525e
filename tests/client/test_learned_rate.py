"""A limiter's rate is found among real conditions: places, retries, jitter, and refusals that mean nothing.

The clock is simulated: arithmetic of the client against arithmetic of the local server.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass, field

import pytest
from ctxembed._client._policy.concurrency import Gate
from ctxembed._client._policy.rate_limiter import Account
from ctxembed._server.rate_limiter import Bucket

LATENCY = 0.05
JITTER = 0.3  # of the way back
CONCURRENCY = 16


@dataclass
class World:
    """A client that always has another request, and a server.

    ``told``: whether a limiter's refusals carry a Retry-After of whole seconds. ``noise``: share of 429s at random,
    and ``noise_told`` the Retry-After that they carry. ``limiter``: what refuses, in place of a leaky bucket.
    """

    rate: float
    burst: float
    told: bool = False
    noise: float = 0.0
    noise_told: float | None = None
    limiter: object = None
    seed: int = 0
    events: list = field(default_factory=list)
    order: itertools.count = field(default_factory=itertools.count)

    def push(self, at, kind, *data):
        heapq.heappush(self.events, (at, next(self.order), kind, data))

    def run(self, seconds):
        """Answers by time: (time, whether it was accepted)."""
        dice = random.Random(self.seed)
        limiter = self.limiter or Bucket(60 * self.rate, self.burst)
        account, gate = Account(), Gate(CONCURRENCY)
        inside, now, log = 0, 0.0, []
        while now < seconds:
            while inside < gate.allowed:
                inside += 1
                self.push(now, "ask", 0)
            now, _, kind, data = heapq.heappop(self.events)
            if kind == "ask":
                wait = account.ask(1, None, None, now)
                if wait > 0:
                    self.push(now + wait + dice.random() * 0.001, "ask", *data)
                else:
                    self.push(now + LATENCY / 2, "arrive", now, *data)
            elif kind == "arrive":
                wait, asked = limiter.take(1, now), None
                if wait and self.told:
                    asked = float(max(1, math.ceil(wait)))
                elif not wait and dice.random() < self.noise:
                    wait, asked = math.inf, self.noise_told
                self.push(now + LATENCY / 2 * (1 + JITTER * dice.random()), "answer", wait, asked, *data)
            else:
                wait, asked, started, retries = data
                log.append((now, not wait))
                if wait:
                    gate.congested(started, now)
                    account.refused(started, now, asked)
                    # What all wait for is waited for by ``ask``.
                    delay = dice.random() * min(20.0, 0.5 * 2**retries) if asked is None else asked
                    self.push(now + (delay if account.held(now) < delay else 0.0), "ask", retries + 1)
                else:
                    account.accepted(started, now)
                    gate.succeeded()
                    inside -= 1
        return log


def steady(world, seconds):
    """Accepted a second, and the share of refusals, after the first minute."""
    found = [accepted for at, accepted in world.run(seconds) if at > 60]
    return found.count(True) / (seconds - 60), found.count(False) / len(found)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("burst", [10, 60, 200])
@pytest.mark.parametrize("rate", [0.5, 5, 20, 50])
def test_most_of_the_rate_is_used_and_hardly_a_request_refused(rate, burst, told):
    accepted, refused = steady(World(rate, burst, told), 360)
    assert accepted >= 0.9 * rate
    assert refused <= 0.02


@pytest.mark.parametrize("rate", [5, 20, 50, 100])
def test_a_bucket_of_one_that_names_whole_seconds_costs_a_second_at_each_refusal(rate):
    """What it would have let through in that second it does not keep."""
    accepted, refused = steady(World(rate, 1, told=True), 360)
    assert accepted >= 0.85 * rate
    assert refused <= 0.02


class Window:
    """So many requests in each period: the other common limiter, whose refusals ban everybody for a while."""

    def __init__(self, most, period):
        self.most, self.period = most, period
        self.counts = {}

    def take(self, _amount, now):
        number = now // self.period
        self.counts[number] = self.counts.get(number, 0) + 1
        return 0.0 if self.counts[number] <= self.most else (number + 1) * self.period - now


@pytest.mark.parametrize(("most", "period"), [(50, 1), (100, 10), (2000, 10), (1000, 60)])
def test_all_that_a_window_allows_is_used_and_what_it_asks_for_is_kept(most, period):
    accepted, refused = steady(World(most / period, 0, told=True, limiter=Window(most, period)), 360)
    assert accepted >= 0.9 * most / period
    assert refused <= 0.02


@pytest.mark.parametrize("seed", range(3))
def test_refusals_at_random_that_name_a_time_hold_nobody_else_up(seed):
    """Two in a hundred, of 400 requests a second: each answers for itself, and the places in flight shrink."""
    accepted, refused = steady(World(400, 400, noise=0.02, noise_told=1.0, seed=seed), 180)
    assert accepted >= 80
    assert refused <= 0.03


@pytest.mark.parametrize("seed", range(3))
def test_refusals_at_random_beside_a_limiter_s_are_told_from_them(seed):
    accepted, refused = steady(World(50, 10, told=True, noise=0.02, noise_told=1.0, seed=seed), 360)
    assert accepted >= 0.1 * 50
    assert refused <= 0.1


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_refusals_that_mean_nothing_do_not_cost_most_of_a_rate(noise):
    accepted, refused = steady(World(20, 10, noise=noise), 360)
    assert accepted >= 0.5 * 20
    assert refused <= 0.08 + noise


@pytest.mark.parametrize("seed", range(3))
def test_refusals_that_mean_nothing_do_not_stop_an_api_without_a_limit(seed):
    """One in ten at random: the places in flight shrink, and no rate is believed for long."""
    accepted, _ = steady(World(1e6, 1e6, noise=0.1, seed=seed), 180)
    assert accepted >= 15
