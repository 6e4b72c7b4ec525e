"""The synchronous client where the system starts no more threads: the caller's thread does the work."""

from __future__ import annotations

import gc
import queue
import signal
import subprocess
import sys
import textwrap
import threading

import ctxembed
import numpy as np
import pytest
from ctxembed import Client

from .conftest import KEY, make_documents


@pytest.fixture
def no_threads(monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name.startswith("ctxembed"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.fixture(params=["httpx", "aiohttp"])
def client(server, no_threads, request):
    base_url = server.base_url.replace("127.0.0.1", "localhost")
    limits = ctxembed.Limits(documents=2)
    with Client(KEY, base_url=base_url, transport=request.param, limits=limits, max_concurrency=3) as client:
        yield client


def test_all_calls_work(server, client):
    documents = make_documents(9)
    with Client(KEY, base_url=server.base_url) as other:
        expected = other.embed(documents).vectors
    for _ in range(2):
        np.testing.assert_array_equal(client.embed(documents).vectors, expected)
    assert len(client.create([["a"]])) == 1
    assert len(client.embed_queries(["a", "b"])) == 2
    assert len(client.embed_texts(["a", "b"])) == 2
    parts = list(client.stream(documents, ordered=True))
    np.testing.assert_array_equal(np.concatenate([part.vectors for part in parts]), expected)


def test_streams_and_calls_alternate(client):
    first, second = client.stream(make_documents(20)), client.stream(make_documents(30))
    count = 0
    for part, other in zip(first, second, strict=False):
        count += len(part) + len(other)
        assert len(client.embed([["a"]])) == 1
    assert count >= 40
    first.close()
    second.close()


def test_several_threads_share_the_loop(client):
    results = queue.SimpleQueue()

    def work():
        for _ in range(5):
            results.put(len(client.embed(make_documents(3))))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results.get() for _ in range(results.qsize())] == [3] * 30


def test_closing_cancels_a_call_of_another_thread(client, control):
    control.faults({"delay": 20, "times": 5})
    errors = queue.SimpleQueue()

    def work():
        try:
            client.embed([["a"]])
        except ctxembed.ClosedClientError as error:
            errors.put(error)

    thread = threading.Thread(target=work)
    thread.start()
    control.wait_for_in_flight(1)
    client.close()
    thread.join()
    assert errors.qsize() == 1
    with pytest.raises(ctxembed.ClosedClientError):
        client.embed([["a"]])


def test_a_dropped_stream_cancels_its_requests(client, control):
    control.faults("none", *[{"delay": 20}] * 9)
    stream = client.stream(make_documents(50))
    next(stream)
    del stream
    gc.collect()
    control.wait_until_idle()


def test_a_call_from_its_own_callable_is_an_error(server, no_threads):
    client = Client(lambda: str(client.embed([["a"]])), base_url=server.base_url)
    with client, pytest.raises(RuntimeError, match="own thread"):
        client.create([["a"]])


def test_ctrl_c_keeps_the_vectors_so_far(fresh_server, control_of):
    server = fresh_server(latency=0)
    control = control_of(server)
    control.faults("none", *[{"delay": 50}] * 9)
    code = f"""
        import threading
        start = threading.Thread.start
        def refuse(thread):
            raise RuntimeError("can't start new thread")
        threading.Thread.start = refuse
        import ctxembed
        client = ctxembed.Client("key-1234", base_url={server.base_url!r}, limits=ctxembed.Limits(documents=1))
        try:
            client.embed([["a"], ["b"], ["c"]], progress=lambda _: print("sent", flush=True))
        except KeyboardInterrupt as error:
            print(len(error.partial.vectors), flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "sent\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "1\n"
    control.wait_until_idle()
