"""Closing, copying, threads, forks, signals, running loops, injected clients."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import anyio
import ctxembed
import httpx
import numpy as np
import pytest
from ctxembed._client import AsyncClient, Client

from .conftest import KEY, answer, busy, documents_of

CALLS = {
    "embed": [["a"]],
    "embed_queries": ["a"],
    "embed_texts": ["a"],
    "create": [["a"]],
    "stream": [["a"]],
}


def our_threads():
    return [thread for thread in threading.enumerate() if thread.name == "ctxembed"]


# Closing


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_client_says_so(server, call):
    client = Client(KEY, base_url=server.base_url)
    client.embed([["a"]])
    client.close()
    client.close()
    with pytest.raises(ctxembed.ClosedClientError):
        list(getattr(client, call)(CALLS[call]))
    with pytest.raises(ctxembed.ClosedClientError):
        client.with_options(max_retries=1)
    with pytest.raises(ctxembed.ClosedClientError):
        client.__enter__()
    assert our_threads() == []
    assert repr(client).endswith("closed)")

    async def main():
        client = AsyncClient(KEY, base_url=server.base_url)
        await client.embed([["a"]])
        await client.aclose()
        await client.close()
        with pytest.raises(ctxembed.ClosedClientError):
            await getattr(client, call)(CALLS[call])

    asyncio.run(main())


def test_a_client_that_was_never_used_closes(server):
    Client(KEY).close()
    asyncio.run(AsyncClient(KEY).aclose())
    assert our_threads() == []


def test_nothing_starts_before_the_first_call(server):
    client = Client(KEY, base_url=server.base_url)
    stream = client.stream([["a"]])
    assert our_threads() == []
    next(stream)
    assert len(our_threads()) == 1
    client.close()


def test_closing_ends_the_calls_of_other_threads(server, control):
    control.faults({"delay": 20, "times": 5})
    client = Client(KEY, base_url=server.base_url)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(client.embed, [["a"]])
        stream = pool.submit(lambda: list(client.stream([["a"]])))
        time.sleep(0.4)
        client.close()
        for pending in (call, stream):
            with pytest.raises(ctxembed.ClosedClientError):
                pending.result(timeout=5)


def test_a_client_that_nobody_holds_ends_its_thread(server):
    client = Client(KEY, base_url=server.base_url)
    client.embed([["a"]])
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    assert our_threads() == []


def test_a_stream_that_nobody_holds_cancels_its_requests(server, control):
    control.faults("none", *[{"delay": 20}] * 9)
    with Client(KEY, base_url=server.base_url, limits=ctxembed.Limits(documents=1)) as client:
        stream = client.stream(documents_of(50))
        next(stream)
        assert client._loop._loop.tasks
        del stream
        gc.collect()
        assert not client._loop._loop.tasks


def test_an_interpreter_ends_though_nobody_closes(server):
    code = f"""
        from ctxembed._client import Client
        client = Client("key", base_url={server.base_url!r})
        stream = client.stream([str(i)] for i in range(10**9))
        next(stream)
        print("done")
    """
    result = subprocess.run(
        [sys.executable, "-W", "default", "-c", textwrap.dedent(code)],
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("done\n", "", 0)


# Copies


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_unknown_options_are_type_errors(kind):
    with pytest.raises(TypeError, match="retries"):
        kind(KEY, retries=3)
    with pytest.raises(TypeError, match=r"unknown options retries: expected api_key, base_url"):
        kind(KEY).with_options(retries=3)


def test_a_copy_shares_connections_and_outlives_its_close(server, control):
    client = Client(KEY, base_url=server.base_url)
    client.create([["a"]])
    copy = client.with_options(max_retries=0, default_headers={"x-fault": '"500"'})
    with pytest.raises(ctxembed.InternalServerError):
        copy.create([["a"]])
    assert len(our_threads()) == 1
    assert copy._state.connections is client._state.connections
    assert copy._state.pacing.concurrency is client._state.pacing.concurrency
    copy.close()
    with pytest.raises(ctxembed.ClosedClientError):
        copy.create([["a"]])
    assert len(client.create([["a"]])) == 1
    other = client.with_options(max_concurrency=2, requests_per_minute=600)
    assert other._state.pacing.concurrency is not client._state.pacing.concurrency
    assert other._state.pacing is not client._state.pacing
    assert other._state.pacing.rate_limiter is client._state.pacing.rate_limiter
    client.close()
    with pytest.raises(ctxembed.ClosedClientError):
        other.create([["a"]])


def test_a_copy_keeps_the_connections_when_the_original_is_collected(server):
    copy = Client(KEY, base_url=server.base_url).with_options(max_retries=1)
    gc.collect()
    assert len(copy.create([["a"]])) == 1
    assert len(copy.create([["a"]])) == 1
    copy = copy.with_options(api_key="another")
    gc.collect()
    assert len(copy.create([["a"]])) == 1
    del copy
    gc.collect()
    assert our_threads() == []


def test_a_copy_may_have_a_client_of_its_own(scripted):
    with httpx.Client() as http, Client(KEY, base_url=scripted.base_url) as client:
        with client.with_options(http_client=http) as copy:
            copy.create([["a"]])
        client.create([["a"]])
        assert len(scripted.requests) == 2


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_retries": -1}, ValueError),
        ({"max_retries": True}, TypeError),
        ({"max_retries": 2.0}, TypeError),
        ({"max_concurrency": 0}, ValueError),
        ({"max_concurrency": None}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": float("inf")}, ValueError),
        ({"timeout": True}, TypeError),
        ({"timeout": "3"}, TypeError),
        ({"requests_per_minute": 0}, ValueError),
        ({"requests_per_minute": float("nan")}, ValueError),
        ({"requests_per_minute": "9"}, TypeError),
        ({"tokens_per_minute": -5}, ValueError),
        ({"tokens_per_minute": True}, TypeError),
        ({"limits": None}, TypeError),
        ({"token_counter": 3}, TypeError),
        ({"http_client": object()}, TypeError),
        ({"allow_insecure": "yes"}, TypeError),
        ({"base_url": 3}, TypeError),
    ],
)
def test_bad_options_are_named(kind, options, error):
    [name] = options
    with pytest.raises(error, match=name):
        kind(KEY, **options)
    with pytest.raises(error, match=name):
        kind(KEY).with_options(**options)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_base_url_comes_from_argument_or_environment(scripted, driver, monkeypatch, suffix):
    driver.create([["a"]], _client={"base_url": scripted.base_url + suffix})
    driver.create([["a"]], _client={"base_url": scripted.base_url + "/proxy" + suffix})
    monkeypatch.setenv("PERPLEXITY_BASE_URL", scripted.base_url + suffix)
    driver.create([["a"]])
    assert [request["path"] for request in scripted.requests] == [
        "/v1/contextualizedembeddings",
        "/proxy/v1/contextualizedembeddings",
        "/v1/contextualizedembeddings",
    ]
    monkeypatch.delenv("PERPLEXITY_BASE_URL")
    assert Client(KEY).base_url == "https://api.perplexity.ai"


# Threads, loops, processes, signals


def test_many_threads_share_a_client(server, control):
    control.faults({"delay": 0.05, "times": 40})
    documents = documents_of(40)
    with Client(KEY, base_url=server.base_url, max_concurrency=4) as client:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda document: client.embed([document]), documents))
        whole = client.embed(documents)
        assert len(our_threads()) == 1
    np.testing.assert_array_equal(np.concatenate([emb.vectors for emb in results]), whole.vectors)
    assert control.stats()["peak_in_flight"] == 4


def test_the_sync_client_works_inside_a_running_loop(server):
    async def cell():
        with Client(KEY, base_url=server.base_url) as client:
            parts = list(client.stream(documents_of(9)))
            return len(client.embed([["a"]])), sum(map(len, parts))

    assert asyncio.run(cell()) == (1, 9)


def test_an_async_client_may_be_used_in_one_loop_after_another(server):
    client = AsyncClient(KEY, base_url=server.base_url, max_concurrency=2)

    async def once():
        emb = await client.embed(documents_of(5))
        await client._state.connections.aclose()
        return len(emb)

    assert asyncio.run(once()) == 5
    assert asyncio.run(once()) == 5
    assert anyio.run(once, backend="trio") == 5


def test_a_call_from_the_clients_own_thread_is_an_error(server):
    client = Client(lambda: str(len(client.embed([["a"]]))), base_url=server.base_url)
    with client, pytest.raises(RuntimeError, match="own thread"):
        client.create([["a"]])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_makes_connections_of_its_own(server):
    code = f"""
        import os, sys
        from ctxembed._client import Client
        from ctxembed._planning.limits import Limits
        client = Client("key", base_url={server.base_url!r}, max_retries=0, limits=Limits(documents=4))
        assert len(client.embed([["a"]])) == 1
        stream = client.stream([str(i)] for i in range(10**9))
        next(stream)
        child = os.fork()
        assert len(client.embed([["b"], ["c"]])) == 2
        if child == 0:
            try:
                next(stream)
            except RuntimeError as error:
                assert "fork" in str(error)
            client.close()
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        next(stream)
        assert len(client.embed([["d"]])) == 1
        print("done")
    """
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code)]
    result = subprocess.run(command, capture_output=True, check=False, text=True, timeout=30)
    assert (result.stdout, result.stderr, result.returncode) == ("done\n", "", 0)


@pytest.mark.parametrize("call", ["client.embed([['a']])", "list(client.stream([['a']]))", "client.create([['a']])"])
def test_ctrl_c_ends_a_call_at_once(fresh_server, call):
    server = fresh_server(latency=25.0)
    code = f"""
        import threading, time
        from ctxembed._client import Client
        client = Client("key", base_url={server.base_url!r})
        print("calling", flush=True)
        began = time.monotonic()
        try:
            {call}
        except KeyboardInterrupt:
            print("interrupted", not client._loop._loop.tasks, flush=True)
            raise
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "calling\n"
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert time.monotonic() - began < 5.0
    assert out == "interrupted True\n"
    assert err.strip().endswith("KeyboardInterrupt")
    assert process.returncode in (-signal.SIGINT, 130, 1)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancelling_the_caller_cancels_the_requests(server, control, backend):
    control.faults({"delay": 20, "times": 9})

    async def main():
        async with AsyncClient(KEY, base_url=server.base_url, limits=ctxembed.Limits(documents=1)) as client:
            with anyio.move_on_after(0.4) as scope:
                await client.embed(documents_of(9))
            assert scope.cancelled_caught
            assert busy(client) == []
            return len(await client.with_options(default_headers={"x-fault": '"none"'}).embed(documents_of(2)))

    began = time.monotonic()
    assert anyio.run(main, backend=backend) == 2
    assert time.monotonic() - began < 5


