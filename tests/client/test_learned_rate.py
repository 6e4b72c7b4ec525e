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
from ctxembed._client._account import Account
from ctxembed._client._pacing import Gate
from ctxembed._server.limiter import Bucket

LATENCY = 0.05
JITTER = 0.3  # of the way back
CONCURRENCY = 16


@dataclass
class World:
    """A client that always has another request, and a server: ``told`` is a Retry-After, ``noise`` a share of 429s."""

    rate: float
    burst: float
    told: bool = False
    noise: float = 0.0
    seed: int = 0
    events: list = field(default_factory=list)
    order: itertools.count = field(default_factory=itertools.count)

    def push(self, at, kind, *data):
        heapq.heappush(self.events, (at, next(self.order), kind, data))

    def run(self, seconds):
        """Answers by time: (time, whether it was accepted)."""
        dice = random.Random(self.seed)
        account, limiter, gate = Account(), Bucket(60 * self.rate, self.burst), Gate(CONCURRENCY)
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
                wait = limiter.take(1, now) or (math.inf if dice.random() < self.noise else 0.0)
                self.push(now + LATENCY / 2 * (1 + JITTER * dice.random()), "answer", wait, *data)
            else:
                wait, started, retries = data
                told = self.told and 0 < wait < math.inf
                log.append((now, not wait))
                if wait:
                    if told:
                        account.hold(float(max(1, math.ceil(wait))), now)
                    gate.congested(started, now)
                    account.refused(started, now, told=told)
                    self.push(now + dice.random() * min(20.0, 0.5 * 2**retries), "ask", retries + 1)
                else:
                    account.accepted(now)
                    gate.succeeded()
                    inside -= 1
        return log


def steady(world, seconds):
    """Accepted a second, and the share of refusals, after the first minute."""
    found = [accepted for at, accepted in world.run(seconds) if at > 60]
    return found.count(True) / (seconds - 60), found.count(False) / len(found)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("burst", [10, 60, 200])
@pytest.mark.parametrize("rate", [0.5, 5, 20])
def test_most_of_the_rate_is_used_and_hardly_a_request_refused(rate, burst, told):
    accepted, refused = steady(World(rate, burst, told), 360)
    assert accepted >= 0.9 * rate
    assert refused <= 0.02


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
