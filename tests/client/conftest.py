"""What the tests of the client share: one face for both clients, a clock that does not wait, a scripted server."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import httpx
import numpy as np
import pytest
from ctxembed._client import AsyncClient, Client

KEY = "pplx-0123456789abcdefghijklmnopqrstuvwxyz"
DOCUMENTS = "/v1/contextualizedembeddings"
MODEL = "pplx-embed-context-v1-0.6b"


class FakeClock:
    """Seconds that pass only while somebody sleeps, and the middle of every random range."""

    def __init__(self, wall=1_000_000.0):
        self.slept = []
        self._now = 100.0
        self._wall = wall

    def monotonic(self):
        return self._now

    def wall(self):
        return self._wall + self._now - 100.0

    async def sleep(self, seconds):
        self.slept.append(round(seconds, 6))
        self._now += seconds
        await anyio.sleep(0)

    def random(self):
        return 0.5


class Driver:
    """Calls a client of one kind as if it were synchronous; each call has a client of its own."""

    def __init__(self, kind):
        self.kind = kind

    def __repr__(self):
        return self.kind

    def call(self, method, *args, _clock=None, _client=None, **options):
        client_options = {"api_key": KEY, "clock": _clock, **(_client or {})}
        if self.kind == "sync":
            with Client(**client_options) as client:
                result = getattr(client, method)(*args, **options)
                return list(result) if method == "stream" else result

        async def main():
            async with AsyncClient(**client_options) as client:
                result = getattr(client, method)(*args, **options)
                return [part async for part in result] if method == "stream" else await result

        return anyio.run(main, backend=self.kind)

    def __getattr__(self, method):
        return partial(self.call, method)


def busy(client):
    """The connections of a client that carry a request, whichever transport they belong to."""
    transport = client._state.connections._transport
    if client.transport == "httpx":
        pool = transport._client._transport._pool
        return [connection for connection in pool.connections if not connection.is_idle()]
    return list(transport._session.connector._acquired)


@pytest.fixture(params=["sync", "asyncio", "trio"])
def driver(request):
    """Each way to call the API: ``driver.embed(documents, _client={...constructor's options}, ...)``."""
    return Driver(request.param)


@pytest.fixture
def clock():
    return FakeClock()


@dataclass
class Control:
    """A server's own endpoints."""

    base_url: str
    http: httpx.Client = field(repr=False, default=None)

    def faults(self, *plan):
        self.http.post(self.base_url + "/faults", json=list(plan)).raise_for_status()

    def plan(self, **plan):
        self.http.post(self.base_url + "/faults", json=plan).raise_for_status()

    def stats(self):
        return self.http.get(self.base_url + "/stats").json()

    def settled(self):
        """The counters, once the server has noticed the clients that did not wait for it."""
        deadline = time.monotonic() + 10
        while (stats := self.stats())["in_flight"] and time.monotonic() < deadline:
            time.sleep(0.01)
        return stats

    def clear(self):
        """Counters at zero, and nothing of an earlier test that counts later."""
        self.settled()
        self.http.delete(self.base_url + "/stats").raise_for_status()


@pytest.fixture
def control(server):
    """The shared server with counters at zero."""
    with httpx.Client(trust_env=False) as http:
        one = Control(server.base_url, http)
        one.clear()
        yield one


@pytest.fixture
def control_of():
    with httpx.Client(trust_env=False) as http:
        yield lambda server: Control(server.base_url, http)


def documents_of(count, most=4):
    """Documents of one to ``most`` chunks, all texts different."""
    return [[f"document {i}, chunk {j}: text" for j in range(1 + i % most)] for i in range(count)]


def rows_of(text, dimensions=1024):
    """The vector that the scripted server gives a text."""
    digest = hashlib.shake_128(text.encode()).digest(dimensions)
    return np.maximum(np.frombuffer(digest, np.int8), -127)


def answer(documents, model=MODEL, **extra):
    """A good response body."""
    data = [
        {
            "index": i,
            "data": [
                {"index": j, "embedding": base64.b64encode(rows_of(text).tobytes()).decode()}
                for j, text in enumerate(chunks)
            ],
        }
        for i, chunks in enumerate(documents)
    ]
    tokens = sum(len(text) for chunks in documents for text in chunks)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "cost": {"total_cost": tokens * 1e-9}}
    return json.dumps({"data": data, "model": model, "usage": usage, **extra}).encode()


class Scripted:
    """A server whose answers a test writes: ``script(request) -> (status, headers, body)``."""

    def __init__(self):
        self.requests = []
        self.script = lambda request: (200, {}, answer(request["input"]))
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                request = json.loads(body)
                request["path"], request["headers"] = self.path, {k.lower(): v for k, v in self.headers.items()}
                outer.requests.append(request)
                status, headers, payload = outer.script(request)
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                pass  # clients leave as they like

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def scripted():
    server = Scripted()
    yield server
    server.close()


def squeezed(data):
    return gzip.compress(data)
