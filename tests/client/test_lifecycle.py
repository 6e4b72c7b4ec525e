"""The life of a client: closing, copying, threads, event loops, forks, signals and injected HTTP clients."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.to_thread
import ctxembed
import httpx
import numpy as np
import pytest
from ctxembed._client import AsyncClient, Client

from .conftest import KEY, make_documents, response_body

CALLS = {
    "embed": [["a"]],
    "embed_queries": ["a"],
    "embed_texts": ["a"],
    "create": [["a"]],
    "stream": [["a"]],
}


def client_threads():
    return [thread for thread in threading.enumerate() if thread.name == "ctxembed"]


# Closing


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_client_raises(server, call):
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
    assert client_threads() == []
    assert repr(client).endswith("closed)")

    async def main():
        client = AsyncClient(KEY, base_url=server.base_url)
        await client.embed([["a"]])
        await client.aclose()
        await client.close()
        with pytest.raises(ctxembed.ClosedClientError):
            await getattr(client, call)(CALLS[call])

    asyncio.run(main())


def test_an_unused_client_can_be_closed(server):
    Client(KEY).close()
    asyncio.run(AsyncClient(KEY).aclose())
    assert client_threads() == []


def test_the_thread_starts_with_the_first_call(server):
    client = Client(KEY, base_url=server.base_url)
    stream = client.stream([["a"]])
    assert client_threads() == []
    next(stream)
    assert len(client_threads()) == 1
    client.close()


def test_closing_cancels_calls_in_other_threads(server, control):
    control.faults({"delay": 20, "times": 5})
    client = Client(KEY, base_url=server.base_url)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(client.embed, [["a"]])
        stream = pool.submit(lambda: list(client.stream([["a"]])))
        control.wait_for_in_flight(2)
        client.close()
        for pending in (call, stream):
            with pytest.raises(ctxembed.ClosedClientError):
                pending.result()
    assert control.wait_until_idle()["by_status"].get("200", 0) == 0


def test_collecting_a_client_ends_its_thread(server):
    client = Client(KEY, base_url=server.base_url)
    client.embed([["a"]])
    reference = weakref.ref(client)
    del client
    gc.collect()
    assert reference() is None
    assert client_threads() == []


def test_collecting_a_stream_cancels_its_requests(server, control):
    control.faults("none", *[{"delay": 20}] * 9)
    limits = ctxembed.Limits(documents=1)
    with Client(KEY, base_url=server.base_url, limits=limits, max_concurrency=2) as client:
        stream = client.stream(make_documents(50))
        next(stream)
        control.wait_for_in_flight(2)
        del stream
        gc.collect()
        control.wait_until_idle()


def test_the_interpreter_exits_with_an_open_client(server):
    code = f"""
        from ctxembed._client import Client
        client = Client("key", base_url={server.base_url!r})
        stream = client.stream([str(i)] for i in range(10**9))
        next(stream)
        print("done")
    """
    command = [sys.executable, "-W", "default", "-c", textwrap.dedent(code)]
    result = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (result.stdout, result.stderr, result.returncode) == ("done\n", "", 0)


# Copies


def test_a_copy_shares_connections_and_limiters(server, control):
    client = Client(KEY, base_url=server.base_url)
    client.create([["a"]])
    copy = client.with_options(max_retries=0, default_headers={"x-fault": '"500"'})
    with pytest.raises(ctxembed.InternalServerError):
        copy.create([["a"]])
    assert len(client_threads()) == 1
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
    assert client_threads() == []


def test_a_copy_can_have_its_own_http_client(scripted_server):
    with httpx.Client() as http, Client(KEY, base_url=scripted_server.base_url) as client:
        with client.with_options(http_client=http) as copy:
            copy.create([["a"]])
        client.create([["a"]])
        assert len(scripted_server.requests) == 2


# Threads, loops, processes, signals


def test_many_threads_share_a_client(server, control):
    control.faults({"delay": 0.05, "times": 40})
    documents = make_documents(40)
    with Client(KEY, base_url=server.base_url, max_concurrency=4) as client:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda document: client.embed([document]), documents))
        whole = client.embed(documents)
        assert len(client_threads()) == 1
    np.testing.assert_array_equal(np.concatenate([emb.vectors for emb in results]), whole.vectors)
    assert control.stats()["peak_in_flight"] == 4


def test_the_sync_client_works_inside_a_running_event_loop(server):
    async def main():
        with Client(KEY, base_url=server.base_url) as client:
            parts = list(client.stream(make_documents(9)))
            return len(client.embed([["a"]])), sum(map(len, parts))

    assert asyncio.run(main()) == (1, 9)


def test_an_async_client_works_in_successive_event_loops(server):
    client = AsyncClient(KEY, base_url=server.base_url, max_concurrency=2)

    async def embed():
        return len(await client.embed(make_documents(5)))

    async def embed_and_close():
        async with client:
            return await embed()

    assert asyncio.run(embed()) == 5
    assert asyncio.run(embed()) == 5
    assert anyio.run(embed_and_close, backend="trio") == 5


def test_a_call_from_the_clients_own_thread_is_an_error(server):
    client = Client(lambda: str(len(client.embed([["a"]]))), base_url=server.base_url)
    with client, pytest.raises(RuntimeError, match="own thread"):
        client.create([["a"]])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_opens_its_own_connections(server):
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
    result = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (result.stdout, result.stderr, result.returncode) == ("done\n", "", 0)


@pytest.mark.parametrize("call", ["client.embed([['a']])", "list(client.stream([['a']]))", "client.create([['a']])"])
def test_ctrl_c_cancels_a_call(fresh_server, control_of, call):
    server = fresh_server(latency=100.0)
    control = control_of(server)
    code = f"""
        import sys
        from ctxembed._client import Client
        client = Client("key", base_url={server.base_url!r})
        try:
            {call}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.stdin.readline()
            raise
    """
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], **pipes, text=True)
    try:
        control.wait_for_in_flight(1)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        control.wait_until_idle()
        out, err = process.communicate("\n")
    finally:
        process.kill()
        process.wait()
    assert out == ""
    assert err.strip().endswith("KeyboardInterrupt")
    assert process.returncode in (-signal.SIGINT, 130, 1)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancelling_the_caller_cancels_the_requests(server, control, backend):
    control.faults({"delay": 20, "times": 9})

    async def main():
        limits = ctxembed.Limits(documents=1)
        async with AsyncClient(KEY, base_url=server.base_url, limits=limits, max_concurrency=2) as client:
            async with anyio.create_task_group() as group:
                group.start_soon(client.embed, make_documents(9))
                await anyio.to_thread.run_sync(control.wait_for_in_flight, 2)
                group.cancel_scope.cancel()
            await anyio.to_thread.run_sync(control.wait_until_idle)
            return len(await client.with_options(default_headers={"x-fault": '"none"'}).embed(make_documents(2)))

    assert anyio.run(main, backend=backend) == 2


def test_import_has_no_side_effects():
    code = """
        import os, sys, threading
        before = dict(os.environ)
        import ctxembed
        assert "httpx" not in sys.modules and "anyio" not in sys.modules, "loaded too early"
        import ctxembed._client
        assert threading.active_count() == 1
        assert dict(os.environ) == before
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


