"""Fixtures of the search client's tests: a driver for both clients, and a scripted server."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import pytest
from ctxembed import AsyncSearchClient, SearchClient

KEY = "search-0123456789abcdefghijklmnop"
HIT = {
    "document": "heron",
    "chunk": 1,
    "score": 0.5,
    "text": "It caught a fish.",
    "metadata": {"year": 2020, "tags": ["a"]},
    "span": [30, 47],
    "vector_score": 0.5,
    "text_score": None,
    "source": "a.md",
    "passage": "It caught a fish.",
    "passage_chunks": [1, 2],
    "passage_span": [30, 47],
    "passage_offset": 0,
}
COLLECTION = {"name": "corpus", "dimensions": 128, "encoding_format": "base64_int8", "space": "a space"}


class Driver:
    """Calls the methods of one kind of client as if they were synchronous. Each call creates a client."""

    def __init__(self, kind):
        self.kind = kind

    def __repr__(self):
        return self.kind

    def call(self, method, url, *args, _client=None, **options):
        client_options = {"api_key": KEY, **(_client or {})}
        if self.kind == "sync":
            with SearchClient(url, **client_options) as client:
                return getattr(client, method)(*args, **options)

        async def main():
            async with AsyncSearchClient(url, **client_options) as client:
                return await getattr(client, method)(*args, **options)

        return anyio.run(main, backend=self.kind)

    def __getattr__(self, method):
        return partial(self.call, method)


@pytest.fixture(params=["sync", "asyncio", "trio"])
def driver(request):
    """A driver for each kind of client: ``driver.search(url, query, _client={**constructor_options}, ...)``."""
    return Driver(request.param)


@dataclass
class Request:
    method: str
    path: str
    headers: dict
    body: object


class ScriptedServer:
    """A server whose responses a test scripts: ``script(request)`` returns status, headers, and JSON or bytes."""

    def __init__(self):
        self.requests = []
        self.script = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self):
                raw = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, json.loads(raw) if raw else None)
                outer.requests.append(request)
                status, headers, payload = outer.script(request)
                payload = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
                self.send_response(status)
                for name, value in {
                    "content-type": "application/json", "content-length": str(len(payload)), **headers,
                }.items():  # fmt: skip
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(payload)

            do_GET = do_POST = respond  # noqa: N815

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                pass  # clients may disconnect at any time

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def scripted():
    server = ScriptedServer()
    yield server
    server.close()


def hits_response(*hits):
    return 200, {}, {"object": "search", "collection": "corpus", "hits": list(hits)}


def refusal(status, message, **headers):
    return status, headers, {"error": {"message": message, "type": "any", "code": status}}