def test_importing_has_no_side_effect():
    code = """
        import os, sys, threading
        before = dict(os.environ)
        import ctxembed
        assert "httpx" not in sys.modules and "anyio" not in sys.modules, "loaded too early"
        import ctxembed._client
        assert threading.active_count() == 1
        assert dict(os.environ) == before
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=30)


# Clients of the caller's


def handler(request):
    import json

    return httpx.Response(200, content=answer(json.loads(request.content)["input"]))


def test_an_injected_client_is_used_and_never_closed(scripted):
    with httpx.Client(headers={"x-mine": "yes"}) as http:
        with Client(KEY, base_url=scripted.base_url, http_client=http, limits=ctxembed.Limits(documents=2)) as client:
            assert len(client.embed(documents_of(9))) == 9
        assert not http.is_closed
        assert {request["headers"]["x-mine"] for request in scripted.requests} == {"yes"}
        client = Client(KEY, base_url=scripted.base_url, http_client=http)
    with pytest.raises(ctxembed.ClosedClientError, match="http_client"):
        client.embed([["a"]])

    async def main():
        async with httpx.AsyncClient() as http:
            async with AsyncClient(KEY, base_url=scripted.base_url, http_client=http) as client:
                assert len(await client.embed(documents_of(9))) == 9
            assert not http.is_closed

    asyncio.run(main())


def test_a_mock_transport_will_do():
    with httpx.Client(transport=httpx.MockTransport(handler)) as http:
        assert len(Client(KEY, http_client=http).embed(documents_of(3))) == 3

    async def main():
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http:
            return len(await AsyncClient(KEY, http_client=http).embed(documents_of(3)))

    assert asyncio.run(main()) == 3
    assert anyio.run(main, backend="trio") == 3


def test_leaving_does_not_wait_for_an_injected_client(server, control):
    control.faults({"delay": 4, "times": 9})
    with httpx.Client(timeout=30) as http:
        client = Client(KEY, base_url=server.base_url, http_client=http)
        with ThreadPoolExecutor() as pool:
            call = pool.submit(client.embed, [["a"]])
            time.sleep(0.3)
            began = time.monotonic()
            client.close()
            with pytest.raises(ctxembed.ClosedClientError):
                call.result(timeout=5)
            assert time.monotonic() - began < 1


def test_an_async_client_that_is_closed_during_a_call_opens_nothing_anew(server, control):
    control.faults({"delay": 20, "times": 9})

    async def main():
        client = AsyncClient(KEY, base_url=server.base_url)
        copy = client.with_options(max_retries=2)
        task = asyncio.create_task(client.create([["a"]]))
        await asyncio.sleep(0.3)
        await client.aclose()
        with pytest.raises((ctxembed.ClosedClientError, ctxembed.APIConnectionError)):
            await task
        assert client._state.connections._transport is None
        with pytest.raises(ctxembed.ClosedClientError):
            await copy.create([["a"]])

    asyncio.run(asyncio.wait_for(main(), 15))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_long_documents_are_counted_outside_the_event_loop(server, control, backend):
    seen = set()

    def count(texts):
        seen.add(threading.current_thread() is threading.main_thread())
        return [10] * len(texts)

    async def main():
        async with AsyncClient(KEY, base_url=server.base_url, token_counter=count) as client:
            await client.embed([["short"]])
            assert seen == {True}
            with pytest.raises(ctxembed.InvalidDocumentsError):
                await client.embed([["long " * 300_000], []])
            assert seen == {True, False}

    anyio.run(main, backend=backend)


@pytest.mark.parametrize(("kind", "wrong"), [(Client, httpx.AsyncClient), (AsyncClient, httpx.Client)])
def test_an_injected_client_of_the_other_kind_is_refused(kind, wrong):
    with pytest.raises(TypeError, match="http_client must be an httpx"):
        kind(KEY, http_client=wrong())


def test_both_clients_have_the_same_methods_and_arguments():
    import inspect

    def public(kind):
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(AsyncClient) - public(Client) == {"aclose"}
    assert public(Client) - public(AsyncClient) == set()
    for name in ["__init__", *CALLS]:
        sync, other = (inspect.signature(getattr(kind, name)) for kind in (Client, AsyncClient))
        assert [(p.name, p.kind, p.default) for p in sync.parameters.values()] == [
            (p.name, p.kind, p.default) for p in other.parameters.values()
        ]