# Injected HTTP clients


def handle(request):
    return httpx.Response(200, content=response_body(json.loads(request.content)["input"]))


def test_an_injected_client_is_used_and_never_closed(scripted_server):
    with httpx.Client(headers={"x-mine": "yes"}) as http:
        with Client(
            KEY, base_url=scripted_server.base_url, http_client=http, limits=ctxembed.Limits(documents=2)
        ) as client:
            assert len(client.embed(make_documents(9))) == 9
        assert not http.is_closed
        assert {request["headers"]["x-mine"] for request in scripted_server.requests} == {"yes"}
        client = Client(KEY, base_url=scripted_server.base_url, http_client=http)
    with pytest.raises(ctxembed.ClosedClientError, match="http_client"):
        client.embed([["a"]])

    async def main():
        async with httpx.AsyncClient() as http:
            async with AsyncClient(KEY, base_url=scripted_server.base_url, http_client=http) as client:
                assert len(await client.embed(make_documents(9))) == 9
            assert not http.is_closed

    asyncio.run(main())


def test_an_injected_client_can_use_a_mock_transport():
    with httpx.Client(transport=httpx.MockTransport(handle)) as http:
        assert len(Client(KEY, http_client=http).embed(make_documents(3))) == 3

    async def main():
        async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as http:
            return len(await AsyncClient(KEY, http_client=http).embed(make_documents(3)))

    assert asyncio.run(main()) == 3
    assert anyio.run(main, backend="trio") == 3


def test_close_does_not_wait_for_an_injected_client(scripted_server):
    received, finish = threading.Event(), threading.Event()

    def script(request):
        received.set()
        finish.wait()
        return 200, {}, response_body(request["input"])

    scripted_server.script = script
    with httpx.Client(timeout=None) as http:
        client = Client(KEY, base_url=scripted_server.base_url, http_client=http)
        with ThreadPoolExecutor() as pool:
            call = pool.submit(client.embed, [["a"]])
            received.wait()
            client.close()
            with pytest.raises(ctxembed.ClosedClientError):
                call.result()
            assert client_threads() == []
            finish.set()


def test_closing_an_async_client_during_a_call_opens_no_connection(server, control):
    control.faults({"delay": 20, "times": 9})

    async def main():
        client = AsyncClient(KEY, base_url=server.base_url)
        copy = client.with_options(max_retries=2)
        task = asyncio.create_task(client.create([["a"]]))
        await asyncio.to_thread(control.wait_for_in_flight, 1)
        await client.aclose()
        with pytest.raises((ctxembed.ClosedClientError, ctxembed.APIConnectionError)):
            await task
        with pytest.raises(ctxembed.ClosedClientError):
            await copy.create([["a"]])

    asyncio.run(main())
    assert control.wait_until_idle()["requests"] == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_long_documents_are_counted_outside_the_event_loop(server, control, backend):
    in_main_thread = set()

    def count(texts):
        in_main_thread.add(threading.current_thread() is threading.main_thread())
        return [10] * len(texts)

    async def main():
        async with AsyncClient(KEY, base_url=server.base_url, token_counter=count) as client:
            await client.embed([["short"]])
            assert in_main_thread == {True}
            with pytest.raises(ctxembed.InvalidDocumentsError):
                await client.embed([["long " * 300_000], []])
            assert in_main_thread == {True, False}

    anyio.run(main, backend=backend)


@pytest.mark.parametrize(("kind", "wrong"), [(Client, httpx.AsyncClient), (AsyncClient, httpx.Client)])
def test_an_injected_client_of_the_other_kind_is_refused(kind, wrong):
    with pytest.raises(TypeError, match="http_client must be an httpx"):
        kind(KEY, http_client=wrong())
