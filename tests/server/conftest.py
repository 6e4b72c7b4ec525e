"""Helpers for the server tests: a plain HTTP client, a codec independent of the package, and a controlled clock."""

from __future__ import annotations

import asyncio
import base64
import json
import socket

import httpx
import numpy as np
import pytest
from ctxembed._backends.hashed import HashedEmbedder
from ctxembed._server import ServerConfig, create_app
from ctxembed._server.clock import Clock

DOCUMENTS = "/v1/contextualizedembeddings"
TEXTS = "/v1/embeddings"
CONTEXT_MODEL = "pplx-embed-context-v1-0.6b"
TEXT_MODEL = "pplx-embed-v1-0.6b"


class Api:
    """Sends single requests and returns the responses."""

    def __init__(self, base_url: str, key: str = "a-key") -> None:
        self.http = httpx.Client(
            base_url=base_url, headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=False
        )

    def documents(self, documents, *, headers=None, model=CONTEXT_MODEL, **options):
        body = {"input": documents, "model": model, **options}
        return self.http.post(DOCUMENTS, json=body, headers=headers)

    def texts(self, texts, *, headers=None, model=TEXT_MODEL, **options):
        return self.http.post(TEXTS, json={"input": texts, "model": model, **options}, headers=headers)

    def vectors(self, documents, **options):
        """Embed documents; return one matrix, its rows placed by the response's indexes."""
        response = self.documents(documents, **options)
        assert response.status_code == 200, response.text
        return matrix(response.json()["data"], bits=options.get("encoding_format") == "base64_binary")

    def stats(self):
        return self.http.get("/stats").json()


def row(text, *, bits=False):
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8 if bits else np.int8)


def matrix(data, *, bits=False):
    rows = [
        row(item["embedding"], bits=bits)
        for document in sorted(data, key=lambda entry: entry["index"])
        for item in sorted(document["data"], key=lambda entry: entry["index"])
    ]
    return np.stack(rows)


@pytest.fixture
def connect():
    """Return a function that opens an API client for a server. The clients close with the test."""
    opened = []

    def open_one(server, **options) -> Api:
        opened.append(Api(server.base_url, **options))
        return opened[-1]

    yield open_one
    for api in opened:
        api.http.close()


@pytest.fixture
def api(server, connect):
    """A client of the shared server."""
    return connect(server)


class FakeClock(Clock):
    """Stands still until a test moves it, and records pauses instead of waiting."""

    def __init__(self):
        self.now = 0.0
        self.pauses = []

    def monotonic(self):
        return self.now

    def wall(self):
        return self.now

    async def pause(self, seconds, stopping, receive=None):
        if seconds > 0:
            self.pauses.append(seconds)


@pytest.fixture
def clock():
    """The clock of ``in_process`` and of a test's own responses."""
    return FakeClock()


@pytest.fixture
def in_process(clock):
    """Return a function that sends requests to an application without a server around it.

    A call is ``(method, path, options)``; a number moves the clock by that many seconds.
    """

    def run(*calls, address="127.0.0.1", embedder=None, **options):
        config = ServerConfig(**options)

        async def send_all():
            app = create_app(config, embedder or HashedEmbedder(config.models), clock=clock)
            transport = httpx.ASGITransport(app, client=(address, 1))
            headers = {"authorization": "Bearer k"}
            responses = []
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
                for call in calls:
                    if isinstance(call, tuple):
                        method, path, options = call
                        responses.append(await client.request(method, path, **options))
                    else:
                        clock.now += call
            return responses

        return asyncio.run(send_all())

    return run


def text_call(text="a", *, fault=None):
    """A call for ``in_process`` that embeds one text."""
    headers = {} if fault is None else {"x-fault": json.dumps(fault)}
    return "POST", TEXTS, {"json": {"input": text, "model": TEXT_MODEL}, "headers": headers}


@pytest.fixture
def embed_text():
    return text_call


@pytest.fixture
def open_request():
    """Return a function that sends a request over a socket and returns the socket. The sockets close with the test."""
    opened = []

    def send(server, fault, **body):
        host, port = server.base_url.removeprefix("http://").split(":")
        content = json.dumps({"input": "a", "model": TEXT_MODEL, **body})
        opened.append(socket.create_connection((host, int(port)), timeout=10))
        opened[-1].sendall(
            f"POST {TEXTS} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer k\r\ncontent-type: application/json\r\n"
            f"x-fault: {json.dumps(fault)}\r\ncontent-length: {len(content)}\r\n\r\n{content}".encode()
        )
        return opened[-1]

    yield send
    for connection in opened:
        connection.close()


@pytest.fixture
def receive_all(open_request):
    """Return a function that sends a request and returns all bytes until the server closes the connection."""

    def receive(server, fault, **body):
        connection = open_request(server, fault, **body)
        return b"".join(iter(lambda: connection.recv(65536), b""))

    return receive
