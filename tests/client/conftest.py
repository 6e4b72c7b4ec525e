"""Fixtures of the client's tests: a driver for both clients, a clock that does not wait, and a scripted server."""

from __future__ import annotations

import base64
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
MODEL = "pplx-embed-context-v1-0.6b"


class FakeClock:
    """A clock that advances only when something sleeps on it. Its random number is always 0.5."""

    def __init__(self, wall=1_000_000.0):
        self.slept = []
        self._now = 100.0
        self._wall = wall

    def monotonic(self):
        return self._now

    def wall(self):
        return self._wall + self._now - 100.0

    def advance(self, seconds):
        self._now += seconds

    async def sleep(self, seconds):
        self.slept.append(round(seconds, 6))
        self.advance(seconds)
        await anyio.sleep(0)

    def random(self):
        return 0.5


class Driver:
    """Calls the methods of one kind of client as if they were synchronous. Each call creates a client."""

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


@pytest.fixture(params=["sync", "asyncio", "trio"])
def driver(request):
    """A driver for each kind of client: ``driver.embed(documents, _client={**constructor_options}, ...)``."""
    return Driver(request.param)


@pytest.fixture
def server_options(server):
    """Options that connect a client to the shared server."""
    return {"base_url": server.base_url}


@pytest.fixture
def clock():
    return FakeClock()


@dataclass
class ServerControl:
    """The server's endpoints for tests."""

    base_url: str
    http: httpx.Client = field(repr=False, default=None)

    def faults(self, *plan):
        self.http.post(self.base_url + "/faults", json=list(plan)).raise_for_status()

    def plan(self, **plan):
        self.http.post(self.base_url + "/faults", json=plan).raise_for_status()

    def stats(self):
        return self.http.get(self.base_url + "/stats").json()

    def wait_for_in_flight(self, count):
        """Wait until the server handles ``count`` requests, and return its counters."""
        for _ in range(3000):
            if (stats := self.stats())["in_flight"] == count:
                return stats
            time.sleep(0.01)
        raise AssertionError(f"expected {count} requests in flight, got {stats}")

    def wait_until_idle(self):
        """Wait until the server has noticed every client that disconnected, and return its counters."""
        return self.wait_for_in_flight(0)

    def reset(self):
        """Set the counters to zero, after all requests of earlier tests have ended."""
        self.wait_until_idle()
        self.http.delete(self.base_url + "/stats").raise_for_status()


@pytest.fixture
def control(server):
    """The control of the shared server, its counters at zero."""
    with httpx.Client(trust_env=False) as http:
        one = ServerControl(server.base_url, http)
        one.reset()
        yield one


@pytest.fixture
def control_of():
    with httpx.Client(trust_env=False) as http:
        yield lambda server: ServerControl(server.base_url, http)


def make_documents(count, max_chunks=4):
    """Return documents of one to ``max_chunks`` chunks; all texts differ."""
    return [[f"document {i}, chunk {j}: text" for j in range(1 + i % max_chunks)] for i in range(count)]


def vector_of(text, dimensions=1024):
    """Return the vector that the scripted server gives a text."""
    digest = hashlib.shake_128(text.encode()).digest(dimensions)
    return np.maximum(np.frombuffer(digest, np.int8), -127)


def response_body(documents, model=MODEL, **extra):
    """Return the body of a correct response."""
    data = [
        {
            "index": i,
            "data": [
                {"index": j, "embedding": base64.b64encode(vector_of(text).tobytes()).decode()}
                for j, text in enumerate(chunks)
            ],
        }
        for i, chunks in enumerate(documents)
    ]
    tokens = sum(len(text) for chunks in documents for text in chunks)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "cost": {"total_cost": tokens * 1e-9}}
    return json.dumps({"data": data, "model": model, "usage": usage, **extra}).encode()


class ScriptedServer:
    """A server whose responses a test scripts: ``script(request)`` returns status, headers and body.

    ``connections`` counts those that were opened; ``closed`` is set when the server has closed one.
    """

    def __init__(self):
        self.requests = []
        self.connections = 0
        self.closed = threading.Event()
        self.script = lambda request: (200, {}, response_body(request["input"]))
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else the body waits for the acknowledgement of the headers

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                request = json.loads(body)
                request["raw"] = body
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
            def process_request(self, request, client_address):
                outer.connections += 1
                super().process_request(request, client_address)

            def shutdown_request(self, request):
                super().shutdown_request(request)
                outer.closed.set()

            def handle_error(self, request, client_address):
                pass  # clients may disconnect at any time

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
def scripted_server():
    server = ScriptedServer()
    yield server
    server.close()
