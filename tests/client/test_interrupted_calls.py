"""A call that is interrupted carries the partial result, an ``Embeddings`` of all that succeeded."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import ctxembed
import numpy as np
import pytest
from ctxembed._client import AsyncClient, Client

from .conftest import KEY, make_documents

ONE = ctxembed.Limits(documents=1)


def test_ctrl_c_carries_the_partial_result(fresh_server, control_of):
    server = fresh_server()
    control = control_of(server)
    control.faults("none", "none", *[{"delay": 25}] * 9)
    code = f"""
        import ctxembed
        from ctxembed._client import Client
        client = Client("key", base_url={server.base_url!r}, limits=ctxembed.Limits(documents=1), max_concurrency=1)
        try:
            client.embed([["a"], ["b"], ["c"], ["d"]], progress=lambda p: print(p.documents_done, flush=True))
        except KeyboardInterrupt as interrupt:
            partial = interrupt.partial
            print(len(partial), [len(rows) for rows in partial], [f.document for f in partial.failures], flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "1\n"
        assert process.stdout.readline() == "2\n"
        control.wait_for_in_flight(1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    finally:
        process.kill()
        process.wait()
    assert out == "4 [1, 1, 0, 0] [2, 3]\n"


def test_an_exception_in_progress_carries_the_partial_result(driver, server_options):
    def progress(event):
        if event.documents_done == 2:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough") as caught:
        driver.embed(
            make_documents(4), progress=progress, _client={**server_options, "limits": ONE, "max_concurrency": 1}
        )
    assert len(caught.value.partial[0]) == 1
    assert len(caught.value.partial) == 4
    assert {failure.document for failure in caught.value.partial.failures} <= {2, 3}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancellation_carries_the_partial_result(server, control, backend):
    control.faults("none", *[{"delay": 25}] * 9)
    partials = []

    async def main():
        async with AsyncClient(KEY, base_url=server.base_url, limits=ONE, max_concurrency=1) as client:
            with anyio.CancelScope() as scope:
                try:
                    await client.embed(make_documents(3), progress=lambda event: scope.cancel())
                except anyio.get_cancelled_exc_class() as cancelled:
                    partials.append(cancelled.partial)
                    raise

    anyio.run(main, backend=backend)
    [partial] = partials
    assert np.diff(partial.offsets).tolist() == [1, 0, 0]
    assert [failure.document for failure in partial.failures] == [1, 2]


@pytest.mark.parametrize("function", ["timeout", "wait_for"])
def test_an_asyncio_timeout_carries_the_partial_result_in_its_cause(server, control, function):
    control.faults("none", *[{"delay": 25}] * 9)

    async def main():
        async with AsyncClient(KEY, base_url=server.base_url, limits=ONE, max_concurrency=1) as client:
            if function == "wait_for":
                await asyncio.wait_for(client.embed(make_documents(3)), 2)
            else:
                async with asyncio.timeout(None) as limit:
                    await client.embed(make_documents(3), progress=lambda event: limit.reschedule(0))

    with pytest.raises(TimeoutError) as caught:
        asyncio.run(main())
    assert np.diff(caught.value.__cause__.partial.offsets).tolist() == [1, 0, 0]


def test_closing_from_another_thread_carries_the_partial_result(server, control):
    control.faults("none", *[{"delay": 25}] * 9)
    client = Client(KEY, base_url=server.base_url, limits=ONE, max_concurrency=1)
    first = threading.Event()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(client.embed, make_documents(3), progress=lambda event: first.set())
        first.wait()
        client.close()
        with pytest.raises(ctxembed.ClosedClientError) as caught:
            call.result()
    assert np.diff(caught.value.partial.offsets).tolist() == [1, 0, 0]


def test_ctrl_c_before_the_first_request_carries_an_empty_partial_result(server):
    code = f"""
        import os, signal, ctxembed
        def documents():
            yield ["a"]
            os.kill(os.getpid(), signal.SIGINT)
            yield ["b"]
        def count(texts):
            os.kill(os.getpid(), signal.SIGINT)
            return [1] * len(texts)
        for client, rows in [
            (ctxembed.Client("key-1234", base_url={server.base_url!r}), documents()),
            (ctxembed.Client("key-1234", base_url={server.base_url!r}, token_counter=count), [["a"]]),
        ]:
            try:
                client.embed(rows, dimensions=128)
            except KeyboardInterrupt as interrupt:
                print(len(interrupt.partial), interrupt.partial.vectors.shape)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("0 (0, 128)\n" * 2, "")


def test_cancelling_a_task_while_a_worker_thread_plans_carries_an_empty_partial_result(server):
    counting, cancelled = threading.Event(), threading.Event()

    def count(texts):
        counting.set()
        cancelled.wait()
        return [1] * len(texts)

    async def main():
        async with AsyncClient(KEY, base_url=server.base_url, token_counter=count) as client:
            task = asyncio.create_task(client.embed([["a" * 2_000_000]]))
            await asyncio.to_thread(counting.wait)
            task.cancel()
            cancelled.set()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            return caught.value.partial

    assert len(asyncio.run(main())) == 0
