"""Calls that share a request end alone: cancellation, deadlines, closing, event loops, forks and signals."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import subprocess
import sys
import textwrap
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import anyio
import ctxembed
import numpy as np
import pytest
from ctxembed import AsyncClient, Client

from .conftest import KEY, FakeClock, response_body, vector_of

MINUTE = 60.0
SEED = 29
NUMBERS = itertools.count()


def limit(documents):
    return ctxembed.Limits(documents=documents)


@pytest.fixture(params=["asyncio", "trio"])
def run(request):
    return lambda main: anyio.run(main, backend=request.param)


class Tasks:
    """Calls of an asynchronous client, each in a scope that cancels it."""

    def __init__(self, client, group):
        self._client, self._group = client, group
        self.results, self._scopes = {}, {}

    def start(self, *names, **options):
        for name in names:
            self._scopes[name] = anyio.CancelScope()
            self._group.start_soon(self._call, name, options)

    async def _call(self, name, options):
        with self._scopes[name] as scope:
            try:
                self.results[name] = await self._client.embed_queries([name], **options)
            except Exception as error:  # noqa: BLE001  # a result
                self.results[name] = error
        if scope.cancelled_caught:
            self.results[name] = "cancelled"

    def cancel(self, *names):
        for name in names:
            self._scopes[name].cancel()

    async def end(self, *names):
        while not set(names) <= set(self.results):
            await anyio.sleep(0.005)


def with_tasks(run, test, **options):
    """Run ``test(client, tasks)``."""

    async def main():
        # A key of its own, so that no rate and no Retry-After is known from other tests.
        async with AsyncClient(f"{KEY}-{next(NUMBERS)}", **options) as client, anyio.create_task_group() as group:
            tasks = Tasks(client, group)
            await test(client, tasks)

    run(main)


async def in_flight(control, count):
    return await anyio.to_thread.run_sync(control.wait_for_in_flight, count)


def assert_row(result, text, server=None):
    assert isinstance(result, ctxembed.Embeddings), result
    np.testing.assert_array_equal(result.vectors, vector_of(text)[None])


# Cancellation


def test_a_call_cancelled_in_the_window_is_not_sent(run, scripted_server):
    async def test(client, tasks):
        tasks.start("a", "b")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel("a")
        await tasks.end("a")
        tasks.start("c", "d")  # the place is free again
        await tasks.end("b", "c", "d")
        assert tasks.results["a"] == "cancelled"
        for name in "bcd":
            assert_row(tasks.results[name], name)
        assert tasks.results["b"].usage.requests == 1  # it is the first now

    with_tasks(run, test, base_url=scripted_server.base_url, coalesce=MINUTE, limits=limit(3))
    [request] = scripted_server.requests
    assert sorted(request["input"]) == [["b"], ["c"], ["d"]]


def test_calls_cancelled_before_their_task_begins_leave_nothing(run, scripted_server):
    async def main():
        async with AsyncClient(KEY, base_url=scripted_server.base_url, coalesce=MINUTE) as client:
            for _ in range(3):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await client.embed_queries(["a"])
                assert scope.cancelled_caught
                assert not client._coalescer._open

    run(main)
    assert scripted_server.requests == []


def test_cancelling_one_caller_cancels_no_other(run, server, control):
    control.faults({"delay": 0.5})
    sums = []

    async def test(client, tasks):
        tasks.start("a", "b", "c")
        await in_flight(control, 1)
        tasks.cancel("a")
        await tasks.end("a")
        assert "b" not in tasks.results
        await tasks.end("b", "c")
        assert tasks.results["a"] == "cancelled"
        sums.append(tasks.results["b"].usage + tasks.results["c"].usage)
        alone = await client.with_options(coalesce=None).embed_queries(["a", "b", "c"])
        sums.append(alone.usage)
        np.testing.assert_array_equal(alone.vectors[1:2], tasks.results["b"].vectors)
        np.testing.assert_array_equal(alone.vectors[2:3], tasks.results["c"].vectors)

    with_tasks(run, test, base_url=server.base_url, coalesce=MINUTE, limits=limit(3))
    assert sums[0] == sums[1]  # those that stay bear what the request has cost
    assert control.wait_until_idle()["requests"] == 2


@pytest.mark.parametrize("fault", ["window", "in flight", "retry"])
def test_cancelling_all_callers_cancels_the_request(run, server, control, fault):
    control.faults({"delay": 20} if fault == "in flight" else {"status": 503, "headers": {"retry-after": "30"}})

    async def test(client, tasks):
        names = ["a", "b"] if fault == "window" else ["a", "b", "c"]
        tasks.start(*names)
        if fault == "in flight":
            await in_flight(control, 1)
        elif fault == "retry":
            while control.stats()["by_status"].get("503", 0) == 0:
                await anyio.sleep(0.01)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel(*names)
        await tasks.end(*names)
        assert set(tasks.results.values()) == {"cancelled"}
        assert client._state.pacing.concurrency._in_flight == 0
        assert not client._coalescer._open
        assert not client._coalescer._unsent

    with_tasks(run, test, base_url=server.base_url, coalesce=MINUTE, limits=limit(3))
    assert control.wait_until_idle()["by_status"].get("200", 0) == 0


def test_pieces_of_callers_that_left_are_not_sent(run, scripted_server):
    refused = threading.Event()
    go_on = threading.Event()

    def script(request):
        if len(scripted_server.requests) == 1:
            refused.set()
            go_on.wait(10)
            return 400, {}, b"no"
        return 200, {}, response_body(request["input"])

    scripted_server.script = script

    async def test(client, tasks):
        for name in "abcd":  # trio starts tasks in any order
            tasks.start(name)
            await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(refused.wait)
        tasks.cancel("a", "b")
        await tasks.end("a", "b")
        go_on.set()
        await tasks.end("c", "d")
        assert_row(tasks.results["c"], "c")
        assert_row(tasks.results["d"], "d")

    with_tasks(run, test, base_url=scripted_server.base_url, coalesce=MINUTE, limits=limit(4))
    assert [len(request["input"]) for request in scripted_server.requests] == [4, 2]


async def cancelled_calls(base_url, backend, count):
    """Make calls that share requests, and cancel some of them after random times."""
    choice = random.Random(SEED)
    ended, cancelled = 0, 0
    options = {"coalesce": 0.004, "max_concurrency": 2, "max_retries": 1, "limits": limit(5)}
    async with AsyncClient(KEY, base_url=base_url, **options) as client:
        texts = [f"query {number}" for number in range(count)]
        expected = dict(zip(texts, (await client.embed_queries(texts)), strict=True))

        async def call(text, seconds, after):
            nonlocal ended, cancelled
            await anyio.sleep(after)
            with anyio.move_on_after(seconds) as scope:
                result = await client.embed_queries([text])
                np.testing.assert_array_equal(result.vectors, expected[text])
                ended += 1
            cancelled += scope.cancelled_caught

        async with anyio.create_task_group() as group:
            for text in texts:
                group.start_soon(call, text, choice.choice([0.002, 0.01, 0.03, 30.0]), choice.uniform(0, 0.3))
        assert client._state.pacing.concurrency._in_flight == 0
        assert not client._coalescer._open
        assert not client._coalescer._unsent
        if backend == "asyncio":
            await anyio.sleep(0.01)
            assert asyncio.all_tasks() == {asyncio.current_task()}
    return ended, cancelled


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancelled_calls_leave_nothing_behind(fresh_server, control_of, backend):
    server = fresh_server(latency=0.005)
    unraisable = []
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ended, cancelled = anyio.run(cancelled_calls, server.base_url, backend, 150, backend=backend)
            gc.collect()
    finally:
        sys.unraisablehook = hook
    assert not unraisable, [str(event.exc_value) for event in unraisable]
    assert ended + cancelled == 150
    assert min(ended, cancelled) >= 5
    control_of(server).wait_until_idle()


# Deadlines


def test_a_deadline_is_that_of_its_caller_alone(run, server, control):
    control.faults({"delay": 4})

    async def test(client, tasks):
        tasks.start("late", deadline=1)
        tasks.start("patient", deadline=50)
        tasks.start("endless")
        await tasks.end("late")
        late = tasks.results["late"]
        assert isinstance(late, ctxembed.EmbedError)
        assert isinstance(late.__cause__, ctxembed.APITimeoutError)
        assert "deadline of 1 seconds" in str(late)
        assert [(failure.document, failure.attempts) for failure in late.failures] == [(0, 1)]
        assert len(tasks.results) == 1
        await tasks.end("patient", "endless")
        assert len(tasks.results["patient"].vectors) == len(tasks.results["endless"].vectors) == 1

    with_tasks(run, test, base_url=server.base_url, coalesce=MINUTE, limits=limit(3))
    assert control.wait_until_idle()["requests"] == 1


def test_a_deadline_ends_the_wait_for_the_window(driver, server, control):
    options = {"base_url": server.base_url, "coalesce": MINUTE}
    with pytest.raises(ctxembed.EmbedError, match=r"deadline of 0\.2 seconds") as caught:
        driver.embed_queries(["a"], _client=options, deadline=0.2)
    assert [failure.attempts for failure in caught.value.failures] == [0]
    emb = driver.embed([["a"], ["b"]], _client=options, deadline=0.2, on_error="return")
    assert [failure.document for failure in emb.failures] == [0, 1]
    assert control.wait_until_idle()["requests"] == 0


def test_a_wait_beyond_all_deadlines_is_not_started(run, server, control):
    class WindowClock(FakeClock):
        async def sleep(self, seconds):
            await (anyio.sleep(seconds) if seconds == MINUTE else super().sleep(seconds))

    clock = WindowClock()
    control.faults({"status": 429, "headers": {"retry-after": "50"}})

    async def test(client, tasks):
        tasks.start("a", deadline=30)
        tasks.start("b", deadline=40)
        await tasks.end("a", "b")
        for name, seconds in (("a", 30), ("b", 40)):
            assert f"deadline of {seconds} seconds" in str(tasks.results[name])
            assert isinstance(tasks.results[name].__cause__.__cause__, ctxembed.RateLimitError)

    with_tasks(run, test, base_url=server.base_url, coalesce=MINUTE, limits=limit(2), clock=clock)
    assert clock.slept == []


# Closing


def test_closing_the_client_ends_calls_that_wait(server, control):
    client = Client(KEY, base_url=server.base_url, coalesce=MINUTE)
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(client.embed_queries, [f"query {i}"]) for i in range(4)]
        while not client._coalescer._open:
            threading.Event().wait(0.01)
        client.close()
        for call in calls:
            with pytest.raises(ctxembed.ClosedClientError):
                call.result()
    with pytest.raises(ctxembed.ClosedClientError):
        client.embed_queries(["a"])
    assert control.stats()["requests"] == 0


def test_closing_the_client_ends_shared_requests(server, control):
    control.faults({"delay": 20})
    client = Client(KEY, base_url=server.base_url, coalesce=MINUTE, limits=limit(3))
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(client.embed_queries, [f"query {i}"]) for i in range(3)]
        control.wait_for_in_flight(1)
        client.close()
        for call in calls:
            with pytest.raises(ctxembed.ClosedClientError):
                call.result()
    assert control.wait_until_idle()["by_status"].get("200", 0) == 0


def test_closing_an_async_client_ends_calls_that_wait(run, server, control):
    async def test(client, tasks):
        tasks.start("a", "b")
        await anyio.wait_all_tasks_blocked()
        copy = client.with_options(deadline=5)
        await copy.aclose()  # the connections are not its own
        await anyio.wait_all_tasks_blocked()
        assert tasks.results == {}
        await client.aclose()
        await tasks.end("a", "b")
        assert {type(result) for result in tasks.results.values()} == {ctxembed.ClosedClientError}
        assert tasks.results["a"] is not tasks.results["b"]

    with_tasks(run, test, base_url=server.base_url, coalesce=MINUTE)
    assert control.stats()["requests"] == 0


def test_a_copy_that_waits_ends_with_the_connections(run, server, control):
    async def test(client, tasks):
        other = Tasks(client.with_options(max_retries=1, coalesce=0.3), tasks._group)
        other.start("a")
        await anyio.wait_all_tasks_blocked()
        await client.aclose()
        await other.end("a")
        assert isinstance(other.results["a"], ctxembed.ClosedClientError)

    with_tasks(run, test, base_url=server.base_url, coalesce=MINUTE)
    assert control.stats()["requests"] == 0


# Event loops, forks, signals, exit


def test_a_client_shares_requests_in_successive_event_loops(scripted_server):
    client = AsyncClient(KEY, base_url=scripted_server.base_url, coalesce=MINUTE, limits=limit(3))

    async def abandoned():
        task = asyncio.create_task(client.embed_queries(["left behind"]))
        await anyio.wait_all_tasks_blocked()
        assert not task.done()  # asyncio.run cancels it

    async def main():
        async with anyio.create_task_group() as group:
            tasks = Tasks(client, group)
            tasks.start("a", "b", "c")
            await tasks.end("a", "b", "c")
        for name in "abc":
            assert_row(tasks.results[name], name)

    asyncio.run(abandoned())
    asyncio.run(main())
    asyncio.run(abandoned())

    async def last():
        async with client:
            await main()

    anyio.run(last, backend="trio")
    assert [len(request["input"]) for request in scripted_server.requests] == [3, 3]


def run_python(code):
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code)]
    result = subprocess.run(command, capture_output=True, check=False, text=True, timeout=100)
    assert (result.stdout, result.stderr, result.returncode) == ("done\n", "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_shares_requests_of_its_own(server):
    run_python(f"""
        import os, sys
        from concurrent.futures import ThreadPoolExecutor
        from ctxembed import Client, Limits
        client = Client("key", base_url={server.base_url!r}, coalesce=60, limits=Limits(documents=3))
        pool = ThreadPoolExecutor(1)
        waiting = pool.submit(client.embed_queries, ["the parent's"])
        while not client._coalescer._open:
            pass

        def embed(count):
            with ThreadPoolExecutor(count) as threads:
                found = list(threads.map(lambda i: client.embed_queries([f"query {{i}}"]), range(count)))
            return sum(one.usage.requests for one in found)

        child = os.fork()
        if child == 0:
            os._exit(7 if embed(3) == 1 else 8)  # without the parent's call, which waits there
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert embed(2) + waiting.result().usage.requests == 1
        client.close()
        print("done")
    """)


def test_ctrl_c_cancels_one_call_alone(server):
    run_python(f"""
        import os, signal, threading
        from concurrent.futures import ThreadPoolExecutor
        from ctxembed import Client, Limits
        signal.signal(signal.SIGINT, signal.default_int_handler)
        client = Client("key", base_url={server.base_url!r}, coalesce=60, limits=Limits(documents=2))
        pool = ThreadPoolExecutor(2)
        other = pool.submit(client.embed_queries, ["of another thread"])
        while not client._coalescer._open:
            pass
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
        try:
            client.embed([["a", "b"]], dimensions=128)
        except KeyboardInterrupt as interrupt:
            assert len(interrupt.partial.failures) == 1
        assert not other.done()
        pool.submit(client.embed_queries, ["fills the request"])
        assert len(other.result().vectors) == 1
        client.close()
        print("done")
    """)


def test_calls_at_exit_share_a_request_too(server):
    run_python(f"""
        import atexit
        from ctxembed import Client
        client = Client("key", base_url={server.base_url!r}, coalesce=0.01)

        def last():
            assert len(client.embed_queries(["at exit"]).vectors) == 1
            print("done")

        atexit.register(last)
    """)


def test_a_client_with_shared_requests_can_be_collected(server):
    client = Client(KEY, base_url=server.base_url, coalesce=0.001)
    assert len(client.embed_queries(["a"])) == 1
    del client
    gc.collect()
    assert [thread for thread in threading.enumerate() if thread.name == "ctxembed"] == []
