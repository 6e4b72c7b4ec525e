"""The limiter as a Ray actor, in a real cluster of this machine."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal

import ctxembed
import pytest
from ctxembed.distributed.ray import RayLimiter

pytestmark = [pytest.mark.usefixtures("ray"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # Ray's own


async def reserve(limiter, count):
    found = []
    for _ in range(count):
        found.append(await limiter.reserve(1, 10))
        limiter.settle("accepted", 0.01, None, 10)
    return found


def test_clients_embed_with_it(server):
    limiter = RayLimiter("clients", requests_per_minute=60_000)
    with ctxembed.Client("a-key", base_url=server.base_url, limiter=limiter) as client:
        assert len(client.embed([["a"], ["b"]]).vectors) == 2

    async def main():
        async with ctxembed.AsyncClient("a-key", base_url=server.base_url, limiter=limiter) as client:
            return len((await client.embed([["a"], ["b"]])).vectors)

    assert asyncio.run(main()) == 2


def test_the_same_name_is_the_same_limit_and_a_copy_too():
    one = RayLimiter("team-a", requests_per_minute=60)
    others = [RayLimiter("team-a"), pickle.loads(pickle.dumps(one))]
    assert asyncio.run(reserve(one, 1)) == [0.0]

    async def main():
        for other in others:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(other.reserve(1, 10), 0.2)
        return await asyncio.wait_for(RayLimiter("team-b").reserve(1, 10), 60)

    assert asyncio.run(main()) == 0.0


def test_a_killed_actor_is_an_error_that_clients_survive_and_is_started_again(server):
    limiter = RayLimiter("killed")

    async def main():
        assert await reserve(limiter, 3) == [0.0] * 3
        pid = await limiter._actor.pid.remote()
        os.kill(pid, signal.SIGKILL)
        async with ctxembed.AsyncClient(
            "a-key", base_url=server.base_url, limiter=limiter, limits=ctxembed.Limits(documents=1)
        ) as client:
            rows = len((await client.embed([[f"document {n}"] for n in range(20)])).vectors)
        for _ in range(100):
            try:
                return rows, await limiter.reserve(1, 10)
            except OSError:
                await asyncio.sleep(0.1)
        return rows, None

    assert asyncio.run(main()) == (20, 0.0)
