"""Calls cancelled at random moments: nothing leaks, no slot is lost, and the next call is right.

``python -m tests.client.test_cancellation --calls 500`` runs more of them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import time
import traceback
import warnings
from collections import Counter

import anyio
import ctxembed
import numpy as np
import pytest
from ctxembed import AsyncClient, Client
from ctxembed._server.config import ServerConfig
from ctxembed._server.process import ServerProcess

from .conftest import KEY

DOCUMENTS = [[f"document {number}, chunk {chunk}" for chunk in range(3)] for number in range(12)]
OPTIONS = {"limits": ctxembed.Limits(documents=2), "max_concurrency": 3, "max_retries": 1}
COMBINATIONS = [("asyncio", "httpx"), ("asyncio", "aiohttp"), ("trio", "httpx")]
SEED = 13
LATENCY = 0.005  # seconds


async def interrupted_call(client, choice):
    """Make one call; return its vectors, if it ends."""
    kind = choice.choice(["embed", "hedged", "create", "stream", "queries", "raw"])
    if kind in ("embed", "hedged"):
        caller = client.with_options(hedge=True) if kind == "hedged" else client
        return kind, (await caller.embed(DOCUMENTS)).vectors
    if kind == "create":
        return kind, (await client.create(DOCUMENTS[:2])).vectors
    if kind == "raw":
        return "create", (await client.with_raw_response.create(DOCUMENTS[:2])).parse().vectors
    if kind == "queries":
        return kind, (await client.embed_queries(["a", "b"])).vectors
    async with client.stream(DOCUMENTS, ordered=True) as stream:
        return kind, np.concatenate([part.vectors async for part in stream])


async def cancelled_calls(base_url, backend, transport, count, seed=SEED):
    """Cancel ``count`` calls of one client, each after a random time; return how they ended."""
    choice = random.Random(seed)
    ends = Counter()
    async with AsyncClient(KEY, base_url=base_url, transport=transport, **OPTIONS) as client:
        expected = {
            "embed": (await client.embed(DOCUMENTS)).vectors,
            "queries": (await client.embed_queries(["a", "b"])).vectors,
            "create": (await client.create(DOCUMENTS[:2])).vectors,
        }
        for number in range(count):
            with anyio.move_on_after(choice.uniform(0, 12 * LATENCY)) as scope:
                try:
                    kind, vectors = await interrupted_call(client, choice)
                except anyio.get_cancelled_exc_class() as error:
                    check_no_key(error)
                    raise
            ends["cancelled" if scope.cancelled_caught else kind] += 1
            if not scope.cancelled_caught:
                np.testing.assert_array_equal(vectors, expected.get(kind, expected["embed"]))
            assert client._state.pacing.concurrency._in_flight == 0, number
            if number % 10 == 0:  # its connections and limiters are whole
                np.testing.assert_array_equal((await client.embed(DOCUMENTS)).vectors, expected["embed"])
        if backend == "asyncio":
            assert asyncio.all_tasks() == {asyncio.current_task()}
    return ends


def check_no_key(error):
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    for text in shown.format():
        assert KEY not in text


def run(base_url, backend, transport, count):
    """Run the cancelled calls; warnings, of sockets and tasks that leak for example, are errors."""
    unraisable = []
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ends = anyio.run(cancelled_calls, base_url, backend, transport, count, backend=backend)
            gc.collect()
    finally:
        sys.unraisablehook = hook
    assert not unraisable, [str(event.exc_value) for event in unraisable]
    return ends


@pytest.mark.parametrize(("backend", "transport"), COMBINATIONS)
def test_cancelled_calls_leave_nothing_behind(fresh_server, control_of, backend, transport):
    server = fresh_server(latency=LATENCY)
    ends = run(server.base_url, backend, transport, 40)
    assert ends["cancelled"] >= 5
    assert sum(ends.values()) == 40
    control_of(server).wait_until_idle()


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_closed_streams_of_the_sync_client_leave_nothing_behind(fresh_server, control_of, transport):
    server = fresh_server(latency=LATENCY)
    choice = random.Random(SEED)
    with Client(KEY, base_url=server.base_url, transport=transport, **OPTIONS) as client:
        expected = client.embed(DOCUMENTS).vectors
        for _ in range(20):
            with client.stream(DOCUMENTS, ordered=True) as stream:
                for _ in range(choice.randrange(4)):
                    next(stream)
                time.sleep(choice.uniform(0, 0.01))
            assert client._state.pacing.concurrency._in_flight == 0
        np.testing.assert_array_equal(client.embed(DOCUMENTS).vectors, expected)
    control_of(server).wait_until_idle()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=500)
    calls = parser.parse_args().calls
    for backend, transport in COMBINATIONS:
        with ServerProcess(config=ServerConfig(latency=LATENCY)) as server:
            print(backend, transport, dict(run(server.base_url, backend, transport, calls)), flush=True)


if __name__ == "__main__":
    main()
